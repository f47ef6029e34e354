"""Running a scripted agent in a real engine, to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from eventbus_tasks import AgentActivity, Outcome, Task, TaskEnded, TaskEngine, TaskEvent
from eventbus_tasks.testing.agents.scripted import ScriptedCli, ScriptStep

__all__ = ["AgentRun", "play_agent"]

E = TypeVar("E", bound=TaskEvent)

_COMMON = frozenset({"event", "task", "seq", "at", "stream", "start", "end", "parent"})


@dataclass(kw_only=True)
class AgentRun:
    """What came of one task of an agent.

    Attributes:
        task: The task.
        outcome: Its end.
        events: All of its events, in order.
    """

    task: Task
    outcome: Outcome
    events: list[TaskEvent]

    @property
    def activities(self) -> list[AgentActivity]:
        """What the agent did, in order."""
        return self.of(AgentActivity)

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def plain(self) -> list[tuple[Any, ...]]:
        """Return what the agent did as ``(wire name, field, field …)``.

        The wire names are without ``agent.``, and fields that every event has are left out.
        """
        found = []
        for event in self.activities:
            values = (value for name, value in event.to_dict().items() if name not in _COMMON)
            found.append((event.name.removeprefix("agent."), *values))
        return found


async def play_agent(
    cli: ScriptedCli,
    steps: Sequence[ScriptStep],
    project: Path,
    *,
    agent: str,
    plugins: Mapping[str, object],
    prompt: str = "do it",
    env: Mapping[str, str] | None = None,
    until: Callable[[Task, TaskEvent], Any] | None = None,
    **request: Any,
) -> AgentRun:
    """Let a scripted agent play some steps, as a task in an engine of its own.

    Args:
        cli: The scripted program.
        steps: What it plays.
        project: The project directory.
        agent: The agent.
        plugins: The plugins of the engine by name; no installed ones are loaded.
        prompt: What the agent is told.
        env: More variables for it.
        until: Is called with the task and each of its events.
        request: More of what `TaskEngine.spawn_task` takes.
    """
    environment = {**cli.environment(*steps), **(env or {})}
    events: list[TaskEvent] = []
    async with TaskEngine(plugins=plugins, load_installed=False) as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await engine.spawn_task(
                "work", prompt, project, agent=agent, env=environment, **request
            )
            async for event in stream:
                events.append(event)
                if until is not None:
                    until(task, event)
                if isinstance(event, TaskEnded):
                    break
        return AgentRun(task=task, outcome=await task.wait(), events=events)

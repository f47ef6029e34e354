"""Running the scripted agent in a real engine, and talking to it meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import eventbus_tasks_acp
from fake_acp import FakeAgent, Manners

from eventbus_tasks import Settings, Task, TaskEnded, TaskEngine, TaskEvent
from eventbus_tasks.testing.agents import AgentRun

__all__ = ["Talk"]

PLUGINS = {"acp": eventbus_tasks_acp}

React = Callable[[Task, TaskEvent], Awaitable[Any]]


class Talk:
    """A project, and the scripted agent that works in it.

    Args:
        directory: Where both are.
    """

    def __init__(self, directory: Path) -> None:
        self.agent = FakeAgent(directory / "bin")
        self.project = directory / "project"
        self.project.mkdir()

    async def play(
        self,
        prompt: str,
        react: React | None = None,
        *,
        manners: Manners | None = None,
        options: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        **request: Any,
    ) -> AgentRun:
        """Run one task to its end, in an engine of its own.

        Args:
            prompt: The steps of the first turn.
            react: Is called with the task and each of its events, and may talk to the agent.
            manners: How the agent behaves outside of turns.
            options: Options of the request beside ``command``.
            settings: Settings of the engine.
            request: More of what `TaskEngine.spawn_task` takes.
        """
        given = {"command": [str(self.agent.executable)], **(options or {})}
        events: list[TaskEvent] = []
        async with TaskEngine(
            plugins=PLUGINS, load_installed=False, **({"settings": settings} if settings else {})
        ) as engine:
            with engine.subscribe(TaskEvent) as stream:
                task = await engine.spawn_task(
                    "work",
                    prompt,
                    self.project,
                    agent="acp",
                    env=self.agent.environment(manners),
                    options=given,
                    **request,
                )
                async for event in stream:
                    events.append(event)
                    if react is not None:
                        await react(task, event)
                    if isinstance(event, TaskEnded):
                        break
            return AgentRun(task=task, outcome=await task.wait(), events=events)

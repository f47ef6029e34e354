"""What the tests of this plugin share: a scripted Claude, and a run of it in a real engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import eventbus_tasks_claude
import pytest

from eventbus_tasks import AgentActivity, Outcome, Task, TaskEngine, TaskEvent

# Test folders have no __init__.py, so they import what stands beside them by its plain name.
sys.path.insert(0, str(Path(__file__).parent))

from fake_claude import FakeClaude, Step

PLUGINS = {"claude": eventbus_tasks_claude}


@dataclass
class Run:
    """What came of one task."""

    task: Task
    outcome: Outcome
    events: list[TaskEvent]

    @property
    def activities(self) -> list[AgentActivity]:
        """What Claude did, in order."""
        return [event for event in self.events if isinstance(event, AgentActivity)]

    def plain(self) -> list[tuple[Any, ...]]:
        """What Claude did, as ``(wire name, field, field …)``, without what every event has."""
        common = {"event", "task", "seq", "at", "stream", "start", "end", "parent"}
        found = []
        for event in self.activities:
            data = event.to_dict()
            values = (value for name, value in data.items() if name not in common)
            found.append((event.name.removeprefix("agent."), *values))
        return found


@pytest.fixture
def fake(tmp_path: Path) -> FakeClaude:
    """Install the scripted Claude."""
    directory = tmp_path / "bin"
    directory.mkdir()
    return FakeClaude(directory)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make an empty project directory."""
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


@pytest.fixture
def play(fake: FakeClaude, project: Path) -> Any:
    """Run the scripted Claude in a real engine, to its end."""

    async def play(
        *steps: Step,
        prompt: str = "do it",
        env: dict[str, str] | None = None,
        until: Callable[[Task, TaskEvent], None] | None = None,
        plugins: dict[str, object] | None = None,
        **request: Any,
    ) -> Run:
        environment = {**fake.environment(*steps), **(env or {})}
        async with TaskEngine(plugins=plugins or PLUGINS, load_installed=False) as engine:
            events: list[TaskEvent] = []
            with engine.subscribe(TaskEvent) as stream:
                task = await engine.spawn_task(
                    "work", prompt, project, agent="claude", env=environment, **request
                )
                async for event in stream:
                    events.append(event)
                    if until is not None:
                        until(task, event)
                    if event.name in ("task.completed", "task.failed", "task.cancelled"):
                        break
            return Run(task, await task.wait(), events)

    return play

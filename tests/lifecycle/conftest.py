"""Engines with real tasks: a recorder, a journal in memory, and puppets."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from eventbus_tasks import (
    Outcome,
    Settings,
    Step,
    Task,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskStarted,
    TerminationPolicy,
    hookimpl,
)
from eventbus_tasks.testing import Puppet

GUARD = 30.0
"""Seconds after which a test is taken for stuck; nothing is ever measured by it."""

QUICK = TerminationPolicy(
    steps=(Step(signal=signal.SIGTERM, grace=0.2),), exit_grace=0.0, drain=0.1
)
"""Like the default, with less patience."""

E = TypeVar("E", bound=TaskEvent)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true that no event tells."""
    with anyio.fail_after(GUARD):
        while True:
            if condition():
                return
            await anyio.sleep(0.002)


class Recorder:
    """Everything that one receiver has had, in order."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []

    def __call__(self, event: TaskEvent) -> None:
        self.events.append(event)

    def of(self, kind: type[E], task: Task | None = None) -> list[E]:
        """Return the events of a kind (and of a task)."""
        return [
            event
            for event in self.events
            if isinstance(event, kind) and (task is None or event.task.uid == task.uid)
        ]

    def names(self, task: Task) -> list[str]:
        """Return the wire names of a task's life; neighbours that are equal count once."""
        names: list[str] = []
        for event in self.of(TaskEvent, task):
            if event.name != "handler.failed" and (not names or names[-1] != event.name):
                names.append(event.name)
        return names

    async def until(self, kind: type[E], task: Task | None = None, *, count: int = 1) -> E:
        """Wait for an event of a kind and return it."""
        await until(lambda: len(self.of(kind, task)) >= count)
        return self.of(kind, task)[count - 1]


class MemoryJournal:
    """Keeps the events of one task; can be told to fail."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []
        self.calls: list[str] = []

    def append(self, events: Sequence[TaskEvent]) -> None:
        self.calls.append("append")
        self.events.extend(events)

    def finish(self, outcome: Outcome) -> None:
        self.calls.append("finish")

    def close(self) -> None:
        self.calls.append("close")


class JournalPlugin:
    """Answers `ebt_open_journal` with a journal in memory for each task."""

    def __init__(self) -> None:
        self.journals: dict[str, MemoryJournal] = {}

    @hookimpl
    def ebt_open_journal(self, task: Task) -> MemoryJournal:
        return self.journals.setdefault(task.uid, MemoryJournal())

    def of(self, task: Task) -> list[TaskEvent]:
        """Return the journal of a task."""
        return self.journals[task.uid].events


class Stage:
    """What most tests here need: an engine maker, a project, puppets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = self.new_project("project")
        self.journal = JournalPlugin()
        self.recorder = Recorder()
        self.puppets: list[Puppet] = []

    def new_project(self, name: str) -> Path:
        """Make another project directory."""
        path = self.directory / name
        path.mkdir()
        return path

    def engine(self, *, plugins: Mapping[str, object] | None = None, **settings: Any) -> TaskEngine:
        """Return an engine, not entered yet, whose events are recorded and journaled."""
        engine = TaskEngine(
            replace(Settings.load(), **settings),
            plugins={"memory-journal": self.journal, **(plugins or {})},
            load_installed=False,
        )
        engine.signals.any_event.connect(self.recorder)
        return engine

    def puppet(self) -> Puppet:
        """Return a new puppet."""
        puppet = Puppet()
        self.puppets.append(puppet)
        return puppet

    async def start(
        self,
        engine: TaskEngine,
        *,
        project: Path | None = None,
        policy: TerminationPolicy = QUICK,
        **options: Any,
    ) -> tuple[Task, Puppet]:
        """Spawn a puppet as a task and wait until it can be told what to do."""
        puppet = self.puppet()
        task = await engine.spawn_task(
            "puppet",
            argv=puppet.argv,
            project_dir=project or self.project,
            policy=policy,
            **options,
        )
        await puppet.connected()
        await self.recorder.until(TaskStarted, task)
        return task, puppet

    def check(self, task: Task) -> None:
        """Assert what is true of every task that has ended."""
        check_story(self.recorder.of(TaskEvent, task), task)
        check_journal(self.journal.of(task))
        assert task.outcome is not None
        assert task.status is task.outcome.status

    def close(self) -> None:
        """End what a failed test may have left, and hold no event, whose log is a descriptor."""
        for puppet in self.puppets:
            puppet.close()
        self.recorder.events.clear()
        self.journal.journals.clear()


def check_story(events: Sequence[TaskEvent], task: Task) -> None:
    """Assert that events, as one receiver had them, are those of one whole life."""
    told = [event for event in events if event.name not in ("handler.failed", "task.removed")]
    ends = [event for event in told if isinstance(event, TaskEnded)]
    assert len(ends) == 1, ends
    assert told[-1] is ends[0]
    assert ends[0].outcome == task.outcome
    assert told[0].name == "task.accepted"
    names = [event.name for event in told]
    assert names.count("task.accepted") == 1
    assert names.count("task.started") <= 1
    if "output.received" in names:
        assert names.index("task.started") < names.index("output.received")
    numbers = [event.seq for event in told]
    assert numbers == sorted(numbers)
    for stream in ("stdout", "stderr"):
        position = 0
        for event in told:
            if event.name == "output.received" and event.stream == stream:  # type: ignore[attr-defined]
                assert event.start == position  # type: ignore[attr-defined]
                position = event.end  # type: ignore[attr-defined]
        assert position == task.output.size(stream)


def check_journal(events: Sequence[TaskEvent]) -> None:
    """Assert that a journal has no gap."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert isinstance(events[-1], TaskEnded)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A project, puppets and engines."""
    made = Stage(tmp_path)
    yield made
    made.close()

"""What a scenario has at hand inside of its host: projects, engines, a recorder, the director."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from eventbus_tasks import (
    Outcome,
    OutputUnavailableError,
    Step,
    Task,
    TaskEngine,
    TaskEvent,
    TerminationPolicy,
)
from tests.faults.suite.books import PATIENCE, Project

__all__ = ["NIGHTLY", "QUICK", "Scene", "quick", "until"]

NIGHTLY: Final = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
"""Whether there is time for large numbers."""

QUICK: Final = TerminationPolicy(
    steps=(Step(signal=signal.SIGTERM, grace=0.3),), exit_grace=0.0, drain=0.1
)
"""Like the default, with less patience."""

E = TypeVar("E", bound=TaskEvent)


def quick(grace: float = 0.3, **changes: Any) -> TerminationPolicy:
    """Return the policy of scenes with another grace, or other changes."""
    return QUICK.with_changes(steps=(Step(signal=signal.SIGTERM, grace=grace),), **changes)


async def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait until something is true that no event tells."""
    with anyio.move_on_after(PATIENCE):
        while True:
            if condition():
                return
            await anyio.sleep(0.003)
    raise AssertionError(f"{what} did not become true")


class Scene:
    """The stage of one scenario, inside of its host.

    Attributes:
        directory: A directory of its own.
        backend: The event loop.
        events: Every event of every engine, in the order in which they were told.
        tasks: Every task that was spawned by `spawn`.
    """

    def __init__(self, directory: Path, backend: str, *, survivors: bool = False) -> None:
        self.directory = directory
        self.backend = backend
        self.events: list[TaskEvent] = []
        self.tasks: list[Task] = []
        self._survivors = survivors
        self._history = (directory / "history.jsonl").open("a", buffering=1)

    def project(self, name: str = "project") -> Project:
        """Return a project, made at the first call."""
        return Project(self.directory, name)

    # -- engines -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def engine(self, **options: Any) -> AsyncIterator[TaskEngine]:
        """Run an engine without installed plugins, record everything, and check what is left."""
        options.setdefault("load_installed", False)
        engine = TaskEngine(**options)
        engine.signals.any_event.connect(self._record)
        async with engine:
            yield engine
        self.check_gone()

    def _record(self, event: TaskEvent) -> None:
        self.events.append(event)
        self._history.write(json.dumps(event.to_dict()) + "\n")

    def check_gone(self) -> None:
        """Check that nobody is alive and every project is free, now."""
        if not self._survivors:
            for project in Project.all(self.directory):
                assert not project.alive, f"in {project.name} are alive: {project.alive}"
                assert project.is_free(), f"{project.name} is not free"

    async def spawn(self, engine: TaskEngine, project: Project, code: str, **options: Any) -> Task:
        """Spawn an agent that executes `code`."""
        options.setdefault("policy", QUICK)
        options.setdefault("project_dir", project.directory)
        options.setdefault("argv", project.argv(code))
        task = await engine.spawn_task(project.name, **options)
        self.tasks.append(task)
        return task

    async def run(
        self, engine: TaskEngine, project: Project, code: str, **options: Any
    ) -> tuple[Task, Outcome]:
        """Spawn an agent and wait for its end."""
        task = await self.spawn(engine, project, code, **options)
        return task, await task.wait()

    async def start(self, engine: TaskEngine, project: Project, code: str, **options: Any) -> Task:
        """Spawn an agent and wait until its code has made the flag ``up``."""
        task = await self.spawn(engine, project, code, **options)
        await until(lambda: project.has("up") or not task.is_running, "the agent's flag `up`")
        assert project.has("up"), task.outcome
        await until(lambda: task.pid, "the start")
        return task

    async def works(self, engine: TaskEngine, project: Project) -> None:
        """Check that a task can be run there, now."""
        task = await engine.spawn_task("still works", argv=["true"], project_dir=project.directory)
        self.tasks.append(task)
        outcome = await task.wait()
        assert outcome.return_code == 0, outcome

    def of(self, kind: type[E], task: Task | None = None) -> list[E]:
        """Return the events of a kind (and of a task) so far."""
        return [
            event
            for event in self.events
            if isinstance(event, kind) and (task is None or event.task.uid == task.uid)
        ]

    # -- the director outside ------------------------------------------------------------------

    def tell(self, *words: object) -> None:
        """Say something to the director: a word, and what belongs to it."""
        os.write(1, (" ".join(map(str, words)) + "\n").encode())

    async def told(self) -> str:
        """Wait for a line of the director."""
        await anyio.wait_readable(sys.stdin)
        return os.read(0, 4096).decode().strip()

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Write down all output, for the judge, and let go of it."""
        outputs = self.directory / "outputs"
        outputs.mkdir(exist_ok=True)
        for task in self.tasks:
            for stream in task.output.streams:
                with contextlib.suppress(OutputUnavailableError):
                    data = task.output.read(stream=stream)
                    (outputs / f"{task.name}.{task.uid}.{stream}").write_bytes(data)
            task.output.close()
        self._history.close()
        self.tasks.clear()

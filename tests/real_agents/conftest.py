"""The real Claude Code, a model of ours, and a project for it to work in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from eventbus_tasks import Outcome, Task, TaskEnded, TaskEngine, TaskEvent
from eventbus_tasks.testing import Puppet
from eventbus_tasks.testing.agents import (
    CLAUDE,
    CliUnavailableError,
    FakeModelAPI,
    find_cli,
    isolated_environment,
)

E = TypeVar("E", bound=TaskEvent)

# Read now: tests do not see the variables of whoever runs them.
INSTALLED: Final = os.environ.get("EBT_REAL_AGENTS")
NEEDED: Final = {"claude", "disk", "termination"}

BOTH: Final = [pytest.param(("asyncio", {}), id="asyncio"), pytest.param(("trio", {}), id="trio")]


@pytest.fixture(params=BOTH)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run async tests on both libraries; each start of the program takes a second."""
    return request.param


@pytest.fixture(scope="session")
def claude() -> Path:
    """Return the program."""
    if INSTALLED is None:
        pytest.skip("drives the real Claude Code: tox run -e real-agents")
    missing = NEEDED - {entry.name for entry in metadata.entry_points(group="eventbus_tasks")}
    if missing:
        pytest.skip(f"needs the plugins {', '.join(sorted(missing))} installed")
    try:
        return find_cli(CLAUDE, Path(INSTALLED))
    except CliUnavailableError as error:
        pytest.skip(str(error))


@dataclass
class Run:
    """One task, its end and its events.

    Attributes:
        task: The task.
        outcome: Its end.
        events: All of its events, in order.
    """

    task: Task
    outcome: Outcome
    events: list[TaskEvent]

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Stage:
    """Where Claude works.

    Attributes:
        api: Its model.
        directory: For files that are no part of a project.
    """

    api: FakeModelAPI
    directory: Path
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def project(self, name: str = "project") -> Path:
        """Return a project directory; the same one for the same name."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path

    def puppet(self) -> Puppet:
        """Return a program for Claude's tools, which does what the test says."""
        return self._open.enter_context(Puppet())

    async def run(self, prompt: str, *, project: str = "project", **request: Any) -> Run:
        """Run one task to its end, in an engine of its own with the installed plugins."""
        async with TaskEngine() as engine:
            return await self.run_in(engine, prompt, project=project, **request)

    async def run_in(
        self, engine: TaskEngine, prompt: str, *, project: str = "project", **request: Any
    ) -> Run:
        """Run one task to its end in an engine."""
        events: list[TaskEvent] = []
        with engine.subscribe(TaskEvent) as stream:
            task = await self.spawn(engine, prompt, project=project, **request)
            async for event in stream:
                if event.task.uid == task.uid:
                    events.append(event)
                    if isinstance(event, TaskEnded):
                        break
        return Run(task, await task.wait(), events)

    async def spawn(
        self, engine: TaskEngine, prompt: str, *, project: str = "project", **request: Any
    ) -> Task:
        """Start a task for Claude, which may use a shell and write files."""
        options = {"allowed_tools": ["Bash", "Write"], **request.pop("options", {})}
        return await engine.spawn_task(
            "work", prompt, self.project(project), agent="claude", options=options, **request
        )

    def ebt(self, *arguments: str, **how: Any) -> subprocess.Popen[str]:
        """Start ``ebt`` in the project."""
        process = subprocess.Popen(
            [sys.executable, "-m", "eventbus_tasks", *arguments],
            cwd=self.project(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_take_default_signals,  # noqa: PLW1509
            **how,
        )
        self._open.callback(_reap, process)
        return process

    def close(self) -> None:
        """End what a failed test has left."""
        self._open.close()


def _take_default_signals() -> None:
    # Whoever starts the tests may ignore them (nohup, a shell's &), and ebt would go on doing so.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _reap(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def marked(uid: str) -> list[str]:
    """Return every process of the machine that carries the mark of a task."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):  # gone, or somebody else's
                variables = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
                if f"EBT_TASK={uid}".encode() in variables:
                    found.append(f"{name} {Path(f'/proc/{name}/comm').read_text().strip()}")
    return found


@pytest.fixture
def api() -> Iterator[FakeModelAPI]:
    """Return a model that nobody holds a connection to any more at the end of the test."""
    with FakeModelAPI() as opened:
        yield opened
        opened.wait_idle(10)
        assert not opened.open_exchanges


@pytest.fixture
def stage(
    claude: Path, api: FakeModelAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """Make this process's environment one in which Claude knows nobody but our model."""
    environment = isolated_environment(tmp_path / "user", api.url)
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{claude.parent}{os.pathsep}{os.environ['PATH']}")
    assert shutil.which("claude") == str(claude)
    opened = Stage(api, tmp_path)
    yield opened
    opened.close()

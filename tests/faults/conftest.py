"""Hosts in processes of their own, and what can be seen of them from outside."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.suite.books import PATIENCE, Book, stat_of
from tests.faults.suite.table import table

PROGRAMS: Final = Path(__file__).parent / "programs"

GONE_WITHIN: Final = 10.0
"""Seconds after the death of a host within which all of it must be gone: a promise."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--table``: what every numbered scenario requires, and what was seen."""
    parser.addoption("--table", action="store_true", help="print the table of the fault suite")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table, if it was asked for."""
    if config.getoption("--table", default=False):
        for line in table(terminalreporter.stats):
            terminalreporter.write_line(line)


class Project(Book):
    """A directory in which a hostile family works, and its books."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "book")
        self.directory = directory
        self.book.mkdir(parents=True)

    def argv(self, *habits: str) -> list[str]:
        """Return the command of a hostile program."""
        program = str(PROGRAMS / "hostile.py")
        return [sys.executable, "-I", "-S", program, str(self.book), *habits]

    def forget(self) -> None:
        """Begin new books, once everybody has ended."""
        assert not self.alive
        for path in self.book.iterdir():
            path.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Try to take the project's lock, as another engine would, and say whether it was free."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        try:
            yield free
        finally:
            os.close(descriptor)

    def is_free(self) -> bool:
        """Whether the lock can be taken; if so, nobody of the family may be alive."""
        with self.lock() as free:
            if free:
                alive = self.alive
                assert not alive, f"{self.directory.name} is free while {alive} live"
        return free


class Host:
    """A host in a process of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "host.py"), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "EBT_PLUGINS": options.get("allow", "none"),
            },
        )
        self.heard: list[str] = []
        self._rest = b""

    def hear(self, word: str) -> str:
        """Wait until the host says a line that begins with a word, and return the rest of it."""
        assert self.process.stdout is not None
        limit = time.monotonic() + PATIENCE
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                self.heard.append(line.decode())
                first, _, rest = self.heard[-1].partition(" ")
                if first == word:
                    return rest
            left = limit - time.monotonic()
            ready = select.select([self.process.stdout], (), (), max(0, left))[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"waiting for {word!r}, heard only {self.heard}"
            self._rest += data

    def go(self) -> None:
        """Have the plan carried out."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")

    def signal(self, number: int) -> None:
        """Send the host a signal."""
        self.process.send_signal(number)

    @property
    def state(self) -> str:
        """The kernel's letter for what it does."""
        return stat_of(self.process.pid)[0]

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        return self.process.wait(PATIENCE)


class Stage:
    """Projects and hosts of one test."""

    def __init__(self, directory: Path, state: Path) -> None:
        self.directory = directory
        self.projects: list[Project] = []
        self.copies: set[int] = set()
        self._hosts: list[Host] = []
        self._mark = os.fsencode(f"{state}/")

    def project(self) -> Project:
        """Make a project."""
        self.projects.append(Project(self.directory / f"project-{len(self.projects) + 1}"))
        return self.projects[-1]

    def host(self, plan: str, families: Iterable[Iterable[str]], **options: Any) -> Host:
        """Start a host with a hostile family in each of so many projects."""
        tasks = []
        for habits in families:
            project = self.project()
            tasks.append([str(project.directory), project.argv(*habits)])
        self._hosts.append(Host({"plan": plan, "tasks": tasks, **options}))
        return self._hosts[-1]

    def strangers(self) -> list[str]:
        """Return every process that was started by a host of this test, as a warden is."""
        hosts = {host.process.pid for host in self._hosts if host.process.poll() is None}
        found = []
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) not in {os.getpid(), *hosts, *self.copies}:
                with contextlib.suppress(OSError):  # gone, or somebody else's
                    if self._mark in Path(f"/proc/{name}/environ").read_bytes():
                        found.append(f"{name} {Path(f'/proc/{name}/comm').read_text().strip()}")
        return found

    def assert_all_gone(self) -> None:
        """Wait for everything to be gone, as promised, and nothing to be free before."""
        limit = time.monotonic() + GONE_WITHIN
        while True:
            taken = [p.directory.name for p in self.projects if not p.is_free()]
            alive = [member for p in self.projects for member in p.alive]
            strangers = self.strangers()
            if not (taken or alive or strangers):
                return
            assert time.monotonic() < limit, (
                f"{GONE_WITHIN:g} s after the death of the host: "
                f"alive {alive}, taken {taken}, others {strangers}"
            )
            time.sleep(0.01)

    def close(self) -> None:
        """End what is still there: hosts, their copies, and what a failed test has left."""
        for host in self._hosts:
            for stream in (host.process.stdin, host.process.stdout):
                if stream is not None:
                    stream.close()
            host.process.kill()
            host.process.wait()
        for pid in self.copies:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for project in self.projects:
            for pid, _ in project.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path, private_state: Path) -> Iterator[Stage]:
    """Projects, and hosts that work in them."""
    opened = Stage(tmp_path, private_state)
    yield opened
    opened.close()

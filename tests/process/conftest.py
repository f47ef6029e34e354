"""A host with a real warden, and runs whose whole story can be awaited."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from eventbus_tasks._process import family, wire
from eventbus_tasks._process.handle import GuardianLink, WardenClient

GUARD = 30.0
"""Seconds after which a test is taken for stuck; nothing is ever measured by it."""

M = TypeVar("M")


def identity(pid: int) -> tuple[int, int]:
    """Return number and start time of a living process."""
    process = family.read_process(pid)
    assert process is not None, f"{pid} is not there"
    return pid, process.start_time


def alive(who: tuple[int, int]) -> bool:
    """Return whether exactly this process can still run."""
    process = family.read_process(who[0])
    return process is not None and process.start_time == who[1] and process.alive


def wait_until(condition: Callable[[], object], timeout: float = GUARD) -> None:
    """Look until something is true; for what no descriptor tells."""
    limit = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < limit, "it did not become true"
        time.sleep(0.005)


class Run:
    """One launched task, with everything that was heard about it."""

    def __init__(self, link: GuardianLink, logs: dict[str, int]) -> None:
        self.link = link
        self.logs = logs
        self.messages: list[wire.Message] = []

    async def _until(self, ready: Callable[[], object]) -> None:
        with anyio.fail_after(GUARD):
            while not ready():
                await self.link.wait_readable()
                self.messages += self.link.poll()

    async def until(self, kind: type[M]) -> M:
        """Wait for a message of a kind and return it."""
        await self._until(lambda: any(isinstance(m, kind) for m in self.messages))
        return self.only(kind)

    def only(self, kind: type[M]) -> M:
        """Return the first message of a kind."""
        return next(m for m in self.messages if isinstance(m, kind))

    def all(self, kind: type[M]) -> list[M]:
        """Return all messages of a kind."""
        return [m for m in self.messages if isinstance(m, kind)]

    async def finish(self) -> wire.Ended:
        """Wait for `Released` and return `Ended`."""
        await self._until(lambda: self.link.released)
        assert isinstance(self.messages[-1], wire.Released)
        return self.only(wire.Ended)

    async def released(self) -> None:
        """Wait for `Released`."""
        await self._until(lambda: self.link.released)

    async def output_has(self, text: bytes, stream: str = "stdout") -> bytes:
        """Wait until a text is in the log and return the log."""
        with anyio.fail_after(GUARD):
            while text not in (content := self.output(stream)):
                await anyio.wait_readable(self.link.eventfd)
                os.eventfd_read(self.link.eventfd)
        return content

    def output(self, stream: str = "stdout") -> bytes:
        """Return the whole log."""
        log = self.logs[stream]
        return os.pread(log, os.fstat(log).st_size, 0)

    def kinds(self) -> list[str]:
        """Return the kinds of all messages, in order."""
        return [message.kind for message in self.messages]

    def close(self) -> None:
        """Close everything of this run."""
        self.link.close()
        for log in self.logs.values():
            os.close(log)
        self.logs = {}


class Host:
    """A warden client that is being served, and its runs."""

    def __init__(self, warden: WardenClient, directory: Path) -> None:
        self.warden = warden
        self.directory = directory
        self.runs: list[Run] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | int = b"",
        separate: bool = False,
        lock: int | None = None,
        end_record: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        capture: str = "pipe",
        pty_size: tuple[int, int] = (80, 24),
        umask: int = 0o022,
        nofile: int | None = None,
        uid: str = "test-uid",
        rendezvous: int | None = None,
        rendezvous_path: str | None = None,
        arrivals: int | None = None,
        **policy: Any,
    ) -> Run:
        """Launch something."""
        spec = wire.LaunchSpec(
            uid=uid,
            argv=list(argv),
            cwd=str(cwd or self.directory),
            env=dict(os.environ if env is None else env),
            capture=capture,
            pty_size=pty_size,
            umask=umask,
            nofile=nofile,
            policy=policy,
            rendezvous=rendezvous_path,
        )
        logs = {name: self.log() for name in (["stdout", "stderr"] if separate else ["stdout"])}
        source = stdin if isinstance(stdin, int) else os.memfd_create("stdin")
        if isinstance(stdin, bytes):
            os.write(source, stdin)
            os.lseek(source, 0, os.SEEK_SET)
        try:
            link = self.warden.launch(
                spec,
                stdin=source,
                stdout_log=logs["stdout"],
                stderr_log=logs.get("stderr"),
                lock=lock,
                end_record=end_record,
                rendezvous=rendezvous,
                arrivals=arrivals,
            )
        except BaseException:
            for log in logs.values():
                os.close(log)
            raise
        finally:
            os.close(source)
        run = Run(link, logs)
        self.runs.append(run)
        return run

    def python(self, code: str, *arguments: str, **options: Any) -> Run:
        """Launch a Python program."""
        return self.run([sys.executable, "-I", "-S", "-c", code, *arguments], **options)

    def log(self) -> int:
        """Return a new unnamed file."""
        return os.open(self.directory, os.O_TMPFILE | os.O_RDWR, 0o600)


@contextlib.asynccontextmanager
async def open_host(directory: Path, python: str | None = None) -> AsyncIterator[Host]:
    """Run a warden for a while; afterwards it is gone without a zombie."""
    warden = await anyio.to_thread.run_sync(WardenClient.start, python)
    host = Host(warden, directory)
    async with anyio.create_task_group() as group:
        group.start_soon(warden.serve)
        try:
            yield host
        finally:
            for run in host.runs:
                run.link.stop("test_over", now=True)
                run.close()
            warden.close()
            group.cancel_scope.cancel()
    with anyio.CancelScope(shield=True):
        gone = await anyio.to_thread.run_sync(warden.reap, GUARD)
    assert gone, "the warden is still there"


@pytest.fixture
async def host(tmp_path: Path, anyio_backend: object) -> AsyncIterator[Host]:
    """A host with a warden."""
    async with open_host(tmp_path) as opened:
        yield opened


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Callable[[int], list[tuple[int, int]]]]:
    """Directory `book` where processes note their numbers; waits for so many of them."""
    directory = tmp_path / "book"
    directory.mkdir()

    def read(count: int) -> list[tuple[int, int]]:
        wait_until(lambda: len([p for p in directory.iterdir() if p.name.isdigit()]) >= count)
        return [identity(int(path.name)) for path in directory.iterdir() if path.name.isdigit()]

    yield read
    # Whatever a failed test has left.
    for path in directory.iterdir():
        if path.name.isdigit() and (process := family.read_process(int(path.name))):
            family.signal_process(process.pid, int(path.read_text()), 9)

"""A log whose bytes are not in memory any more: the loop does not wait for the disk."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence

import anyio
import pytest

from eventbus_tasks import Reason
from eventbus_tasks._threads import DaemonPool, NoWorkerError
from eventbus_tasks.output import StreamCursor

from .conftest import GUARD, Stage

pytestmark = pytest.mark.anyio

COUNT = 100_000


@pytest.fixture
def all_cold(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Let the kernel say that nothing is in memory; return the threads that read ahead then."""
    threads: set[int] = set()
    warm_up = StreamCursor.warm_up

    def nothing_there(*arguments: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "not in memory")

    def note_thread(cursor: StreamCursor, count: int) -> None:
        threads.add(threading.get_ident())
        warm_up(cursor, count)

    monkeypatch.setattr(os, "preadv", nothing_there)
    monkeypatch.setattr(StreamCursor, "warm_up", note_thread)
    return threads


async def follow(stage: Stage) -> Sequence[str]:
    """Return the lines that a receiver gets of a task that writes numbers."""
    lines: list[str] = []
    async with stage.engine() as engine:
        engine.signals.output_line.connect(lambda line: lines.append(line.text))
        with anyio.fail_after(GUARD):
            argv = ["seq", str(COUNT)]
            task = await engine.spawn_task("seq", argv=argv, project_dir=stage.project)
            await task.wait()
    return lines


async def test_a_worker_waits_for_the_disk(stage: Stage, all_cold: set[int]) -> None:
    """What is not in memory is read by another thread, and told whole and in order."""
    assert await follow(stage) == [str(number) for number in range(1, COUNT + 1)]
    assert all_cold
    assert threading.get_ident() not in all_cold


async def test_without_a_thread_the_loop_waits(
    stage: Stage, all_cold: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread can be had, output is late rather than lost."""
    submit = DaemonPool._submit

    def refuse(pool: DaemonPool, job: object) -> None:
        if "_warm_up" in repr(getattr(job, "_function", None)):
            raise NoWorkerError(errno.EAGAIN, "no thread")
        submit(pool, job)  # type: ignore[arg-type]

    monkeypatch.setattr(DaemonPool, "_submit", refuse)
    assert await follow(stage) == [str(number) for number in range(1, COUNT + 1)]
    assert not all_cold


async def test_a_disk_that_fails(
    stage: Stage, all_cold: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read ends the task with an error; nobody tries it again for ever."""
    attempts: list[int] = []

    def fail(cursor: StreamCursor, count: int) -> None:
        attempts.append(count)
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(StreamCursor, "warm_up", fail)
    monkeypatch.setattr(StreamCursor, "look", fail)
    async with stage.engine() as engine:
        engine.signals.output_line.connect(lambda line: None)
        with anyio.fail_after(GUARD):
            argv = ["seq", str(COUNT)]
            task = await engine.spawn_task("seq", argv=argv, project_dir=stage.project)
            outcome = await task.wait()
    assert outcome.reason is Reason.PLUGIN_ERROR
    assert len(attempts) <= 2  # in the thread, and by the loop, which says so

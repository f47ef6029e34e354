"""Receivers that block, sleep or hang while a task writes: the task and its log do not notice."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import anyio
import pytest

from eventbus_tasks import HandlerFailed, OutputLine, OutputReceived, TaskEnded

from .conftest import Recorder, Stage

pytestmark = pytest.mark.anyio

PATIENCE = 100.0
"""Seconds after which a test is taken for stuck; nothing is ever measured by it."""

WRITER = """
import os, sys
total, done, number = int(sys.argv[1]), 0, 0
while done < total:
    lines = b"".join(b"%015d\\n" % (number + i) for i in range(4096))
    number += 4096
    done += len(lines)
    while lines:
        lines = lines[os.write(1, lines):]
open(sys.argv[2], "w").close()
"""
"""Writes numbered lines of 16 bytes, and makes a file when all are written."""

FLOOD = """
import os, sys
block = (b"x" * 79 + b"\\n") * 3277
left = int(sys.argv[1])
while left > 0:
    left -= os.write(1, block[:left])
"""
"""Writes so many bytes as fast as it can."""


def writer(total: int, done: Path) -> list[str]:
    """Return the command that writes `total` bytes."""
    return [sys.executable, "-I", "-S", "-c", WRITER, str(total), str(done)]


async def test_nobody_waits_for_bad_receivers(stage: Stage) -> None:
    """One receiver blocks the loop until everything is written, one sleeps, one hangs for ever."""
    total = 4 << 20
    done = stage.directory / "written"
    waited: list[bool] = []
    sync: list[str] = []
    sleepy: list[str] = []
    failures = Recorder()

    def block(event: OutputReceived) -> None:
        if not waited:
            # The loop stands still. Who needed it to go on writing would never end.
            limit = time.monotonic() + PATIENCE
            while not done.exists() and time.monotonic() < limit:
                time.sleep(0.01)
            waited.append(done.exists())

    async def hang(event: OutputReceived) -> None:
        await anyio.sleep_forever()

    async def sleep(event: OutputReceived) -> None:
        await anyio.sleep(0.01)
        sleepy.extend(event.lines)

    async with stage.engine(receiver_deadline=1.0, overrun_after=0.001) as engine:
        engine.signals.output_received.connect(block)
        engine.signals.output_received.connect(hang)
        engine.signals.output_received.connect(sleep)
        engine.signals.output_line.connect(lambda line: sync.append(line.text))
        engine.signals.handler_failed.connect(failures)
        with anyio.fail_after(PATIENCE):
            task = await engine.spawn_task(
                "writer", argv=writer(total, done), project_dir=stage.project
            )
            await task.wait()
            assert waited == [True]
            expected = [f"{number:015}" for number in range(total // 16)]
            assert task.output.read().decode().split("\n")[:-1] == expected
            while len(sleepy) < len(expected):  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.01)
    assert sync == expected
    assert sleepy == expected
    blamed = [event.where for event in failures.of(HandlerFailed) if event.overran]
    assert any("block" in where for where in blamed)


@pytest.mark.slow
async def test_a_backlog_is_no_memory(stage: Stage) -> None:
    """A consumer that has taken nothing of 256 MB (nightly: 2 GB) costs less than 64 MiB."""
    total = (2048 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 256) << 20
    gate = anyio.Event()
    seen = [0, 0]

    async def late(event: OutputReceived) -> None:
        await gate.wait()
        assert event.start == seen[0]
        seen[0] = event.end

    async def late_lines(event: OutputLine) -> None:
        await gate.wait()

    async with stage.engine() as engine:
        stage.recorder.events.clear()
        for subscription in tuple(engine._bus._subscriptions.values()):
            subscription.close()  # what keeps every event is no part of this
        engine.signals.output_received.connect(late)
        lines = engine.signals.output_line.connect(late_lines)
        ended = Recorder()
        engine.signals.task_ended.connect(ended)
        before = resident()
        argv = [sys.executable, "-I", "-S", "-c", FLOOD, str(total)]
        with anyio.fail_after(PATIENCE):
            task = await engine.spawn_task("flood", argv=argv, project_dir=stage.project)
            await ended.until(TaskEnded)
            assert task.output.size() == total
            assert resident() - before < 64 << 20
            lines.close()
            gate.set()
            while seen[0] < total:  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.01)
            assert resident() - before < 64 << 20


def resident() -> int:
    """Return the memory that this process has now, in bytes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")

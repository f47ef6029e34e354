"""Tests of the length of time slices."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from eventbus_tasks import Settings, TaskEngine
from eventbus_tasks._process.slices import SHORT, ShortTimeSlices, time_slice


@pytest.fixture(autouse=True)
def _kernel_knows_slices() -> Iterator[None]:
    usual = time_slice()
    if usual is None:
        pytest.skip("Linux before 6.12 has no slices of one's own")
    yield
    assert time_slice() == usual


def test_slices_of_one_thread() -> None:
    """The thread that asks has short slices, until it is done as often as it has asked."""
    usual = time_slice()
    with ShortTimeSlices():
        with ShortTimeSlices():
            assert time_slice() == SHORT
        assert time_slice() == SHORT
    assert time_slice() == usual != SHORT


def test_what_the_thread_starts() -> None:
    """Threads and processes that the thread starts have the usual slices."""
    usual = time_slice()
    found: list[float | None] = []
    with ShortTimeSlices():
        thread = threading.Thread(target=lambda: found.append(time_slice()))
        thread.start()
        thread.join()
        with subprocess.Popen(["sleep", "60"]) as process:
            found.append(time_slice(process.pid))
            process.kill()
    assert found == [usual, usual]


def test_a_priority_of_ones_own() -> None:
    """A program to which somebody has given a policy is left as it is."""
    script = (
        "import os\n"
        "from eventbus_tasks._process.slices import ShortTimeSlices, time_slice\n"
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n"
        "before = time_slice()\n"
        "with ShortTimeSlices():\n"
        "    print(time_slice() == before, os.sched_getscheduler(0) == os.SCHED_BATCH)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "True True\n"


def test_closed_by_another_thread() -> None:
    """Slices that another thread gives back, for a thread that has ended, do no harm."""
    made: list[ShortTimeSlices] = []
    thread = threading.Thread(target=lambda: made.append(ShortTimeSlices()))
    thread.start()
    thread.join()
    made[0].close()
    made[0].close()
    with ShortTimeSlices():
        assert time_slice() == SHORT


def test_forgotten() -> None:
    """Slices that nobody has any more are given back."""
    usual = time_slice()
    slices = ShortTimeSlices()
    assert time_slice() == SHORT
    del slices
    gc.collect()
    assert time_slice() == usual


def test_a_loop_that_is_given_up(tmp_path: Path) -> None:
    """An engine whose loop has ended under it gives the slices back when it is abandoned."""
    usual = time_slice()
    engine = TaskEngine(Settings(state_dir=tmp_path / "state"), load_installed=False)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.__aenter__())
    while time_slice() != SHORT:
        loop.run_until_complete(asyncio.sleep(0))
    engine.abandon()
    assert time_slice() == usual
    for left in asyncio.all_tasks(loop):
        left.cancel()
    loop.close()


@pytest.mark.anyio
@pytest.mark.parametrize("prompt", [True, False])
async def test_the_loop_of_an_engine(prompt: bool, tmp_path: Path) -> None:
    """The loop's thread has short slices while an engine runs, if it may; tasks never have."""
    usual = time_slice()
    settings = Settings(prompt_loop=prompt, state_dir=tmp_path / "state")
    async with TaskEngine(settings, load_installed=False) as engine:
        started = anyio.Event()
        engine.signals.task_started.connect(lambda _: started.set())
        task = await engine.spawn_task("t", argv=["sleep", "60"], project_dir=tmp_path)
        await started.wait()
        assert task.pid is not None
        assert time_slice() == (SHORT if prompt else usual)
        assert time_slice(task.pid) == usual
        await task.cancel()
    assert time_slice() == usual

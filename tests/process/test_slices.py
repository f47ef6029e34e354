"""Tests of the length of time slices."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from eventbus_tasks import Settings, TaskEngine
from eventbus_tasks._process.slices import SHORT, short_time_slices, time_slice


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
    with short_time_slices():
        with short_time_slices():
            assert time_slice() == SHORT
        assert time_slice() == SHORT
    assert time_slice() == usual != SHORT


def test_what_the_thread_starts() -> None:
    """Threads and processes that the thread starts have the usual slices."""
    usual = time_slice()
    found: list[float | None] = []
    with short_time_slices():
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
        "from eventbus_tasks._process.slices import short_time_slices, time_slice\n"
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n"
        "before = time_slice()\n"
        "with short_time_slices():\n"
        "    print(time_slice() == before, os.sched_getscheduler(0) == os.SCHED_BATCH)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "True True\n"


def test_a_loop_that_is_given_up() -> None:
    """Slices that another thread gives back, for a thread that has ended, do no harm."""
    context = short_time_slices()
    thread = threading.Thread(target=context.__enter__)
    thread.start()
    thread.join()
    context.__exit__(None, None, None)
    with short_time_slices():
        assert time_slice() == SHORT


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

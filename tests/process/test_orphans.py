"""Whose orphans those are that several guardians have left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from eventbus_tasks._process.family import Process, read_process, states
from eventbus_tasks._process.marker import read_mark
from eventbus_tasks._process.orphans import Ownership

from .conftest import wait_until

# One of its threads waits for a child that does not get as far as to execute its program.
STUCK: Final = """
import os, sys, threading, time
opened = (os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)
spawn = threading.Thread(target=os.posix_spawn, args=("/bin/true", ["true"], {}),
                         kwargs={"file_actions": [opened]})
spawn.start()
"""


@pytest.fixture
def orphan() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process with the mark of the task ``first``."""
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, "EBT_TASK": "first"}) as process:
        wait_until(lambda: read_mark(process.pid) == "first")
        yield process
        process.kill()


def look(process: subprocess.Popen[bytes]) -> Process:
    """Return what is known about a child of ours."""
    found = read_process(process.pid)
    assert found is not None
    return found


def test_owner_is_remembered(orphan: subprocess.Popen[bytes]) -> None:
    """A mark that was seen while one task alone was swept counts when there is another one."""
    ownership = Ownership()
    living = look(orphan)
    assert ownership.share([living], {"first"}) == {"first": [living]}
    os.kill(orphan.pid, signal.SIGKILL)
    wait_until(lambda: not look(orphan).alive)
    dead = look(orphan)  # it shows no environment any more
    assert ownership.share([dead], {"first", "second"}) == {"first": [dead], "second": []}
    assert Ownership().share([dead], {"first", "second"}) == {"first": [dead], "second": [dead]}


def test_memory_of_threads_that_sleep_is_left_alone(tmp_path: Path) -> None:
    """A process of which any thread sleeps uninterruptibly is not asked for its mark."""
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", STUCK, str(tmp_path / "fifo")],
        env={**os.environ, "EBT_TASK": "first"},
    ) as process:
        try:
            wait_until(lambda: "D" in states(process.pid))
            asleep = look(process)
            assert asleep.state != "D"
            shares = Ownership().share([asleep], {"first", "second"})
            assert shares == {"first": [asleep], "second": [asleep]}
        finally:
            # Open for as long as anybody may still come to open it: the child may be late.
            with (tmp_path / "fifo").open("r+b", buffering=0):
                process.wait()

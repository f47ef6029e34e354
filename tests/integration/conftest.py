"""What the tests share that follow a task beyond the end of its host."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from eventbus_tasks import RunningTask, find_running_tasks

PATIENCE: Final = 40.0
"""Seconds until something that does not come is given up: a guard against a hang."""

# Writes numbered lines for ever, and keeps book of how many it is sure to have written.
WRITER: Final = """
import itertools, os, sys, time
book = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)
for number in itertools.count():
    os.write(1, b"line %d\\n" % number)
    os.pwrite(book, b"%d" % (number + 1), 0)
    time.sleep(0.001)
"""


def until(condition: Callable[[], object]) -> None:
    """Look until something is true: for what no descriptor tells."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it did not become true"
        time.sleep(0.005)


def detached_task() -> RunningTask:
    """Return the only running task, once its guardian knows that the host is dead."""
    until(lambda: all(task.is_detached for task in find_running_tasks()))
    (task,) = find_running_tasks()
    return task


def end_what_runs() -> None:
    """End what a failed test has left running."""
    for task in find_running_tasks():
        task.cancel(now=True, timeout=PATIENCE)


def assert_whole(output: bytes, written: int) -> None:
    """Check that no byte is missing or doubled, and that all is there that was surely written."""
    lines = output.splitlines(keepends=True)
    assert len(lines) >= written
    assert b"".join(b"line %d\n" % number for number in range(len(lines))).startswith(output)

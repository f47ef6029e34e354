"""Finding the processes of a task by the mark in their environment.

Only for the case that guardian and warden have both been killed, so that nobody is left whose
descendants they are. The mark is a hint that a process can wipe away; what is found is named,
and ended by number and start time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Final

from eventbus_tasks._process.family import Process, command, read_process, signal_process
from eventbus_tasks._process.wire import Survivor

__all__ = ["MARK", "find_marked", "sweep_marked"]

MARK: Final = "EBT_TASK"
"""The variable that the guardian puts into the environment of a task."""

_EVERY: Final = 0.05
"""Seconds between two looks: who was forked meanwhile is found by the next one."""


def find_marked(uid: str) -> list[Process]:
    """Return every living process of this machine that carries the mark of a task."""
    mark = f"{MARK}={uid}".encode()
    found: list[Process] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if mark in file.read().split(b"\0"):
                process = read_process(int(name))
                if process is not None and process.alive:
                    found.append(process)
    return found


def sweep_marked(uid: str, seconds: float) -> tuple[Survivor, ...]:
    """End every process that carries the mark of a task; blocks for at most `seconds`.

    Returns:
        Those that are still alive then.
    """
    deadline = time.monotonic() + seconds
    while left := find_marked(uid):
        for process in left:
            signal_process(process.pid, process.start_time, signal.SIGKILL)
        if time.monotonic() >= deadline:
            break
        time.sleep(_EVERY)
    return tuple(
        Survivor(pid=one.pid, start_time=one.start_time, command=command(one.pid)) for one in left
    )

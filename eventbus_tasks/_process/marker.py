"""Finding the processes of a task by the mark in their environment, or by their control group.

Only for the case that guardian and warden have both been killed, so that nobody is left whose
descendants they are. The mark is a hint that a process can wipe away; a control group of the
task's own, where there is one, it cannot leave by that. What is found is named, and ended by
number and start time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from eventbus_tasks._process.cgroup import kill_groups, remove_groups, task_cgroups
from eventbus_tasks._process.family import (
    Process,
    descendants,
    read_process,
    signal_process,
    survivors_of,
)
from eventbus_tasks._process.wire import Survivor

__all__ = ["MARK", "all_marked", "find_marked", "read_mark", "sweep", "sweep_marked"]

MARK: Final = "EBT_TASK"
"""The variable that the guardian puts into the environment of a task."""

_PREFIX: Final = f"{MARK}=".encode()

_EVERY: Final = 0.05
"""Seconds between two looks: who was forked meanwhile is found by the next one."""

_EMPTY_LOOKS: Final = 2
"""Looks in a row that must find nobody."""


def read_mark(pid: int) -> str | None:
    """Return the mark of a process: the unique id of the task that it belongs to, if any."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        for variable in file.read().split(b"\0"):
            if variable.startswith(_PREFIX):
                return variable[len(_PREFIX) :].decode("utf-8", "replace")
    return None


def find_marked(uid: str) -> list[Process]:
    """Return every living process of this machine that carries the mark of a task."""
    return [process for process, mark in all_marked() if mark == uid]


def all_marked() -> Iterator[tuple[Process, str]]:
    """Yield every living process of this machine that carries the mark of any task, and the mark.

    Or that is in the control group of one; some come twice. Of other users' processes root alone
    sees the environment.
    """
    for name in os.listdir("/proc"):
        if name.isdigit() and (mark := read_mark(int(name))):
            process = read_process(int(name))
            if process is not None and process.alive:
                yield process, mark
    for uid, _, members in task_cgroups():
        for pid in members:
            process = read_process(pid)
            if process is not None and process.alive:
                yield process, uid


def sweep_marked(
    uid: str, seconds: float, *, leader: tuple[int, int] | None = None
) -> tuple[Survivor, ...]:
    """End every process that carries the mark of a task, and what descends from those; blocks.

    Args:
        uid: The unique id of the task.
        seconds: How long to try at most.
        leader: Number and start time of the leader, where they are known.

    Returns:
        Those that are still alive then.
    """
    known = () if leader is None else (leader,)
    return sweep((uid,), lambda: _with_descendants(find_marked(uid)), seconds, known=known)


def _with_descendants(found: Iterable[Process]) -> Iterator[Process]:
    """Yield processes and those below them, who may have wiped the mark away."""
    for process in found:
        yield process
        yield from (below for below in descendants(process.pid) if below.alive)


def sweep(
    uids: Collection[str],
    find: Callable[[], Iterable[Process]],
    seconds: float,
    *,
    known: Iterable[tuple[int, int]] = (),
) -> tuple[Survivor, ...]:
    """End every process of some tasks that is found, again and again until nobody is; blocks.

    A process that executes a program, or that ends, shows no environment for a moment. So
    whoever was seen once is watched until it has ended, and only two looks in a row that find
    nobody count.

    Args:
        uids: Unique ids of the tasks.
        find: Looks for them, each time anew.
        seconds: How long to try at most.
        known: Number and start time of some that `find` may not find.

    Returns:
        Those that are still alive then.
    """
    deadline = time.monotonic() + seconds
    seen = set(known)
    empty = 0
    kill_groups(uids)
    while True:
        left = {(process.pid, process.start_time): process for process in find()}
        for pid, start_time in seen - left.keys():
            process = read_process(pid)
            if process is not None and process.start_time == start_time and process.alive:
                left[pid, start_time] = process
        seen |= left.keys()
        for process in left.values():
            signal_process(process.pid, process.start_time, signal.SIGKILL)
        empty = 0 if left else empty + 1
        if empty == _EMPTY_LOOKS or time.monotonic() >= deadline:
            break
        time.sleep(_EVERY)
    remove_groups(uids)
    return survivors_of(left.values())

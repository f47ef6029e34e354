"""Finding what tasks have left behind when nobody is left to end it.

That takes the death of a guardian *and* of the warden above it: as long as one of them lives,
it is an ancestor of everything the task has started, and sees to its end. So whoever carries the
mark of a task, or is in its control group, and has neither of them among its ancestors is left
over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import Final

from eventbus_tasks._process.family import Process, descendants, read_process
from eventbus_tasks._process.marker import all_marked, read_mark, sweep
from eventbus_tasks._process.wire import Survivor

__all__ = ["end_leftovers", "find_leftovers"]

_KEEPERS: Final = frozenset((b"ebt-guardian", b"ebt-warden"))
"""What wardens and guardians call themselves."""

_BETWEEN_LOOKS: Final = 0.05
"""Seconds: a guardian takes far less to notice the end of somebody."""

_MAX_DEPTH: Final = 4096


def find_leftovers() -> list[tuple[str, Process]]:
    """Return unique id of the task and process of everything that is left over. Blocks, shortly.

    Two looks must find something of the same task, so that nothing is taken for left over while
    its guardian is about to end it. The task that this process itself belongs to is left out,
    and so are this process and its ancestors, whatever they carry.
    """
    first = {uid for uid, _ in _look()}
    if not first:
        return []
    time.sleep(_BETWEEN_LOOKS)
    return [(uid, process) for uid, process in _look() if uid in first]


def end_leftovers(
    uids: Collection[str], known: Collection[tuple[int, int]], seconds: float
) -> tuple[Survivor, ...]:
    """End what is left over of some tasks, by SIGKILL; blocks for at most `seconds`.

    Args:
        uids: Unique ids of the tasks.
        known: Number and start time of what was found before.
        seconds: How long to try.

    Returns:
        Those that are still alive then.
    """
    return sweep(
        uids,
        lambda: [process for uid, process in _look() if uid in uids],
        seconds,
        known=known,
    )


def _look() -> list[tuple[str, Process]]:
    keepers: dict[int, bool] = {}
    ours = _ancestors(os.getpid())
    marked = list(all_marked())
    # What a task that lives has handed over to somebody else (at, the server of a terminal) keeps
    # its mark: ending it, and the control group that it names, would end something of that task.
    safe = {
        uid
        for process, uid in marked
        if _name(process.pid) not in _KEEPERS and _is_kept(process, keepers)
    }
    safe.add(read_mark(os.getpid()) or "")
    found: dict[int, tuple[str, Process]] = {}
    for process, uid in marked:
        if uid in safe or process.pid in ours or _is_kept(process, keepers):
            continue
        found[process.pid] = uid, process
        for below in descendants(process.pid):
            # Whoever has wiped the mark away, and whose parents are still there.
            if below.alive and below.pid not in ours and not _is_kept(below, keepers):
                found.setdefault(below.pid, (uid, below))
    return sorted(found.values(), key=lambda item: (item[0], item[1].start_time, item[1].pid))


def _is_kept(process: Process, keepers: dict[int, bool]) -> bool:
    """Whether it is a warden or a guardian that lives, or has one among its ancestors."""
    for _ in range(_MAX_DEPTH):
        if process.pid not in keepers:
            keepers[process.pid] = process.alive and _name(process.pid) in _KEEPERS
        if keepers[process.pid]:
            return True
        if not process.parent:
            return False
        above = read_process(process.parent)
        if above is None:
            # It has just ended, and its children have another parent now.
            above = read_process(process.pid)
            if above is None:
                return True  # gone, too
        process = above
    return False


def _ancestors(pid: int) -> set[int]:
    """Return a process and everything above it."""
    found: set[int] = set()
    while pid and pid not in found:
        found.add(pid)
        process = read_process(pid)
        pid = 0 if process is None else process.parent
    return found


def _name(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().rstrip(b"\n")
    except OSError:
        return b""

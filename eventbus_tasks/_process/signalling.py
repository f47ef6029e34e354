"""Sending one rung of a ladder to those whom it is meant for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

from eventbus_tasks._process.family import Process, read_process, signal_process
from eventbus_tasks._process.ladder import KILL, Rung

__all__ = ["MAX_PIDS", "send_rung"]

MAX_PIDS: Final = 1000
"""Processes that the message about one signal names."""

_ROUNDS: Final = 3
"""Walks per rung: who was forked during the first one is found by the next."""


def send_rung(
    rung: Rung, family: Callable[[], list[Process]], *, leader: int, pinned: bool
) -> dict[int, Process]:
    """Send a rung to its scope and return whom it has reached, by number.

    Args:
        rung: The signal and its scope.
        family: Walks through the living family, anew with each call.
        leader: Number of the leader, which is also the number of its process group.
        pinned: Whether the leader is an unreaped child of the caller. Then its number, and so the
            group, cannot pass to strangers, and one call reaches all members, however fast they
            fork.
    """
    reached: dict[int, Process] = {}
    if rung.scope == "group":
        members = [process for process in family() if process.group == leader]
        if not pinned:
            _send_each(rung, members, reached)
        elif _send_group(rung, leader):
            reached = {process.pid: process for process in members}
        return reached
    for round_ in range(_ROUNDS if rung.scope == "tree" else 1):
        fresh = [process for process in family() if process.pid not in reached]
        if rung.scope == "leader":
            fresh = [process for process in fresh if process.pid == leader]
        if not fresh:
            break
        # The group before the others, so that who forks at every moment has no time to.
        if rung is KILL and pinned and not round_ and _send_group(rung, leader):
            reached = {p.pid: p for p in fresh if p.group == leader and not _is_alive(p)}
            fresh = [process for process in fresh if process.pid not in reached]
        _send_each(rung, fresh, reached)
    return reached


def _is_alive(process: Process) -> bool:
    found = read_process(process.pid)
    return found is not None and found.start_time == process.start_time and found.alive


def _send_group(rung: Rung, leader: int) -> bool:
    try:
        os.killpg(leader, rung.signal)
        if rung.signal != signal.SIGKILL:
            os.killpg(leader, signal.SIGCONT)
    except OSError:
        return False
    return True


def _send_each(rung: Rung, processes: list[Process], reached: dict[int, Process]) -> None:
    for process in processes:
        if signal_process(process.pid, process.start_time, rung.signal):
            reached[process.pid] = process
            if rung.signal != signal.SIGKILL:
                # A stopped process acts on nothing but SIGKILL.
                signal_process(process.pid, process.start_time, signal.SIGCONT)

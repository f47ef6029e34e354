"""What ``/proc`` says about a family of processes, and signals that reach nobody else.

A number alone never identifies a process: numbers are used again. Everything here goes by
number *and* start time, is found by walking down from a process of ours, and is signalled
through a descriptor opened before the start time was verified.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from eventbus_tasks._process.wire import Survivor

__all__ = [
    "FLAGS",
    "FORKED_NO_EXEC",
    "START_TIME",
    "Process",
    "children",
    "command",
    "descendants",
    "is_ending",
    "read_process",
    "signal_process",
    "stat_fields",
    "states",
    "survivors_of",
]

START_TIME: Final = 19
FLAGS: Final = 6
"""Places in `stat_fields`."""

_KILLED: Final = 1 << (signal.SIGKILL - 1)

_FOR_READING: Final = os.O_RDONLY | os.O_CLOEXEC

FORKED_NO_EXEC: Final = 0x40
"""PF_FORKNOEXEC in the kernel's flags: forked, and has not executed anything since."""

_STAT: Final = 470
"""Bytes: the start time and all before it take less. More than 512 with what Python adds would be
memory of the C library, which takes two pages instead of none."""

_MAX_SURVIVORS: Final = 64
"""Survivors that a message names; a packet has a limit."""


@dataclass(slots=True, unsafe_hash=True)
class Process:
    """One line of ``/proc/<pid>/stat``, as far as it matters here; nobody changes it.

    Attributes:
        pid: Its number.
        start_time: Clock ticks after boot; with `pid` it identifies the process.
        parent: Number of its parent.
        group: Number of its process group.
        state: The kernel's letter: ``R``, ``S``, ``D``, ``T``, ``Z`` and so on.
        threads: Threads that still run.
        flags: The kernel's flags.
    """

    pid: int
    start_time: int
    parent: int
    group: int
    state: str
    threads: int
    flags: int

    @property
    def alive(self) -> bool:
        """Whether anything of it can still run.

        A process whose main thread has ended is shown as ``Z`` while its other threads work.
        """
        return self.state not in "ZX" or self.threads > 1

    @property
    def executed(self) -> bool:
        """Whether it has executed a program since it was forked."""
        return not self.flags & FORKED_NO_EXEC


def states(pid: int) -> set[str]:
    """Return the states of all threads of a process; that of the process is its first thread's."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return set()
    found = (_read_stat(pid, f"/proc/{pid}/task/{thread}/stat") for thread in threads)
    return {thread.state for thread in found if thread is not None}


def read_process(pid: int) -> Process | None:
    """Return what is known about a process, or ``None`` when there is none of that number."""
    return _read_stat(pid, f"/proc/{pid}/stat")


def _read_stat(pid: int, path: str) -> Process | None:
    try:
        fields = stat_fields(path)
        return Process(
            pid,
            int(fields[START_TIME]),
            int(fields[1]),
            int(fields[2]),
            fields[0].decode(),
            int(fields[17]),
            int(fields[FLAGS]),
        )
    except (OSError, IndexError, ValueError):
        return None


def stat_fields(path: str) -> list[bytes]:
    """Return what a ``stat`` in ``/proc`` says, from the state to the start time; see proc(5).

    Raises:
        OSError: There is no such process, or it has gone meanwhile.
    """
    file = os.open(path, _FOR_READING)
    try:
        data = os.read(file, _STAT)
    finally:
        os.close(file)
    # The name in brackets may contain anything, brackets too: only the last one counts. Each field
    # is an object, for which a forked child may have to copy a page.
    return data.rpartition(b")")[2].split(None, START_TIME + 1)


def is_ending(pid: int) -> bool:
    """Return whether a process was sent SIGKILL, or has ended.

    The kernel leaves that signal among those that the process has not taken until it is reaped.
    """
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            text = file.read(4096)
    except OSError:
        return True
    state = text.partition(b"\nState:\t")[2][:1]
    pending = int(text.partition(b"\nShdPnd:\t")[2].partition(b"\n")[0] or b"0", 16)
    return state in (b"Z", b"X") or bool(pending & _KILLED)


def children(pid: int) -> list[int]:
    """Return the numbers of the direct children of a process, of all of its threads.

    Children that end meanwhile can make the kernel skip others: an empty answer about our own
    children is proof only together with ``ECHILD`` from `os.waitpid`.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found += map(int, file.readall().split())
        except FileNotFoundError:
            if not _lists_children():
                return _children_by_scan(pid)
        except OSError:
            continue
    return found


def _lists_children() -> bool:
    return os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


def _children_by_scan(pid: int) -> list[int]:
    """Find children through every process, for kernels that do not list them."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = read_process(int(name))
            if process is not None and process.parent == pid:
                found.append(process.pid)
    return found


def descendants(root: int, *, without: Iterable[int] = ()) -> list[Process]:
    """Return every verified descendant of a process, zombies included, parents first.

    Args:
        root: Where the walk begins; not part of the answer.
        without: Children whose whole branch is left out.
    """
    seen = {root, *without}
    found: list[Process] = []
    queue = [root]
    for parent in queue:
        for pid in children(parent):
            if pid in seen:
                continue
            process = read_process(pid)
            # Between the list and the look the number may have passed to a stranger; whoever
            # has changed parents in that moment is found by the next walk.
            if process is None or process.parent not in (parent, root):
                continue
            seen.add(pid)
            found.append(process)
            queue.append(pid)
    return found


def command(process: Process, limit: int = 200) -> str:
    """Return the command line of a process for people to read, or its name in brackets.

    Of one that sleeps uninterruptibly it is the name: its memory, where the command line is, may be
    locked for as long as it sleeps.
    """
    for name in ("comm",) if process.state == "D" else ("cmdline", "comm"):
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/{name}", "rb") as file:
            data = file.read(4 * limit).rstrip(b"\0\n").replace(b"\0", b" ")
            if data:
                text = data.decode("utf-8", "backslashreplace")[:limit]
                return text if name == "cmdline" else f"[{text}]"
    return ""


def survivors_of(processes: Iterable[Process]) -> tuple[Survivor, ...]:
    """Return what people shall know about processes that are still there; of many, the first."""
    return tuple(
        Survivor(pid=process.pid, start_time=process.start_time, command=command(process))
        for process in islice(processes, _MAX_SURVIVORS)
    )


def signal_process(pid: int, start_time: int, number: int) -> bool:
    """Send a signal to exactly this process and return whether it was sent.

    ``False`` means that the process has gone or that it belongs to another user; which of the
    two it was shows in the next walk.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:
        # No descriptor to be had (limits, old kernels): ending the family matters more than
        # the few microseconds between the look and the signal.
        descriptor = -1
    try:
        process = read_process(pid)
        if process is None or process.start_time != start_time:
            return False
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(pid, number)
    except OSError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True

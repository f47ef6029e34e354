"""Short time slices: a thread that has them runs as soon as it wakes, beside whatever is busy.

Linux (6.12 and later) lets every thread choose for how long it wants to run at a time. Whoever
asks for little, and has not had more than its share, goes before those that ask for more: see
``sched_setattr(2)`` and ``Documentation/scheduler/sched-eevdf.rst`` in the kernel's source. The
share itself does not change. Older kernels accept the request and ignore it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from pathlib import Path
from typing import Final, Self

__all__ = ["SHORT", "ShortTimeSlices", "time_slice"]

SHORT: Final = 0.0001
"""Seconds: the shortest that the kernel grants."""

_OTHER: Final = 0  # the policy of whoever has chosen none
_RESET_ON_FORK: Final = 1
# Numbers of `sched_setattr` and `sched_getattr`: the C library has had them for a short time only.
_CALLS: Final = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


_libc: Final = ctypes.CDLL(None, use_errno=True)
_lock: Final = threading.RLock()  # a collection may give back at any moment
_users: Final[dict[int, int]] = {}  # by thread


def _read(thread: int) -> _Attributes | None:
    calls = _CALLS.get(os.uname().machine)
    found = _Attributes()
    if calls is None:
        return None
    size = ctypes.sizeof(found)
    failed = _libc.syscall(
        ctypes.c_long(calls[1]),
        ctypes.c_int(thread),
        ctypes.byref(found),
        ctypes.c_uint(size),
        ctypes.c_uint(0),
    )
    return None if failed else found


def _choose(thread: int, seconds: float) -> bool:
    """Ask for slices of a length, 0 for the usual one, where nobody has chosen how it is run."""
    found = _read(thread)
    if found is None or found.policy != _OTHER or found.nice < 0:
        return False
    # What is started by the thread gets the usual slices.
    found.flags |= _RESET_ON_FORK
    found.runtime = round(seconds * 1e9)
    found.size = ctypes.sizeof(found)
    call = _CALLS[os.uname().machine][0]
    return not _libc.syscall(
        ctypes.c_long(call), ctypes.c_int(thread), ctypes.byref(found), ctypes.c_uint(0)
    )


def time_slice(thread: int = 0) -> float | None:
    """Return the seconds for which a thread wants to run at a time.

    Args:
        thread: Its number, or that of a process for its first thread; 0 for the calling thread.

    Returns:
        ``None`` where the kernel does not say.
    """
    found = _read(thread)
    return found.runtime / 1e9 if found is not None and found.runtime else None


class ShortTimeSlices:
    """Short time slices for the thread in which it is made, until the last of them is closed.

    Nothing happens where the kernel refuses, or where somebody has given the thread a policy or a
    priority of its own. Threads and processes that the thread starts have the usual slices.
    """

    def __init__(self) -> None:
        thread = threading.get_native_id()
        with _lock:
            _users[thread] = _users.get(thread, 0) + 1
            if _users[thread] == 1:
                _choose(thread, SHORT)
        # Also of whoever is forgotten, with a loop that was given up.
        self._give_back = weakref.finalize(self, _give_back, thread)

    def close(self) -> None:
        """Want them no longer. In any thread; safe to repeat."""
        self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _give_back(thread: int) -> None:
    with _lock:
        _users[thread] -= 1
        if _users[thread]:
            return
        del _users[thread]
        if Path(f"/proc/self/task/{thread}").exists():
            _choose(thread, 0.0)

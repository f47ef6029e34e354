"""The few system calls that the standard library does not offer, by `ctypes`.

`ctypes` is imported once, by the warden, so every guardian shares its pages.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal

__all__ = [
    "IN_CLOSE",
    "IN_CLOSE_WRITE",
    "IN_DELETE",
    "IN_MODIFY",
    "become",
    "close_from",
    "fork_into",
    "fork_sibling",
    "inotify_open",
    "inotify_watch",
    "is_child_subreaper",
    "punch_hole",
    "set_parent_death_signal",
    "set_process_name",
]

IN_MODIFY = 0x2
IN_CLOSE_WRITE = 0x8
IN_CLOSE = 0x8 | 0x10
IN_DELETE = 0x200
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_CLONE_PARENT = 0x8000
_CLONE_INTO_CGROUP = 0x200000000
_CLONE3 = 435
_CLONE3_MACHINES = ("x86_64", "aarch64", "riscv64")
_ANY_DESCRIPTOR = 0x7FFFFFFF
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

_libc = ctypes.CDLL(None, use_errno=True)
# Without types of its arguments, and not looked up for each call: a forked process copies every
# page that it touches. Plain numbers and bytes are passed on as they are.
_prctl = _libc.prctl
_libc.inotify_init1.argtypes = [ctypes.c_int]
_libc.inotify_init1.restype = ctypes.c_int
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
_libc.inotify_add_watch.restype = ctypes.c_int
# Where `off_t` may be 32 bits wide there is a 64-bit twin; elsewhere `fallocate` is 64-bit.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int

_close_range = getattr(_libc, "close_range", None)
if _close_range is not None:
    _close_range.restype = ctypes.c_int

# It keeps the GIL during a call: a process that is forked within one begins with it.
_held = ctypes.PyDLL(None, use_errno=True)
_held.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t]
_held.syscall.restype = ctypes.c_long


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


# Made once, for who forks copies what it touches.
_SIBLING = _CloneArgs(flags=_CLONE_PARENT)
_SIBLING_AT = ctypes.addressof(_SIBLING)
_SIBLING_SIZE = ctypes.sizeof(_SIBLING)
_clone3 = _held.syscall


def _checked(result: int) -> int:
    if result < 0:
        raise _error()
    return result


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def set_process_name(name: bytes) -> None:
    """Set the name that ``ps`` and ``top`` show (15 bytes); cosmetic, so it never fails."""
    _prctl(_PR_SET_NAME, name)


def become(name: bytes) -> None:
    """Make orphaned descendants children of this process instead of init's, and give it a name.

    Args:
        name: What ``ps`` and ``top`` show (15 bytes); cosmetic, so that part never fails.

    Raises:
        OSError: The kernel refuses.
    """
    _prctl(_PR_SET_NAME, name)
    if _prctl(_PR_SET_CHILD_SUBREAPER, 1) < 0:
        raise _error()


def is_child_subreaper() -> bool:
    """Return whether orphaned descendants become children of this process.

    Raises:
        OSError: The kernel does not know the question, nor then the answer.
    """
    answer = ctypes.c_int()
    _checked(_prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer)))
    return bool(answer.value)


def set_parent_death_signal(number: int) -> None:
    """Have this process signalled when the thread that forked it ends.

    Raises:
        OSError: The kernel refuses.
    """
    if _prctl(_PR_SET_PDEATHSIG, number) < 0:
        raise _error()


def close_from(first: int) -> None:
    """Close every descriptor from this number on.

    Without looking which there are: the kernel makes an object for each one that it lists, and a
    process cannot end before all of them are gone. A new guardian has those of all other tasks.
    """
    if _close_range is None or _close_range(first, _ANY_DESCRIPTOR, 0) < 0:
        # A C library before 2.34, a kernel before 5.9, or a filter.
        os.closerange(first, max(map(int, os.listdir("/proc/self/fd"))) + 1)


def punch_hole(descriptor: int, start: int, length: int) -> None:
    """Free the blocks of a range of a file; its size and all other bytes stay.

    Raises:
        OSError: The file system cannot do it, or the range is not valid.
    """
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    _checked(_fallocate(descriptor, mode, start, length))


def fork_into(cgroup: int) -> int:
    """Fork a child that is in another control group (v2) from its first moment; like `os.fork`.

    To move it afterwards costs milliseconds, because the kernel waits for every processor. Neither
    Python nor the C library knows of the fork, so only a process with one thread may do this, and
    the child may do nothing but prepare for executing a program.

    Args:
        cgroup: Descriptor of the group's directory.

    Raises:
        OSError: The kernel, or whoever filters its calls, refuses.
    """
    if os.uname().machine not in _CLONE3_MACHINES:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    given = _CloneArgs(flags=_CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=cgroup)
    return _checked(_held.syscall(_CLONE3, ctypes.addressof(given), ctypes.sizeof(given)))


def fork_sibling() -> int:
    """Fork a process that is a child of our parent; like `os.fork`.

    Neither Python nor the C library knows of the fork. For a process with one thread they need
    not: it is the same thread in the copy, and nobody else has held a lock. What is registered for
    forks (`os.register_at_fork`) is not called.

    Returns:
        Its number; 0 in the new process.

    Raises:
        OSError: The kernel, or whoever filters its calls, refuses.
    """
    return _checked(_clone3(_CLONE3, _SIBLING_AT, _SIBLING_SIZE))


def inotify_open() -> int:
    """Return a new non-blocking, close-on-exec inotify descriptor.

    Raises:
        OSError: The limit of instances per user is reached.
    """
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_watch(descriptor: int, path: bytes, mask: int) -> int:
    """Watch a path and return the number of the watch.

    Raises:
        OSError: The path cannot be watched.
    """
    return _checked(_libc.inotify_add_watch(descriptor, path, mask))

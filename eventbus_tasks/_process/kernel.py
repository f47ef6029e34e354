"""What the kernel and the file systems here offer, tried out one by one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eventbus_tasks._process import linux
from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.visit import directories, make_place

__all__ = ["Probe", "probe_directory", "probe_kernel", "probe_sockets"]

_ENOUGH_DESCRIPTORS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One thing that was tried.

    Attributes:
        name: What it is called.
        use: What it is used for.
        problem: Why it is not to be had; empty if it is.
        needed: Whether nothing works without it; otherwise there is a slower way.
    """

    name: str
    use: str
    problem: str = ""
    needed: bool = True


def probe_kernel() -> list[Probe]:
    """Try the system calls that guardians need. Blocks, shortly."""
    return [
        _try("pidfd", "signals reach nobody but whom they are meant for", _try_pidfd),
        _try("subreaper", "orphans stay within the family", linux.is_child_subreaper),
        _try("children", "the tree is walked quickly", _try_children, needed=False),
        _try("eventfd", "the host hears of new output", _try_eventfd),
        _try("memfd", "what to run is handed to the guardian", _try_memfd),
        _try("inotify", "output is noticed that agents write to the log themselves", _try_inotify),
        _try(
            "descriptors",
            f"{_ENOUGH_DESCRIPTORS} of them: many tasks at a time",
            _try_limit,
            needed=False,
        ),
    ]


def probe_directory(directory: Path) -> list[Probe]:
    """Try what logs and locks need of a file system.

    Args:
        directory: Where it is tried; it has to be there, and nothing stays in it.
    """
    return [
        _try("O_TMPFILE", "logs without a name", lambda: _try_unnamed(directory), needed=False),
        _try(
            "splice",
            "output gets to the log without being copied",
            lambda: _try_splice(directory),
            needed=False,
        ),
        _try(
            "punch hole",
            "old output is freed (keep = tail)",
            lambda: _try_punch(directory),
            needed=False,
        ),
        _try(
            "flock", "one task at a time in a directory", lambda: _try_lock(directory), needed=False
        ),
    ]


def probe_sockets(state_dir: Path) -> Probe:
    """Try to make the socket at which others find a task; nothing stays."""
    use = "`ebt cancel`, `wait` and re-attaching find a task"
    first = str(directories(state_dir)[0])

    def attempt() -> None:
        place = make_place(state_dir, f"probe-{os.getpid()}")
        elsewhere = not place.path.startswith(first)
        place.remove()
        if elsewhere:
            raise OSError(f"not in {first}; the session's directory is used instead")

    return _try("sockets", use, attempt, needed=False)


def _try(name: str, use: str, attempt: Callable[[], object], *, needed: bool = True) -> Probe:
    problem = ""
    try:
        attempt()
    except (OSError, AttributeError) as error:
        problem = str(error) or type(error).__name__
    return Probe(name=name, use=use, problem=problem, needed=needed)


def _try_pidfd() -> None:
    descriptor = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)


def _try_children() -> None:
    if read_process(os.getpid()) is None:
        raise OSError("/proc does not show this process")
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children", "rb"):
        pass


def _try_eventfd() -> None:
    os.close(os.eventfd(0, os.EFD_CLOEXEC))


def _try_memfd() -> None:
    os.close(os.memfd_create("probe", os.MFD_CLOEXEC))


def _try_inotify() -> None:
    os.close(linux.inotify_open())


def _try_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < _ENOUGH_DESCRIPTORS:
        raise OSError(f"only {hard} at most (ulimit -Hn)")


def _try_unnamed(directory: Path) -> None:
    os.close(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _try_splice(directory: Path) -> None:
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as log:
            os.write(theirs, b"x")
            os.splice(ours, log.fileno(), 1)
    finally:
        os.close(ours)
        os.close(theirs)


def _try_punch(directory: Path) -> None:
    with tempfile.TemporaryFile(dir=directory, buffering=0) as log:
        log.write(bytes(8192))
        linux.punch_hole(log.fileno(), 0, 4096)


def _try_lock(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(BlockingIOError):  # locked by a task: so it can be done
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)

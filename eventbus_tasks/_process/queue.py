"""The queue for one project: tickets of all processes of this user, in the order of their numbers.

A ticket is a file in the state directory that its process keeps locked, so the kernel knows which
tickets are alive; dead ones are removed by whoever meets them. Only the first living ticket goes
for the project's lock, which it waits for through inotify: the kernel says when a descriptor of
the directory is closed, and closing the last one is what frees the lock. Nobody asks again and
again, and nobody blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import struct
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eventbus_tasks._process import linux
from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.lock import Busy, Door, ProjectLock, private_directory

__all__ = ["Ticket", "enter_or_queue", "enter_or_refuse"]

_counter: Final = itertools.count()

_EVENT: Final = struct.Struct("iIII")
"""Head of an inotify event: watch, mask, cookie, length of the name behind it."""


class Ticket:
    """A place in the queue for one project. Everything but `watch` and `drain` touches the disk."""

    def __init__(self, door: Door, folder: Path, holder: Mapping[str, Any]) -> None:
        """Queue up; made by `enter_or_queue`."""
        self._door = door
        self._folder = folder
        self._holder = dict(holder)
        self._path: Path | None = None
        self._descriptor = -1
        self._inotify = -1
        self._project_watch = -1
        self._closed = False
        self._lock: ProjectLock | None = None
        # An attempt that overran its deadline may still be under way in its thread.
        self._guard = threading.Lock()
        _open.add(self)
        # Without a state directory the order between processes is the kernel's choice.
        with contextlib.suppress(OSError):
            self._draw()

    def _draw(self) -> None:
        private_directory(self._folder.parent)
        private_directory(self._folder)
        while True:
            # The monotonic clock is the same for all processes of the machine.
            name = f"{time.monotonic_ns():020d}-{os.getpid()}-{next(_counter)}"
            path = self._folder / name
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # taken for dead before it was locked
        self._path, self._descriptor = path, descriptor
        with contextlib.suppress(OSError, TypeError, ValueError):
            os.write(descriptor, json.dumps(self._holder).encode())

    @property
    def key(self) -> str:
        """``<device>-<inode>`` of the project."""
        return self._door.key

    def ahead(self) -> int:
        """Return how many living tickets are before this one."""
        if self._path is None:
            return 0
        mine = self._path.name
        return sum(1 for name in _living(self._folder) if name < mine)

    def holder(self) -> Mapping[str, Any] | None:
        """Return what is known about the task that has the project now."""
        return self._door.holder()

    def attempt(self) -> bool:
        """Take the project if it is our turn and it is free; return whether we have it.

        Raises:
            OSError: There is no way to lock this project.
        """
        with self._guard:
            if self._lock is None and not self._closed and not self.ahead():
                self._lock = self._door.enter(self._holder)
                if self._lock is not None:
                    self._leave()  # only now: the next one finds the project taken
            return self._lock is not None

    def take_lock(self) -> ProjectLock | None:
        """Return the lock that an attempt has got; it is the caller's then."""
        with self._guard:
            lock, self._lock = self._lock, None
            return lock

    # -- waiting -------------------------------------------------------------------------------

    def watch(self) -> int:
        """Return a descriptor that becomes readable when it may be our turn, or -1 without one."""
        if self._inotify < 0 and not self._closed and self._door.fd >= 0:
            try:
                self._inotify = linux.inotify_open()
                # By descriptor: whatever has become of the path, this is what is locked.
                door = b"/proc/self/fd/%d" % self._door.fd
                self._project_watch = linux.inotify_watch(self._inotify, door, linux.IN_CLOSE)
                # Not every closing: looking at a ticket closes it, too.
                mask = linux.IN_CLOSE_WRITE | linux.IN_DELETE
                if self._path is not None:
                    linux.inotify_watch(self._inotify, os.fsencode(self._folder), mask)
            except OSError:  # no instances or watches left
                self._unwatch()
        return self._inotify

    def drain(self) -> bool:
        """Take what the descriptor has to say; return whether an attempt is worth it."""
        worth = False
        while self._inotify >= 0:
            try:
                data = os.read(self._inotify, 65536)
            except BlockingIOError:
                break
            except OSError:
                return True
            offset = 0
            while offset < len(data):
                watch, _, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size + length
                # A name means: something *in* the directory, and of a project that is nothing.
                worth = worth or watch != self._project_watch or not length
        return worth

    def _unwatch(self) -> None:
        inotify, self._inotify = self._inotify, -1
        if inotify >= 0:
            os.close(inotify)

    # -- the end -------------------------------------------------------------------------------

    def _leave(self) -> None:
        path, self._path = self._path, None
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def close(self) -> None:
        """Leave the queue; a lock that nobody has taken over is let go. Safe to repeat."""
        with self._guard:
            self._closed = True
            self._unwatch()
            self._leave()
            self._door.close()
            if self._lock is not None:
                self._lock.close()
                self._lock = None
            _open.discard(self)

    def _close_in_fork(self) -> None:
        """Close the copies of a forked host; the files are the parent's."""
        self._path = None
        self._closed = True
        self._guard = threading.Lock()  # its holder may not exist here
        self.close()


_open: weakref.WeakSet[Ticket] = weakref.WeakSet()


def _close_in_fork() -> None:
    for ticket in list(_open):
        with contextlib.suppress(OSError):
            ticket._close_in_fork()


os.register_at_fork(after_in_child=_close_in_fork)


def enter_or_refuse(
    directory: Path, state_dir: Path, holder: Mapping[str, Any]
) -> ProjectLock | Busy:
    """Take the lock of a project if it is free and nobody waits for it.

    Args:
        directory: The project.
        state_dir: A private directory of this user.
        holder: What others shall be told about us, as JSON data.

    Raises:
        OSError: The directory cannot be opened, or there is no way to lock it.
    """
    door, folder, waiting, lock = _try_to_enter(directory, state_dir, holder)
    if lock is not None:
        return lock
    busy = Busy(door.holder() or (_read(folder / waiting[0]) if waiting else None))
    door.close()
    return busy


def enter_or_queue(
    directory: Path, state_dir: Path, holder: Mapping[str, Any]
) -> ProjectLock | Ticket:
    """Take the lock of a project, or a ticket when it is taken or others wait for it.

    Args:
        directory: The project.
        state_dir: A private directory of this user.
        holder: What others shall be told about us, as JSON data.

    Raises:
        OSError: The directory cannot be opened, or there is no way to lock it.
    """
    door, folder, _, lock = _try_to_enter(directory, state_dir, holder)
    return Ticket(door, folder, holder) if lock is None else lock


def _try_to_enter(
    directory: Path, state_dir: Path, holder: Mapping[str, Any]
) -> tuple[Door, Path, list[str], ProjectLock | None]:
    """Return door, queue, who waits there, and the lock if nobody has it or waits for it."""
    door = Door(directory, state_dir)
    folder = _folder(state_dir, door.key)
    waiting = _living(folder)
    return door, folder, waiting, None if waiting else door.enter(holder)


def _folder(state_dir: Path, key: str) -> Path:
    return state_dir / "queues" / key


def _living(folder: Path) -> list[str]:
    """Return the names of the living tickets, in order; remove the dead ones."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [name for name in names if _is_alive(folder / name)]


def _is_alive(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return not _is_stopped(path.name)
    except OSError:
        return False
    else:
        with contextlib.suppress(OSError):
            path.unlink()
        return False
    finally:
        os.close(descriptor)


def _is_stopped(name: str) -> bool:
    """Whether the process of a ticket is suspended (Ctrl-Z): nobody waits for it meanwhile."""
    pid = name.split("-")[1:2]
    process = read_process(int(pid[0])) if pid and pid[0].isdigit() else None
    return process is not None and process.state == "T"


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None

"""The project lock: one task per project directory, between all processes of the machine.

The lock is an ``flock`` on the directory itself, so every spelling of its path is the same
lock, and the kernel lets go of it when the last copy of the descriptor is closed, however its
holders died. Only the warden unlocks it explicitly, when guardian and family have gone: that
releases the copies of others, too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = [
    "Busy",
    "Door",
    "ProjectLock",
    "private_directory",
    "read_holder",
    "write_holder",
]

_REFUSED: Final = frozenset(
    (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.ENOSYS)
)
"""What file systems answer that do not lock directories (or do not lock at all)."""


@dataclass(frozen=True, slots=True)
class Busy:
    """The project is taken.

    Attributes:
        holder: What the holder wrote about itself, for a message to a person; ``None`` when
            that cannot be read. It proves nothing: only the lock does.
    """

    holder: Mapping[str, Any] | None


class ProjectLock:
    """A held lock; closing it lets go of this process's copy."""

    def __init__(self, descriptor: int, key: str) -> None:
        """Wrap a descriptor that holds the lock; use `acquire`."""
        self._descriptor = descriptor
        self._key = key
        _held.add(self)

    @property
    def fd(self) -> int:
        """The descriptor, to be copied to whoever shall hold the lock, too."""
        return self._descriptor

    @property
    def key(self) -> str:
        """``<device>-<inode>`` of the directory."""
        return self._key

    def close(self) -> None:
        """Let go of this copy; the lock is free when all copies are closed."""
        descriptor, self._descriptor = self._descriptor, -1
        _held.discard(self)
        if descriptor >= 0:
            os.close(descriptor)

    @classmethod
    def acquire(
        cls, directory: Path, state_dir: Path, holder: Mapping[str, Any]
    ) -> ProjectLock | Busy:
        """Take the lock of a project directory, without waiting.

        Args:
            directory: The project.
            state_dir: A private directory of this user for lock and holder files.
            holder: What others shall be told about us, as JSON data.

        Raises:
            OSError: The directory cannot be opened, or there is no way to lock it.
        """
        door = Door(directory, state_dir)
        lock = door.enter(holder)
        if lock is None:
            door.close()
            return Busy(door.holder())
        return lock


class Door:
    """An open descriptor of what is locked for a project: its directory, or a file instead.

    It stays open between attempts, because whoever waits is woken by descriptors that close.
    """

    def __init__(self, directory: Path, state_dir: Path) -> None:
        """Open the directory; its inode is the project from now on, whatever is renamed.

        Raises:
            OSError: The directory cannot be opened.
        """
        self._state_dir = state_dir
        self._is_file = False
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        self.key: str = f"{status.st_dev}-{status.st_ino}"
        _held.add(self)

    @property
    def fd(self) -> int:
        """The descriptor; -1 when it was handed over or closed."""
        return self._descriptor

    def enter(self, holder: Mapping[str, Any]) -> ProjectLock | None:
        """Take the lock if it is free; the descriptor then belongs to the lock.

        Args:
            holder: What others shall be told about us, as JSON data.

        Raises:
            OSError: There is no way to lock this project.
        """
        try:
            try:
                taken = _try_lock(self._descriptor)
            except OSError as error:
                if error.errno not in _REFUSED or self._is_file:
                    raise
                file = _open_lock_file(self._state_dir, self.key)
                os.close(self._descriptor)
                self._descriptor, self._is_file = file, True
                taken = _try_lock(file)
        except BaseException:
            self.close()
            raise
        if not taken:
            return None
        lock = ProjectLock(self._descriptor, self.key)
        _held.discard(self)
        self._descriptor = -1
        # Only a hint for people: a full disk must not keep a task from starting.
        with contextlib.suppress(OSError, TypeError, ValueError):
            write_holder(self._holder_file, holder)
        return lock

    def holder(self) -> Mapping[str, Any] | None:
        """Return what the holder wrote about itself, if that can be read."""
        return read_holder(self._holder_file)

    @property
    def _holder_file(self) -> Path:
        return self._state_dir / "holders" / f"{self.key}.json"

    def close(self) -> None:
        """Close the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        _held.discard(self)
        if descriptor >= 0:
            os.close(descriptor)


_held: weakref.WeakSet[ProjectLock | Door] = weakref.WeakSet()


def _close_in_fork() -> None:
    """A forked copy of the host must not keep projects taken."""
    for held in list(_held):
        with contextlib.suppress(OSError):
            held.close()


os.register_at_fork(after_in_child=_close_in_fork)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def private_directory(path: Path) -> None:
    """Make a directory that only this user can enter.

    Raises:
        PermissionError: It is there, and belongs to or can be written by others.
        OSError: It cannot be made.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "not a private directory of this user", str(path))


def _open_lock_file(state_dir: Path, key: str) -> int:
    """Open the lock file of a project; it is never deleted, for nobody may hold a dead name."""
    directory = state_dir / "locks"
    private_directory(directory)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(directory / f"{key}.lock", flags, 0o600)


def write_holder(path: Path, holder: Mapping[str, Any]) -> None:
    """Write down who holds something, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    private_directory(path.parent)
    data = json.dumps(dict(holder)).encode()
    temporary = f"{path.parent}/.{path.name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_holder(path: Path) -> Mapping[str, Any] | None:
    """Return what a holder has written down, or ``None`` if that cannot be read."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:
            data = json.loads(file.read(65536))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None

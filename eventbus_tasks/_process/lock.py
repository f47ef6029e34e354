"""The project lock: one task per project directory, between all processes of the machine.

The lock is an ``flock`` on the directory itself, so every spelling of its path is the same
lock, and the kernel lets go of it when the last copy of the descriptor is closed, however its
holders died. It is never unlocked explicitly: that would release the copies of others, too.
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

__all__ = ["Busy", "ProjectLock"]

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
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            key = f"{status.st_dev}-{status.st_ino}"
            try:
                taken = _try_lock(descriptor)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                os.close(descriptor)
                descriptor = -1
                descriptor = _open_lock_file(state_dir, key)
                taken = _try_lock(descriptor)
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        path = state_dir / "holders" / f"{key}.json"
        if not taken:
            os.close(descriptor)
            return Busy(_read_holder(path))
        lock = cls(descriptor, key)
        # Only a hint for people: a full disk must not keep a task from starting.
        with contextlib.suppress(OSError, TypeError, ValueError):
            _write_holder(path, holder)
        return lock


_held: weakref.WeakSet[ProjectLock] = weakref.WeakSet()


def _close_in_fork() -> None:
    """A forked copy of the host must not keep projects taken."""
    for lock in list(_held):
        with contextlib.suppress(OSError):
            lock.close()


os.register_at_fork(after_in_child=_close_in_fork)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _private_directory(path: Path) -> None:
    """Make a directory that only this user can enter.

    Raises:
        PermissionError: It is there, and belongs to or can be written by others.
        OSError: It cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "not a private directory of this user", str(path))


def _open_lock_file(state_dir: Path, key: str) -> int:
    """Open the lock file of a project; it is never deleted, for nobody may hold a dead name."""
    directory = state_dir / "locks"
    _private_directory(directory)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(directory / f"{key}.lock", flags, 0o600)


def _write_holder(path: Path, holder: Mapping[str, Any]) -> None:
    _private_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump(dict(holder), file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_holder(path: Path) -> Mapping[str, Any] | None:
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:
            data = json.loads(file.read(65536))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None

"""The tasks that have no end yet: a small file for each, so that nobody has to look at all others.

Whoever finds one whose host has died gives it an end (`recovery`). Who is at work on a task is
told by locks that the kernel takes back from the dead: its host, or whoever recovers it, holds
one on the journal, and its guardian holds one on the end record.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from eventbus_tasks_disk.history import STATE_FOLDER, Entry, open_state
from eventbus_tasks_disk.records import decode_record, encode_record
from eventbus_tasks_disk.storage import (
    create_file,
    open_directory,
    open_file,
    open_private_directory,
)

__all__ = [
    "UNFINISHED",
    "add_unfinished",
    "remove_unfinished",
    "take_lock",
    "unfinished_entries",
]

UNFINISHED: Final = "unfinished"
"""Name of the directory beside the index."""

_MAX_SIZE: Final = 1024 * 1024


def add_unfinished(state_dir: Path, entry: Entry) -> None:
    """Note that a task has begun.

    Raises:
        OSError: It cannot be noted.
    """
    os.close(open_state(state_dir, make=True))
    directory = open_private_directory(state_dir / STATE_FOLDER, UNFINISHED)
    # Under another name first: a host that dies here leaves a whole note, or none.
    temporary = f".{entry.uid}"
    try:
        file = create_file(directory, temporary, os.O_WRONLY)
        try:
            data = encode_record(entry.to_dict())
            if os.write(file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(state_dir))
            os.rename(temporary, entry.uid, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            os.close(file)
    finally:
        os.close(directory)


def remove_unfinished(state_dir: Path, uid: str) -> None:
    """Note that a task has its end. Nothing happens if that was noted before.

    Raises:
        OSError: It cannot be noted; whoever comes next will see that there is nothing to do.
    """
    with contextlib.suppress(FileNotFoundError):
        directory = open_directory(state_dir / STATE_FOLDER, UNFINISHED)
        try:
            os.unlink(uid, dir_fd=directory)
        finally:
            os.close(directory)


def unfinished_entries(state_dir: Path) -> list[Entry]:
    """Return the tasks that have no end yet, as far as their notes can be read; oldest first."""
    try:
        directory = open_directory(state_dir / STATE_FOLDER, UNFINISHED)
    except OSError:
        return []
    found = []
    try:
        for name in os.listdir(directory):
            if name.startswith("."):
                continue
            with contextlib.suppress(OSError):  # it has ended just now
                file = open_file(directory, name)
                try:
                    data = decode_record(os.read(file, _MAX_SIZE))
                finally:
                    os.close(file)
                entry = None if data is None else Entry.from_dict(data)
                if entry is not None and entry.uid == name:
                    found.append(entry)
    finally:
        os.close(directory)
    return sorted(found, key=lambda entry: entry.id)


def take_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file without waiting, and return whether it could be taken.

    It is let go when the last copy of the descriptor is closed. Where a file system has no such
    locks, everybody gets it.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True

"""Numbers that no task of this user has had before, whatever process asks.

The last number is in a file in the state directory, changed in place under a lock: 19 digits, a
space, the CRC-32 of the digits, a line ending. A file that is missing or damaged is made again
from the index; one that is older than the index (restored from a backup) is not believed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from eventbus_tasks_disk.history import STATE_FOLDER, index_numbers, open_state
from eventbus_tasks_disk.storage import make_private_path

if TYPE_CHECKING:
    from eventbus_tasks import TaskEngine

__all__ = ["add_engine", "next_id", "remove_engine", "state_directories"]

_engines: Final[WeakSet[TaskEngine]] = WeakSet()
_engines_lock: Final = threading.Lock()  # each engine may live in a thread of its own

COUNTER: Final = "last-id"
_CONTENT: Final = re.compile(rb"(\d{19}) ([0-9a-f]{8})\n")
# How many of the latest entries of the index are compared with the counter.
_LOOK_BACK: Final = 16


def add_engine(engine: TaskEngine) -> None:
    """Remember an engine of this process, for as long as it lives."""
    with _engines_lock:
        _engines.add(engine)


def remove_engine(engine: TaskEngine) -> None:
    """Forget an engine that stops."""
    with _engines_lock:
        _engines.discard(engine)


def state_directories() -> list[Path]:
    """Return the state directories of all running engines.

    The hook that gives out numbers is not told for which engine: with several, a number is made
    unique in the state directories of all of them.
    """
    with _engines_lock:
        found = {engine.settings.state_dir for engine in _engines}
    if not found:
        from eventbus_tasks import Settings

        found = {Settings.load().state_dir}
    return sorted(found)


def next_id(state_dirs: Iterable[Path]) -> int:
    """Return a number greater than all that were given out for these state directories.

    Waits for other processes that do the same.

    Raises:
        OSError: A state directory cannot be used.
    """
    with contextlib.ExitStack() as stack:
        found: dict[tuple[int, int], _Counter] = {}
        for state_dir in state_dirs:
            counter = stack.enter_context(contextlib.closing(_Counter(state_dir)))
            found.setdefault(counter.identity, counter)
        # Everybody locks in the same order, and no file twice: nobody waits for himself.
        counters = [found[identity] for identity in sorted(found)]
        for counter in counters:
            counter.lock()
        number = max(counter.last() for counter in counters) + 1
        for counter in counters:
            counter.store(number)
    return number


class _Counter:
    """The open counter of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        make_private_path(state_dir)
        self._directory = open_state(state_dir, make=True)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            self._file = os.open(COUNTER, flags, 0o600, dir_fd=self._directory)
        except OSError as error:
            os.close(self._directory)
            error.filename = str(state_dir / STATE_FOLDER / COUNTER)
            raise
        os.fchmod(self._file, 0o600)
        status = os.fstat(self._file)
        self.identity = (status.st_dev, status.st_ino)

    def lock(self) -> None:
        """Wait until nobody else is at it."""
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def last(self) -> int:
        """Return the greatest number that was given out."""
        content = _CONTENT.fullmatch(os.pread(self._file, 64, 0))
        if content is None or zlib.crc32(content[1]) != int(content[2], 16):
            return max(index_numbers(self._directory), default=0)
        latest = islice(index_numbers(self._directory), _LOOK_BACK)
        return max(int(content[1]), max(latest, default=0))

    def store(self, number: int) -> None:
        """Note a number, durably."""
        digits = b"%019d" % number
        content = b"%s %08x\n" % (digits, zlib.crc32(digits))
        # In place: needs no room on a full disk, and the lock stays on the file that counts.
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, len(content))
        os.fdatasync(self._file)

    def close(self) -> None:
        """Let others go on."""
        os.close(self._file)
        os.close(self._directory)

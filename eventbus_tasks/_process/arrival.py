"""In which order the output of a task has arrived, and when: a small index beside its logs.

Two pipes have no common order of writing. What is kept is the order in which the guardian has
seen their bytes: entries of 16 bytes, each saying that by then so many bytes of a stream had
come. Entries of one stream that follow each other quickly become one, so that a flood costs
nothing; and the index has a largest size.
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Arrival", "ArrivalIndex", "ArrivalReader"]

ENTRY: Final = struct.Struct("<QQ")
"""The end, twice, plus 1 for standard error; and microseconds since 1970."""

STEP: Final = 0.01
"""Seconds within which entries of one stream become one."""

LARGEST: Final = 64 * 1024 * 1024
"""Bytes of an index; what arrives later is in the logs alone."""

_STREAMS: Final[tuple[Literal["stdout", "stderr"], ...]] = ("stdout", "stderr")
_READ: Final = 4096 * ENTRY.size


class ArrivalIndex:
    """Writes the index of one task."""

    def __init__(self, descriptor: int) -> None:
        """Take over an empty file."""
        self._descriptor = descriptor
        self._size = 0
        self._ends = [0, 0]
        self._stream = -1
        self._until = 0.0
        self._waiting: bytes | None = None

    @property
    def deadline(self) -> float:
        """When to call `tick`; infinite, if not at all."""
        return math.inf if self._waiting is None else self._until

    def note(self, stream: int, end: int, now: float) -> None:
        """Note that bytes have come, if they have.

        Args:
            stream: 0 for standard output, 1 for standard error.
            end: How many bytes of it there are now.
            now: The monotonic time.
        """
        if end == self._ends[stream]:
            return
        self._ends[stream] = end
        entry = ENTRY.pack(end << 1 | stream, time.time_ns() // 1000)
        if stream == self._stream and now < self._until:
            self._waiting = entry
            return
        if stream == self._stream:
            self._waiting = None  # this one says more, hardly later
        self._flush()
        self._write(entry)
        self._stream, self._until = stream, now + STEP

    def tick(self, now: float) -> None:
        """Write what has waited long enough."""
        if self._waiting is not None and now >= self._until:
            self._flush()
            self._until = now + STEP

    def finish(self, ends: Sequence[int], now: float) -> None:
        """Write everything: this is the end of each stream."""
        for stream, end in enumerate(ends):
            self.note(stream, end, now)
        self._flush()

    def _flush(self) -> None:
        if self._waiting is not None:
            self._write(self._waiting)
            self._waiting = None

    def _write(self, entry: bytes) -> None:
        if self._size >= LARGEST:
            return
        try:
            # At its place, so that half an entry is overwritten by the next one.
            written = os.pwrite(self._descriptor, entry, self._size)
        except OSError:
            return  # a full disk: later entries say more than this one anyway
        if written == len(entry):
            self._size += written


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """By a moment, so many bytes of a stream had come.

    Attributes:
        stream: ``"stdout"`` or ``"stderr"``.
        start: How many there were of it before; 0 for the first one.
        end: How many there were then.
        at: The moment, in seconds since 1970.
    """

    stream: Literal["stdout", "stderr"]
    start: int
    end: int
    at: float


class ArrivalReader:
    """Reads an index, also while it is written.

    Args:
        descriptor: The file; it stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self._ends = [0, 0]

    def read(self) -> list[Arrival]:
        """Return what has come since the last call, some thousand entries at most, in order.

        Half an entry at the end is left for the next call; what cannot be true is passed over.

        Raises:
            OSError: The file cannot be read.
        """
        data = os.pread(self._descriptor, _READ, self._position)
        whole = len(data) // ENTRY.size * ENTRY.size
        self._position += whole
        found = []
        for word, moment in ENTRY.iter_unpack(data[:whole]):
            stream, end = word & 1, word >> 1
            start = self._ends[stream]
            if end > start:
                self._ends[stream] = end
                arrival = Arrival(stream=_STREAMS[stream], start=start, end=end, at=moment / 1e6)
                found.append(arrival)
        return found

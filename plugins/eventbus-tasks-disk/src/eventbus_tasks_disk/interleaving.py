"""The lines of all streams of a task in the order in which they have arrived, with their times."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from eventbus_tasks.arrivals import ArrivalReader
from eventbus_tasks_disk.storage import find_data

__all__ = ["Interleaving", "StampedLine"]

_BLOCK = 64 * 1024
_LONGEST = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StampedLine:
    """One line, or a piece of a very long one.

    Attributes:
        stream: ``"stdout"`` or ``"stderr"``.
        data: Its bytes, with the line ending, which only the last line of a stream may lack.
        at: When it was complete, in seconds since 1970; ``None`` where nobody knows.
    """

    stream: str
    data: bytes
    at: float | None


class Interleaving:
    """Reads some logs by their index, also while they are written.

    Args:
        logs: Descriptors of the logs, by stream; they stay the caller's.
        index: Descriptor of the index, or ``None``: then one stream follows the other.
        start: Where to begin in each stream: at the beginning of a line.
    """

    def __init__(
        self, logs: Mapping[str, int], index: int | None, start: Mapping[str, int] | None = None
    ) -> None:
        self._logs = dict(logs)
        self._reader = None if index is None else ArrivalReader(index)
        self._positions = {stream: (start or {}).get(stream, 0) for stream in logs}
        self._begun = dict.fromkeys(logs, b"")

    def read(self) -> Iterator[StampedLine]:
        """Yield the lines that have become complete since the last call."""
        while self._reader is not None and (arrivals := self._reader.read()):
            for arrival in arrivals:
                if arrival.stream in self._logs:
                    yield from self._read_to(arrival.stream, arrival.end, arrival.at)

    def finish(self) -> Iterator[StampedLine]:
        """Yield everything else: what the index does not know, and lines without an end."""
        yield from self.read()
        for stream, log in self._logs.items():
            yield from self._read_to(stream, os.fstat(log).st_size, None)
        for stream, data in self._begun.items():
            if data:
                yield StampedLine(stream=stream, data=data, at=None)
                self._begun[stream] = b""

    def _read_to(self, stream: str, end: int, at: float | None) -> Iterator[StampedLine]:
        position = self._positions[stream]
        while position < end:
            begin, stop = find_data(self._logs[stream], position)
            length = min(_BLOCK, stop - begin, end - begin)
            block = os.pread(self._logs[stream], length, begin) if length > 0 else b""
            if not block:
                break  # cut off by somebody, lost, or never written
            if begin > position and (rest := self._begun[stream]):
                yield StampedLine(stream=stream, data=rest + b"\n", at=at)  # its end was lost
                self._begun[stream] = b""
            position = begin + len(block)
            *lines, rest = (self._begun[stream] + block).split(b"\n")
            for line in lines:
                yield StampedLine(stream=stream, data=line + b"\n", at=at)
            if len(rest) > _LONGEST:
                yield StampedLine(stream=stream, data=rest, at=at)
                rest = b""
            self._begun[stream] = rest
        self._positions[stream] = max(self._positions[stream], end)

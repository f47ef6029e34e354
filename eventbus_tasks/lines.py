"""Cutting bytes into lines: at ``\\n`` only, of any length, never inside a character."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = [
    "MAX_LINE",
    "LineSplitter",
    "LogLine",
    "LogLines",
    "decode_line",
    "decode_lines",
    "piece_end",
]

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes after which a line is delivered in pieces, so that no line can fill the memory."""


def decode_line(line: bytes) -> str:
    """Return a line without its ending as text; a ``\\r`` before the ending belongs to it."""
    if line.endswith(b"\r"):
        line = line[:-1]
    return line.decode("utf-8", "replace")


def decode_lines(data: bytes, *, last: bool = False) -> tuple[str, ...]:
    """Return the complete lines in `data`, which begins at the beginning of a line.

    Args:
        data: The bytes.
        last: What follows the last line ending is a line too, if it is not empty.
    """
    if data.endswith(b"\n") and b"\r" not in data and len(data) < MAX_LINE:
        # Nearly always. One decode and one split for all: the price of lines is per call.
        return tuple(data[:-1].decode("utf-8", "replace").split("\n"))
    end = data.rfind(b"\n")
    if end < 0 and not (last and data):
        return () if len(data) < MAX_LINE else _pieces(data, last=False)
    complete = data[:end] if end >= 0 else b""
    rest = data[end + 1 :]
    if b"\r" not in complete and len(complete) < MAX_LINE:
        lines = complete.decode("utf-8", "replace").split("\n") if end >= 0 else []
    else:
        lines = [
            text
            for line in (complete.split(b"\n") if end >= 0 else ())
            for text in ((decode_line(line),) if len(line) < MAX_LINE else _pieces(line, last=True))
        ]
    if rest and (last or len(rest) >= MAX_LINE):
        lines.extend(_pieces(rest, last=last))
    return tuple(lines)


def piece_end(data: bytes, start: int = 0) -> int:
    """Return where the piece of an over-long line that begins at `start` ends.

    It ends after `MAX_LINE` bytes, or up to three bytes earlier where that is inside a UTF-8
    character, so that no character is cut.
    """
    end = start + MAX_LINE
    for back in range(4):
        # 0b10xxxxxx continues a character: the cut must not be in front of such a byte.
        if end - back < len(data) and data[end - back] & 0xC0 != 0x80:
            return end - back
    return end


def _pieces(data: bytes, *, last: bool) -> tuple[str, ...]:
    pieces: list[str] = []
    start = 0
    while len(data) - start > MAX_LINE:
        end = piece_end(data, start)
        pieces.append(data[start:end].decode("utf-8", "replace"))
        start = end
    if last and start < len(data):
        pieces.append(decode_line(data[start:]))
    return tuple(pieces)


class LineSplitter:
    """Cuts a stream of chunks into lines, keeping what is not complete yet.

    The result does not depend on how the bytes were cut into chunks.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[tuple[bytes, bool]]:
        """Return ``(line, truncated)`` for every line that `chunk` completes.

        Lines come without ``\\n``. A truncated one is a piece of `MAX_LINE` bytes (or up to
        three fewer) of a longer line.
        """
        lines: list[tuple[bytes, bool]] = []
        pieces = chunk.split(b"\n")
        for piece in pieces[:-1]:
            self._add(piece, lines)
            lines.append((self._take(), False))
        self._add(pieces[-1], lines)
        return lines

    def finish(self) -> list[tuple[bytes, bool]]:
        """Return the last line, if the stream did not end with a line ending."""
        return [(self._take(), False)] if self._size else []

    def _add(self, piece: bytes, lines: list[tuple[bytes, bool]]) -> None:
        if piece:
            self._parts.append(piece)
            self._size += len(piece)
        # One byte more than a piece is needed to know whether the cut is inside a character.
        while self._size > MAX_LINE:
            data = self._take()
            end = piece_end(data)
            lines.append((data[:end], True))
            self._parts = [data[end:]]
            self._size = len(data) - end

    def _take(self) -> bytes:
        line = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        self._size = 0
        return line


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log, and where it is.

    Attributes:
        number: Its number in the stream, from 1.
        start: Offset of its first byte.
        end: Offset behind it and its line ending: where to go on reading.
        data: Its bytes, without ``\\n``.
        truncated: It is a piece of a line over 16 MiB, and another piece follows.
    """

    number: int
    start: int
    end: int
    data: bytes
    truncated: bool = False

    @property
    def text(self) -> str:
        """The line as UTF-8; what is not valid is replaced, a ``\\r`` at its end left out."""
        if self.truncated:
            return self.data.decode("utf-8", "replace")
        return decode_line(self.data)


class LogLines:
    """Makes `LogLine` objects of the pieces of a log, in order; a gap between pieces ends a line.

    Args:
        start: Offset of the first line.
        number: Its number.
    """

    def __init__(self, start: int, number: int) -> None:
        self._splitter = LineSplitter()
        self._start = start  # of the line that is not complete yet
        self._end = start  # of what was fed
        self._number = number

    def feed(self, offset: int, data: bytes) -> Iterator[LogLine]:
        """Yield the lines that a piece completes."""
        if offset != self._end:
            yield from self.finish()
            self._start = offset
        self._end = offset + len(data)
        for line, truncated in self._splitter.feed(data):
            yield self._made(line, truncated, not truncated)

    def finish(self) -> Iterator[LogLine]:
        """Yield what has no line ending."""
        for line, truncated in self._splitter.finish():
            yield self._made(line, truncated, False)

    def _made(self, line: bytes, truncated: bool, ended: bool) -> LogLine:
        start = self._start
        self._start = end = start + len(line) + ended
        number = self._number
        self._number += not truncated
        return LogLine(number, start, end, line, truncated)

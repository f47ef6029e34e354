"""`OutputLine` events, derived from the ranges of `OutputReceived`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from eventbus_tasks._drafts import draft_of
from eventbus_tasks.events import OutputLine, OutputReceived, OutputSource
from eventbus_tasks.lines import MAX_LINE, LineSplitter, decode_line, decode_lines
from eventbus_tasks.policies import Stream
from eventbus_tasks.request import TaskRef

__all__ = ["LineNumbers", "output_lines", "whole_lines"]

_Draft: Final = draft_of(OutputLine)

# Streams whose line numbers are remembered; those of others are counted from their beginning.
_REMEMBERED: Final = 1024


class LineNumbers:
    """Knows the number of the line at an offset, by counting on from the last one asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[int, int]] = {}

    def at(self, task: TaskRef, stream: Stream, offset: int, source: OutputSource | None) -> int:
        """Return the number of the line that begins at `offset`."""
        known, number = self._known.get((task.uid, stream), (0, 1))
        if known > offset:
            known, number = 0, 1
        while known < offset and source is not None:
            end = min(known + 1024 * 1024, offset)
            number += source.read(known, end, stream).count(b"\n")
            known = end
        return number

    def advance(self, task: TaskRef, stream: Stream, offset: int, number: int) -> None:
        """Take note that the line at `offset` has this number."""
        self._known[task.uid, stream] = (offset, number)
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    def forget(self, task: TaskRef) -> None:
        for stream in ("stdout", "stderr"):
            self._known.pop((task.uid, stream), None)


def output_lines(event: OutputReceived, numbers: LineNumbers) -> Iterator[OutputLine]:
    """Make the `OutputLine` events of an `OutputReceived`.

    Raises:
        OutputUnavailableError: The log is gone.
        OSError: It cannot be read.
    """
    task, stream = event.task, event.stream
    number = numbers.at(task, stream, event.line_start, event.source)
    if event.end - event.line_start >= MAX_LINE:
        return _long_lines(event, numbers, number)
    data = event._completed()
    texts = decode_lines(data, last=event.last)
    if not event.last:
        # Every line but those of the last event ends with a line ending of its own.
        start = event.line_start + data.rfind(b"\n") + 1 if texts else event.line_start
        numbers.advance(task, stream, start, number + len(texts))
    return _made(texts, task, event.seq, event.at, stream, number)


def whole_lines(
    data: bytes,
    start: int,
    numbers: LineNumbers,
    *,
    task: TaskRef,
    seq: int,
    at: datetime,
    stream: Stream,
    source: OutputSource,
) -> Iterator[OutputLine]:
    """Make the `OutputLine` events of bytes that are whole lines, without an event of the range.

    Args:
        data: The bytes; under `MAX_LINE`.
        start: Their offset.
        numbers: Of lines.
        task: As in the event of the range.
        seq: As in the event of the range.
        at: As in the event of the range.
        stream: As in the event of the range.
        source: As in the event of the range.
    """
    texts = decode_lines(data)
    number = numbers.at(task, stream, start, source)
    numbers.advance(task, stream, start + len(data), number + len(texts))
    return _made(texts, task, seq, at, stream, number)


def _made(
    texts: Iterable[str], task: TaskRef, seq: int, at: datetime, stream: Stream, number: int
) -> Iterator[OutputLine]:
    new, draft, final = object.__new__, _Draft, OutputLine
    line: Any
    for text in texts:
        line = new(draft)
        line.task = task
        line.seq = seq
        line.at = at
        line.stream = stream
        line.number = number
        line.text = text
        line.truncated = False
        line.__class__ = final
        yield line
        number += 1


def _long_lines(event: OutputReceived, numbers: LineNumbers, number: int) -> Iterator[OutputLine]:
    task, stream = event.task, event.stream
    splitter = LineSplitter()
    data = event._read(event.line_start, event.end)
    cut = splitter.feed(data)
    for piece, truncated in cut + (splitter.finish() if event.last else []):
        text = piece.decode("utf-8", "replace") if truncated else decode_line(piece)
        yield OutputLine(
            task=task,
            seq=event.seq,
            at=event.at,
            stream=stream,
            number=number,
            text=text,
            truncated=truncated,
        )
        number += not truncated
    # Pieces and lines that were cut off; each complete line has one byte of line ending.
    used = sum(len(piece) + (not truncated) for piece, truncated in cut)
    numbers.advance(task, stream, event.line_start + used, number)

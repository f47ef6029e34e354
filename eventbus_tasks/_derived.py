"""`OutputLine` events, derived from the ranges of `OutputReceived`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from eventbus_tasks._drafts import draft_of
from eventbus_tasks.events import OutputLine, OutputReceived
from eventbus_tasks.lines import MAX_LINE, LineSplitter, decode_line, decode_lines
from eventbus_tasks.request import TaskRef

__all__ = ["LineNumbers", "output_lines"]

_Draft: Final = draft_of(OutputLine)

# Streams whose line numbers are remembered; those of others are counted from their beginning.
_REMEMBERED: Final = 1024


class LineNumbers:
    """Knows the number of the line at an offset, by counting on from the last one asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[int, int]] = {}

    def at_start(self, event: OutputReceived) -> int:
        key = (event.task.uid, event.stream)
        offset, number = self._known.get(key, (0, 1))
        if offset > event.line_start:
            offset, number = 0, 1
        source = event.source
        while offset < event.line_start and source is not None:
            end = min(offset + 1024 * 1024, event.line_start)
            number += source.read(offset, end, event.stream).count(b"\n")
            offset = end
        return number

    def advance(self, event: OutputReceived, offset: int, number: int) -> None:
        self._known[event.task.uid, event.stream] = (offset, number)
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    def forget(self, task: TaskRef) -> None:
        for stream in ("stdout", "stderr"):
            self._known.pop((task.uid, stream), None)


def output_lines(event: OutputReceived, numbers: LineNumbers) -> Iterator[OutputLine]:
    """Make the `OutputLine` events of an `OutputReceived`."""
    number = numbers.at_start(event)
    task, seq, at, stream = event.task, event.seq, event.at, event.stream
    if event.end - event.line_start < MAX_LINE:
        data = event._completed()
        lines = decode_lines(data, last=event.last)
        if not event.last:
            # Every line but those of the last event ends with a line ending of its own.
            start = event.line_start + data.rfind(b"\n") + 1 if lines else event.line_start
            numbers.advance(event, start, number + len(lines))
        new, draft, final = object.__new__, _Draft, OutputLine
        line: Any
        for text in lines:
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
        return
    splitter = LineSplitter()
    data = event._read(event.line_start, event.end)
    cut = splitter.feed(data)
    for piece, truncated in cut + (splitter.finish() if event.last else []):
        text = piece.decode("utf-8", "replace") if truncated else decode_line(piece)
        yield OutputLine(
            task=task, seq=seq, at=at, stream=stream, number=number, text=text, truncated=truncated
        )
        number += not truncated
    # Pieces and lines that were cut off; each complete line has one byte of line ending.
    used = sum(len(piece) + (not truncated) for piece, truncated in cut)
    numbers.advance(event, event.line_start + used, number)

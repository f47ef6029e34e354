"""`OutputLine` events, derived from the ranges of `OutputReceived`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from eventbus_tasks.events import OutputLine, OutputReceived
from eventbus_tasks.lines import MAX_LINE, LineSplitter, decode_line
from eventbus_tasks.request import TaskRef

__all__ = ["LineNumbers", "output_lines"]


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
        lines = event.lines
        for index, text in enumerate(lines):
            yield OutputLine(
                task=task, seq=seq, at=at, stream=stream, number=number + index, text=text
            )
        if not event.last:
            # Every line but those of the last event ends with a line ending of its own.
            numbers.advance(event, _line_start_after(event, lines), number + len(lines))
        return
    splitter = LineSplitter()
    data = event._read(event.line_start, event.end)
    cut = splitter.feed(data)
    for line, truncated in cut + (splitter.finish() if event.last else []):
        text = line.decode("utf-8", "replace") if truncated else decode_line(line)
        yield OutputLine(
            task=task, seq=seq, at=at, stream=stream, number=number, text=text, truncated=truncated
        )
        number += not truncated
    # Pieces and lines that were cut off; each complete line has one byte of line ending.
    used = sum(len(line) + (not truncated) for line, truncated in cut)
    numbers.advance(event, event.line_start + used, number)


def _line_start_after(event: OutputReceived, lines: tuple[str, ...]) -> int:
    if not lines:
        return event.line_start
    # The new beginning is behind the last line ending, which lies in the new bytes.
    return event.start + event.data.rfind(b"\n") + 1

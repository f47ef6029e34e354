"""The events of a task so far, for those who come later: small, whatever the task writes."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import anyio
import anyio.to_thread

from eventbus_tasks._delivery import MERGE_LIMIT
from eventbus_tasks.errors import HistoryUnavailableError
from eventbus_tasks.events import AgentActivity, OutputReceived, OutputSource, TaskEvent
from eventbus_tasks.policies import ReadableJournal, Stream

__all__ = ["LIMIT", "History", "Replay"]

LIMIT: Final = 4096
"""Entries that are kept when older ones can be read from a journal."""

MOST: Final = 65536
"""Entries that are kept when they cannot: a task may run for months."""

EXACT: Final = 8192
"""Ranges of a run that are kept one by one at least; older ones are merged for good."""

AT_ONCE: Final = 16
"""Ranges that are kept as they are, before they become numbers: more would drive what a hundred
chatty tasks need out of the processor's caches."""


class _Run:
    """Adjoining ranges of one stream: five numbers for each instead of an event."""

    def __init__(self, event: OutputReceived) -> None:
        self._first = event
        self._numbers = array("q")  # of the last event of each range
        self._firsts = array("q")  # and of the first one
        self._ends = array("q")
        self._line_starts = array("q")
        self._times = array("d")
        self.last_number = event.seq
        self._stream = event.stream
        self._last_end = event.end
        # Which are not in the arrays yet (many at once are cheaper): number, end, line start, time.
        self._latest = [(event.seq, event.end, event.line_start, event.at)]

    def extend(
        self, seq: int, stream: Stream, start: int, end: int, line_start: int, at: datetime
    ) -> bool:
        """Take a range that adjoins the last one; return whether it does."""
        if start != self._last_end or stream != self._stream or seq != self.last_number + 1:
            return False
        self.last_number = seq
        self._last_end = end
        latest = self._latest
        latest.append((seq, end, line_start, at))
        if len(latest) >= AT_ONCE:
            self._store()
        return True

    def _store(self) -> None:
        latest, self._latest = self._latest, []
        if len(self._numbers) >= 2 * EXACT:
            self._merge_older()
        if not latest:
            return
        numbers, ends, line_starts, times = zip(*latest, strict=True)
        self._numbers.extend(numbers)
        self._firsts.extend(numbers)
        self._ends.extend(ends)
        self._line_starts.extend(line_starts)
        self._times.extend([at.timestamp() for at in times])

    def _merge_older(self) -> None:
        """Forget the numbers within older megabytes: what is left is enough to begin at them."""
        kept: list[int] = []
        start = self._first.start
        for index in range(len(self._numbers) - EXACT):
            full = self._ends[index] - start > MERGE_LIMIT
            if full and index and (not kept or kept[-1] != index - 1):
                kept.append(index - 1)
                start = self._ends[index - 1]
        kept.extend(range(len(self._numbers) - EXACT, len(self._numbers)))
        # The first line of what is merged stays its first line.
        firsts = [0, *(index + 1 for index in kept[:-1])]
        self._line_starts = array("q", [self._line_starts[index] for index in firsts])
        self._firsts = array("q", [self._firsts[index] for index in firsts])
        self._numbers = array("q", [self._numbers[index] for index in kept])
        self._ends = array("q", [self._ends[index] for index in kept])
        self._times = array("d", [self._times[index] for index in kept])

    def between(self, after: int, up_to: int) -> Iterator[OutputReceived]:
        """Yield the ranges with numbers over `after` and up to `up_to`, merged.

        Raises:
            HistoryUnavailableError: `after` is within what was merged for good.
        """
        first = self._first
        self._store()
        # Copies: the run may grow, and be merged, between two steps of the iteration.
        begin = bisect.bisect_right(self._numbers, after)
        stop = bisect.bisect_right(self._numbers, up_to)
        numbers, ends = self._numbers[:stop], self._ends[:stop]
        firsts, line_starts, times = (
            self._firsts[:stop],
            self._line_starts[:stop],
            self._times[:stop],
        )
        if begin < stop and firsts[begin] <= after:
            raise HistoryUnavailableError(
                f"output up to event {numbers[begin]} is remembered in one piece only"
            )
        while begin < stop:
            start = ends[begin - 1] if begin else first.start
            end = begin + 1
            while end < stop and ends[end] - start <= MERGE_LIMIT:
                end += 1
            number, first_number = numbers[end - 1], firsts[begin]
            yield OutputReceived(
                task=first.task,
                seq=number,
                at=datetime.fromtimestamp(times[end - 1], UTC),
                stream=first.stream,
                start=start,
                end=ends[end - 1],
                line_start=line_starts[begin],
                first_seq=first_number if first_number != number else 0,
                source=first.source,
            )
            begin = end


class History:
    """What was numbered so far.

    Args:
        limit: Entries to keep; adjoining output is one.
    """

    def __init__(self, limit: int = MOST) -> None:
        self._limit = limit
        self._entries: deque[TaskEvent | _Run] = deque()
        self._run: _Run | None = None  # the last entry, if it is one
        self.first_kept: int = 1
        self.last: int = 0

    def add(self, event: TaskEvent) -> None:
        """Take the next event, at the moment when it is told."""
        self.last = event.seq
        if type(event) is OutputReceived and not event.last:
            if self.extend(
                event.seq, event.stream, event.start, event.end, event.line_start, event.at
            ):
                return
            self._run = _Run(event)
            self._entries.append(self._run)
        else:
            self._run = None
            self._entries.append(event)
        if len(self._entries) > self._limit:
            dropped = self._entries.popleft()
            number = dropped.last_number if isinstance(dropped, _Run) else dropped.seq
            self.first_kept = number + 1

    def extend(
        self, seq: int, stream: Stream, start: int, end: int, line_start: int, at: datetime
    ) -> bool:
        """Take the next event as what it would say, if that is output which adjoins the last one's.

        Returns:
            Whether it was taken.
        """
        run = self._run
        if run is None or not run.extend(seq, stream, start, end, line_start, at):
            return False
        self.last = seq
        return True

    def between(self, after: int, up_to: int) -> Iterator[TaskEvent]:
        """Return the events with numbers over `after` and up to `up_to`; adjoining output merged.

        They are those of the moment of the call, whenever they are taken.
        """
        return _between(tuple(self._entries), after, up_to)


def _between(entries: Sequence[TaskEvent | _Run], after: int, up_to: int) -> Iterator[TaskEvent]:
    for entry in entries:
        if isinstance(entry, _Run):
            yield from entry.between(after, up_to)
        elif after < entry.seq <= up_to:
            yield entry


class Replay:
    """The events of a task up to now, from a number on: from its journal, then from memory.

    Args:
        history: What is remembered.
        journal: Where older events may be read.
        output: The log that events from the journal refer to.
        after: The number of the last event that is not wanted.
    """

    def __init__(
        self,
        history: History,
        journal: object,
        output: OutputSource,
        *,
        after: int,
    ) -> None:
        self.up_to: int = history.last
        self._after = after
        self._journal = journal
        self._output = output
        self._older_than = history.first_kept if after + 1 < history.first_kept else 0
        self._events = history.between(after, self.up_to)

    async def next(self) -> TaskEvent | None:
        """Return the next one, or ``None`` after the last.

        Raises:
            HistoryUnavailableError: Events are neither remembered nor in the journal.
        """
        if self._older_than:
            older = await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
            self._older_than = 0
            self._events = itertools.chain(older, self._events)
        return next(self._events, None)

    def _read(self) -> list[TaskEvent]:
        if not isinstance(self._journal, ReadableJournal):
            raise HistoryUnavailableError("the events are not remembered any more")
        try:
            read = self._journal.read_after(self._after)
        except Exception as error:
            raise HistoryUnavailableError(
                f"the journal cannot be read: {type(error).__name__}: {error}"
            ) from error
        wanted = range(self._after + 1, self._older_than)
        found = [event for event in read if event.seq in wanted]
        if [event.seq for event in found] != list(wanted):
            raise HistoryUnavailableError("some of the events are missing in the journal")
        return [
            dataclasses.replace(event, source=self._output)
            if isinstance(event, (OutputReceived, AgentActivity))
            else event
            for event in found
        ]

"""Which bytes of a stream are not in its log."""

from __future__ import annotations

import bisect

__all__ = ["Lost"]


class Lost:
    """Ranges of offsets, each byte counted once, whatever has happened to it how often."""

    def __init__(self) -> None:
        """Begin with nothing lost."""
        self.total = 0
        # In order, apart from each other: the beginnings and the ends.
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> list[tuple[int, int]]:
        """Add a range, and return those parts of it that were not lost before, in order."""
        if start >= end:
            return []
        first = bisect.bisect_left(self._ends, start)
        behind = bisect.bisect_right(self._starts, end)
        fresh = []
        position = start
        for known_start, known_end in zip(
            self._starts[first:behind], self._ends[first:behind], strict=True
        ):
            if position < known_start:
                fresh.append((position, known_start))
            position = max(position, known_end)
        if position < end:
            fresh.append((position, end))
        if first < behind:
            start = min(start, self._starts[first])
            end = max(end, self._ends[behind - 1])
        self._starts[first:behind] = [start]
        self._ends[first:behind] = [end]
        self.total += sum(b - a for a, b in fresh)
        return fresh

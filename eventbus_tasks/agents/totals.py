"""Differences from totals: agents repeat counters, events tell what is new."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Totals"]


class Totals:
    """Turns counters that only grow into what is new since the last time.

    Args:
        unknown_start: The first total includes what was there before this run (a resumed
            session): how much of it is new cannot be known.
    """

    def __init__(self, *, unknown_start: bool = False) -> None:
        self._last: dict[str, int] = {}
        self._unknown_start = unknown_start

    def new(self, totals: Mapping[str, int | None]) -> dict[str, int | None]:
        """Return the difference of each counter to the last call; ``None`` means unknown.

        Args:
            totals: The counters by name; ``None`` where the agent says nothing, which changes
                nothing. A counter that has become smaller counts as unchanged: what has been
                told cannot be taken back.
        """
        found: dict[str, int | None] = {}
        for name, total in totals.items():
            if total is None:
                found[name] = None
                continue
            if name in self._last:
                found[name] = max(0, total - self._last[name])
            else:
                found[name] = None if self._unknown_start else total
            self._last[name] = max(total, self._last.get(name, 0))
        return found

"""Rests that keep the loop within its share of the processors while floods take all of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Final

__all__ = ["LONGEST_REST", "SHORTEST_REST", "WAITED", "ProcessorWait", "Restraint"]

WAITED: Final = 0.0002
"""Seconds of waiting for a processor, since the last rest, from which on rests become longer; or a
twentieth of the rest, where that is more."""

SHORTEST_REST: Final = 0.006
LONGEST_REST: Final = 0.03
"""Seconds of a rest, if there is any."""

_DECAY: Final = 0.9


class ProcessorWait:
    """How long the thread in which it is made has waited for a processor.

    The kernel counts it in the second number of ``schedstat`` (see its
    ``Documentation/scheduler/sched-stats.rst``), unless it was built without.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def __call__(self) -> float:
        """Return the seconds so far; 0 where nobody knows."""
        if self._file is None:
            return 0.0
        return int(os.pread(self._file, 64, 0).split()[1]) / 1e9

    def close(self) -> None:
        """Close what is open. Safe to repeat."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


class Restraint:
    """How long the loop rests between two rounds of handing out floods.

    A scheduler that shares fairly (Linux since 6.6: EEVDF) lets a thread that has used more than
    its share wait until the others had theirs, for milliseconds each; with it waits everything
    else on the loop. A thread that rests stays within its share, and runs as soon as it wakes. So
    rests are doubled while the thread has to wait, and become shorter when it has not.
    """

    def __init__(self, waited: Callable[[], float]) -> None:
        """`waited` returns the seconds for which the thread has waited for a processor so far."""
        self._waited = waited
        self._rest = 0.0
        self._before: float | None = None

    def next_rest(self) -> float:
        """Return the seconds to rest now; 0 as long as there are processors enough."""
        before, self._before = self._before, self._waited()
        if before is None:
            return 0.0
        if self._before - before > max(WAITED, self._rest / 20):
            self._rest = min(max(2 * self._rest, SHORTEST_REST), LONGEST_REST)
        else:
            self._rest *= _DECAY
            if self._rest < SHORTEST_REST / 4:
                self._rest = 0.0
        return self._rest

    def end(self) -> None:
        """Take note that the floods are over."""
        self._rest, self._before = 0.0, None

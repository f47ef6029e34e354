"""How long the kernel is told to wait."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["LONGEST", "poll_time"]

LONGEST: Final = 86400.0
"""Seconds: `poll` counts milliseconds in 32 bits, 24 days. Who waits longer looks once a day."""


def poll_time(seconds: float) -> int | None:
    """Return a time as `poll` takes it: milliseconds, ``None`` for ever, none if it is over.

    Rounded up, for whoever comes too early would only spin; no longer than `LONGEST`.
    """
    if seconds == math.inf:
        return None
    return 0 if seconds < 0 else int(min(seconds, LONGEST) * 1000) + 1

"""What a guardian has told its host, kept for a host that comes later."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from eventbus_tasks._process import wire

__all__ = ["Told", "packets", "remember"]

_MOST: Final = 1000
"""Messages that are kept; only a family that withstands many signals ever has more."""

Told = list[wire.Message | bytes]
"""The messages of one task in their order; some as the packets that they are."""


def remember(told: Told, message: wire.Message) -> None:
    """Keep a message.

    Neighbouring messages about lost bytes become one: retention sends them for as long as the
    task writes.
    """
    if isinstance(message, wire.Dropped):
        for index in range(len(told) - 1, -1, -1):
            known = told[index]
            if isinstance(known, wire.Dropped) and (known.stream, known.why) == (
                message.stream,
                message.why,
            ):
                if known.end == message.start:
                    told[index] = replace(known, end=message.end)
                    return
                break
    elif isinstance(message, wire.SignalSent) and len(told) >= _MOST:
        return
    told.append(message)


def packets(told: Told) -> list[bytes]:
    """Return what was told, in order, to be told again."""
    return [item if isinstance(item, bytes) else wire.encode(item) for item in told]

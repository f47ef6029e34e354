"""What a guardian has told its host, kept for a host that comes later."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from eventbus_tasks._process import wire

__all__ = ["History"]

_MOST: Final = 1000
"""Messages that are kept; only a family that withstands many signals ever has more."""


class History:
    """The messages of one task in their order, in little room.

    Neighbouring messages about lost bytes become one: retention sends them for as long as the
    task writes.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.started: wire.Started | None = None
        self._messages: list[wire.Message] = []
        self._gaps: dict[tuple[str, str], int] = {}

    def add(self, message: wire.Message) -> None:
        """Keep a message."""
        if isinstance(message, wire.Started):
            self.started = message
        elif isinstance(message, wire.Dropped):
            key = (message.stream, message.why)
            index = self._gaps.get(key)
            known = None if index is None else self._messages[index]
            if isinstance(known, wire.Dropped) and known.end == message.start:
                assert index is not None
                self._messages[index] = replace(known, end=message.end)
                return
            self._gaps[key] = len(self._messages)
        elif isinstance(message, wire.SignalSent) and len(self._messages) >= _MOST:
            return
        self._messages.append(message)

    def messages(self) -> tuple[wire.Message, ...]:
        """Return what was told, in order."""
        return tuple(self._messages)

"""The line at the bottom of a terminal that says what an agent is at, and what that has cost."""

from __future__ import annotations

import os
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from eventbus_tasks import (
    AgentActivity,
    AgentInputAnswered,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    AgentRetry,
    AgentToolFinished,
    AgentToolStarted,
    AgentUsage,
    TaskEvent,
    terminal_safe,
)
from eventbus_tasks._cli.messages import set_live
from eventbus_tasks._cli.terminal import ERASE, dim

if TYPE_CHECKING:
    from eventbus_tasks._cli.outlet import Outlet

__all__ = ["Meter", "StatusLine", "Writer"]

_EVERY: Final = 0.5
"""Seconds between two looks at the clock."""

_USUAL: Final = 80
_NARROWEST: Final = 20
"""Columns below which there is no such line."""


class Writer(Protocol):
    """Where a view writes."""

    async def write(self, data: bytes) -> None:
        """Write some bytes.

        Raises:
            OutletError: Nobody can see them.
        """


class Meter:
    """What the work has cost so far: time, tokens, money, as far as the agent tells."""

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._tokens = 0
        self._cost = 0.0

    def take(self, event: AgentActivity) -> None:
        """Take note of an event."""
        self._since = self._since or event.at
        if isinstance(event, AgentUsage):
            self._tokens += (event.input_tokens or 0) + (event.output_tokens or 0)
            self._cost += event.cost_usd or 0.0

    def text(self, now: datetime) -> str:
        """Return what has come together until a time, as the end of a line."""
        parts = []
        if self._since is not None:
            seconds = max(0, int((now - self._since).total_seconds()))
            parts.append(f"{seconds // 60}:{seconds % 60:02d}")
        if self._tokens:
            thousands = f"{self._tokens / 1000:.1f}k" if self._tokens >= 1000 else self._tokens
            parts.append(f"{thousands} tokens")
        if self._cost:
            parts.append(f"${self._cost:.2f}")
        return "".join(f" · {part}" for part in parts)


class StatusLine:
    """Keeps one line under everything that is written through it, and up to date.

    It is there only while the last line is complete: it disturbs no message that comes in pieces.

    Args:
        outlet: Where to write; a terminal.
        meter: What the end of the line says.
    """

    def __init__(self, outlet: Outlet, meter: Meter) -> None:
        self._outlet = outlet
        self._meter = meter
        self._tools: dict[str, str] = {}
        self._doing = ""
        self._question = ""
        self._between_lines = True
        self._shown = ""
        self._closed = False
        set_live(True)

    def take(self, event: TaskEvent) -> None:
        """Take note of what happens."""
        match event:
            case AgentToolStarted():
                summary = f": {event.summary}" if event.summary else ""
                self._tools[event.call_id] = f"{event.tool}{summary}"
                self._doing = ""
            case AgentToolFinished():
                self._tools.pop(event.call_id, None)
            case AgentRetry():
                self._doing = "waits to try again"
            case AgentInputRequired():
                self._doing = "waits for you"
            case AgentInputAnswered():
                self._doing = ""
            case AgentMessage():
                self._doing = "thinks" if event.kind == "thinking" else "writes"
            case AgentResult():
                self._tools.clear()
                self._doing = "has answered"

    async def ask(self, question: str) -> None:
        """Show a question instead, behind which a person types; ``""`` to be done with it."""
        self._question = " ".join(terminal_safe(question).split())
        self._shown = ""  # what a person has typed has moved the cursor
        await self._outlet.write(self._text().encode())

    async def write(self, data: bytes) -> None:
        """Write above the line."""
        if self._shown:
            data = ERASE.encode() + data
            self._shown = ""
        self._between_lines = data.endswith(b"\n")
        await self._outlet.write(data + self._text().encode())

    async def serve(self) -> None:
        """Keep the time of the line up to date."""
        while not self._closed:
            await anyio.sleep(_EVERY)
            # A terminal that has been stopped gets no heap of lines. A question stays as it is:
            # somebody is typing behind it.
            if self._outlet.is_idle and not self._question:
                text = self._text()
                if text:
                    await self._outlet.write(text.encode())

    async def close(self) -> None:
        """Take the line away for good."""
        self._closed = True
        if self._shown:
            self._shown = ""
            await self._outlet.write(ERASE.encode())
        set_live(False)

    def _text(self) -> str:
        """Return what makes the line appear, or nothing if it is as it should be."""
        if self._closed or not self._between_lines:
            return ""
        try:
            columns = os.get_terminal_size(1).columns or _USUAL  # nobody may have said
        except OSError:
            columns = _USUAL
        if columns < _NARROWEST:
            return ""
        if self._question:
            line = f"{cut(self._question, columns - 12)} "
        else:
            tools = list(self._tools.values())
            doing = self._doing or (tools[-1] if tools else "works")
            end = self._meter.text(datetime.now(UTC))
            doing = " ".join(terminal_safe(doing).split())
            line = dim(cut(f"⋯ {doing}", columns - 2 - len(end)) + end)
        if line == self._shown:
            return ""
        self._shown = line
        return ERASE + line


def cut(text: str, columns: int) -> str:
    """Return the beginning of a line that fits into some columns of a terminal."""
    room = max(columns, 1)
    if sum(map(_width, text)) <= room:
        return text
    kept = []
    for char in text:
        room -= _width(char)
        if room < 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1

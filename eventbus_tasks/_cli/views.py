"""How the events of one task are shown: one class for each kind of output."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Protocol

from eventbus_tasks import (
    AgentActivity,
    AgentInputAnswered,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    AgentRetry,
    AgentSession,
    AgentToolFinished,
    AgentToolStarted,
    OutputReceived,
    TaskEvent,
    terminal_safe,
)
from eventbus_tasks._cli.messages import pass_on, say
from eventbus_tasks._cli.status import Meter
from eventbus_tasks._cli.terminal import SafeText, dim, is_styled, render_markdown

if TYPE_CHECKING:
    from eventbus_tasks import Outcome
    from eventbus_tasks._cli.outlet import Outlet
    from eventbus_tasks._cli.status import Writer

__all__ = ["AgentView", "CommandView", "JsonView", "View", "text_bytes"]


class View(Protocol):
    """Shows the events of one task, in order."""

    async def show(self, event: TaskEvent) -> None:
        """Show one event.

        Raises:
            OutletError: Nobody can see it.
        """

    async def finish(self, outcome: Outcome) -> None:
        """Show what was kept for the end.

        Raises:
            OutletError: Nobody can see it.
        """


class JsonView:
    """Each event as a line of JSON; nothing else."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    async def show(self, event: TaskEvent) -> None:
        """Write one line. It is ASCII, so no terminal acts on it."""
        await self._outlet.write(json.dumps(event.to_dict(), default=str).encode() + b"\n")

    async def finish(self, outcome: Outcome) -> None:
        """Nothing is kept."""


class CommandView:
    """The output of a command: exactly, or made safe for a terminal.

    Args:
        outlet: Where to write.
        terminal: Somebody watches.
    """

    def __init__(self, outlet: Outlet, *, terminal: bool) -> None:
        self._outlet = outlet
        self._safe = SafeText() if terminal else None
        self._at_line_start = True

    async def show(self, event: TaskEvent) -> None:
        """Write what arrived, complete lines or not."""
        if not isinstance(event, OutputReceived):
            return
        if event.stream == "stderr":  # of an agent; that of a command is part of its output
            await pass_on(terminal_safe(event.text))
        elif self._safe is None:
            await self._outlet.write(event.data)
        else:
            await self._write(self._safe.feed(event.data))

    async def finish(self, outcome: Outcome) -> None:
        """End the last line on a terminal, so that what comes next begins a new one."""
        if self._safe is not None:
            await self._write(self._safe.feed(b"", last=True))
            if not self._at_line_start:
                await self._write("\n")

    async def _write(self, text: str) -> None:
        if text:
            self._at_line_start = text.endswith("\n")
            await self._outlet.write(text_bytes(text))


class AgentView:
    """What an agent says and does.

    Without a watcher only what it says is written. An agent that has no interpreter writes plain
    text, which is shown as it is; JSON that nobody has interpreted is shown at the end.

    Args:
        outlet: Where to write.
        terminal: Somebody watches.
        meter: What the work costs.
    """

    def __init__(self, outlet: Writer, *, terminal: bool, meter: Meter) -> None:
        self._outlet = outlet
        self._terminal = terminal
        self._interpreted = False
        self._uninterpreted: list[str] = []
        self._piece = ""  # of a message that comes in pieces
        self._shown = ""  # the pieces of one whose whole has not come yet
        self._last_message = ""
        self._result: AgentResult | None = None
        self._meter = meter

    async def show(self, event: TaskEvent) -> None:
        """Show one event, if it says something to people."""
        if isinstance(event, OutputReceived):
            await self._show_output(event)
            return
        if isinstance(event, AgentInputAnswered) and self._terminal:
            await self._end_piece()
            await self._write_line(dim(_describe_answer(event)))
        if not isinstance(event, AgentActivity):
            return
        self._interpreted = True
        self._uninterpreted.clear()
        self._meter.take(event)
        if isinstance(event, AgentMessage) and event.kind == "text":
            await self._show_message(event)
            return
        if isinstance(event, AgentResult):
            self._result = event
        elif isinstance(event, AgentInputRequired) and not self._terminal:
            say(f"the agent needs you: {event.prompt}")
        elif self._terminal and (line := _describe(event)):
            await self._end_piece()
            if isinstance(event, AgentToolFinished):
                line += self._meter.text(event.at)
            await self._write_line(dim(line))

    async def finish(self, outcome: Outcome) -> None:
        """Show the answer, unless it was the last message anyway."""
        await self._end_piece()
        for line in self._uninterpreted:
            await self._write_line(line)
        answer = outcome.result or ""
        if self._result is not None and self._result.ok:
            answer = self._result.text
        answer = terminal_safe(answer).strip("\n")
        if answer.strip() and answer.strip() != self._last_message.strip():
            await self._write_line(render_markdown(answer) if self._terminal else answer)

    async def _show_output(self, event: OutputReceived) -> None:
        if event.stream == "stderr":
            for line in event.lines:
                await pass_on(f"{terminal_safe(line)}\n")
        elif not self._interpreted:
            for line in event.lines:
                if line.startswith("{"):
                    self._uninterpreted.append(terminal_safe(line))
                else:
                    await self._write_line(terminal_safe(line))

    async def _show_message(self, event: AgentMessage) -> None:
        text = terminal_safe(event.text)
        if event.delta:
            # Pieces are shown as they come, so they cannot be laid out as a whole.
            self._piece += text
            await self._outlet.write(text_bytes(text))
            return
        if self._piece:
            # The whole of what was shown already, or its last piece.
            rest = text.removeprefix(self._piece)
            self._piece += rest
            await self._outlet.write(text_bytes(rest))
            await self._end_piece()
            self._shown = ""
            return
        shown, self._shown = self._shown, ""
        if not shown or text.strip() != shown.strip():
            self._last_message = text
            text = text.strip("\n")
            await self._write_line(render_markdown(text) if self._terminal else text)

    async def _end_piece(self) -> None:
        if self._piece:
            if not self._piece.endswith("\n"):
                await self._outlet.write(b"\n")
            self._last_message = self._shown = self._piece
            self._piece = ""

    async def _write_line(self, text: str) -> None:
        await self._outlet.write(text_bytes(f"{text}\n"))


def _describe_retry(event: AgentRetry) -> str:
    line = "⟳ its quota is used up" if event.kind == "rate_limit" else "⟳ it tries again"
    if event.attempt is not None:
        line += f" ({event.attempt}" + (f" of {event.max_attempts})" if event.max_attempts else ")")
    if event.delay is not None:
        line += f" in {event.delay:g} s"
    if event.until is not None:
        line += f", until {event.until.astimezone():%H:%M}"
    return f"{line}: {event.message}" if event.message else line


def _describe_answer(event: AgentInputAnswered) -> str:
    word = {"allow": "✓ allowed", "deny": "⊘ denied", "answer": "✓ answered"}.get(event.answer)
    if word is None:
        return "⊘ not needed any more"
    why = {
        "policy": "by a rule",
        "deadline": "nobody has answered in time",
        "turn": "the turn has ended",
    }.get(event.by)
    return f"{word} ({why})" if why else word


def _describe(event: AgentActivity) -> str:
    """Return one line about what an agent does, or nothing."""
    match event:
        case AgentSession():
            line = f"• session {event.session_id}" + (f", {event.model}" if event.model else "")
        case AgentMessage():
            line = f"… {event.text}"
        case AgentToolStarted():
            line = f"→ {event.tool}" + (f": {event.summary}" if event.summary else "")
        case AgentToolFinished():
            mark = {"ok": "✓", "denied": "⊘"}.get(event.status, "✗")
            line = f"{mark} {event.tool}" + (f": {event.summary}" if event.summary else "")
        case AgentRetry():
            line = _describe_retry(event)
        case AgentInputRequired():
            line = f"? the agent needs you: {event.prompt}"
        case _:
            return ""
    return " ".join(terminal_safe(line).split())


def text_bytes(text: str) -> bytes:
    """Return text as standard output wants it; what it cannot show is replaced."""
    encoding = (sys.stdout.encoding or "utf-8") if is_styled() else "utf-8"
    return text.encode(encoding, "replace")

"""Follows the output of one task: hands out ranges, and feeds the interpreter of its agent."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from eventbus_tasks._drafts import draft_of
from eventbus_tasks._native import error_text, redeliver
from eventbus_tasks._pump import OutputPump, Turn
from eventbus_tasks._threads import NoWorkerError
from eventbus_tasks.conversation import Send, Withdraw
from eventbus_tasks.events import (
    AgentActivity,
    AgentInputRequired,
    AgentResult,
    AgentSession,
    OutputReceived,
    TaskEvent,
)
from eventbus_tasks.lines import LineSplitter
from eventbus_tasks.outcome import ProcessExit, Reason, Verdict
from eventbus_tasks.output import StreamCursor
from eventbus_tasks.policies import OutputInterpreter, Stream

if TYPE_CHECKING:
    from eventbus_tasks._bus import Bus
    from eventbus_tasks._dialogue import Dialogue
    from eventbus_tasks.signals import Subscription
    from eventbus_tasks.task import Task

__all__ = ["OutputFollower"]

Run = Callable[..., Awaitable[Any]]
"""`DaemonPool.run`, or what stands for it."""

# With somebody reading along, one turn hands out this much of each stream, so that many chatty
# tasks share the loop: larger turns only add to the lag of the others.
_CHUNK: Final = 64 * 1024
# Somebody who writes a few lines at a time gets by with this much: smaller memory is quicker had.
_FEW_LINES: Final = 4096
_Draft: Final = draft_of(OutputReceived)

_FOR_EVER: Final = 3e9
"""Seconds: about as much as can be added to a date."""

# With nobody reading, a turn only moves offsets.
_SKIP: Final = 64 * 1024 * 1024


class Sessions(Protocol):
    """Who is told of the sessions of an agent."""

    def note(self, session_id: str) -> None:
        """Take note of one, and return at once."""


class OutputFollower:
    """Where the host is in the log of one task.

    Args:
        task: Whose log it is.
        bus: Asked whether anybody looks at output.
        emit: Numbers, journals and delivers an event.
        emit_lines: Does the same with whole lines, for the only one who looks at them, and moves
            the cursor; returns whether that can be done without the event of their range.
        failed: Reports a failure of the interpreter: ``(where, what, overran)``.
    """

    def __init__(
        self,
        task: Task,
        bus: Bus,
        emit: Callable[[TaskEvent], Any],
        emit_lines: Callable[[Subscription, StreamCursor, bytes], bool],
        failed: Callable[[str, str, bool], None],
    ) -> None:
        self.interpreter: OutputInterpreter | None = None
        self.dialogue: Dialogue | None = None  # with an agent that is talked to
        self.sessions: Sessions | None = None
        self.replays = False  # another host has talked to the agent
        self._task = task
        self._bus = bus
        self._emit = emit
        self._emit_lines = emit_lines
        self._failed = failed
        self._cursors: list[StreamCursor] = []
        self._splitters: dict[str, tuple[LineSplitter, int]] = {}
        self._may_block = False  # no worker thread could be had
        self.stop_at: dict[str, tuple[int, ...]] = {}  # offsets that no range may cross

    def attach(self) -> None:
        """Begin at the beginning of every stream of the task's log."""
        for stream in self._task.output.streams:
            self._cursors.append(StreamCursor(self._task.output, stream))
            self._splitters[stream] = (LineSplitter(), 0)

    def add_gap(self, stream: Stream, start: int, end: int) -> None:
        """Take note of bytes that are not in the log."""
        for cursor in self._cursors:
            if cursor.stream == stream:
                cursor.add_gap(start, end)

    @property
    def positions(self) -> dict[str, int]:
        """Bytes of each stream that were handed out."""
        return {cursor.stream: cursor.position for cursor in self._cursors}

    def logs(self) -> dict[str, tuple[int, int]]:
        """Return the log of each stream, and up to where it is known what was written."""
        return {
            cursor.stream: (cursor.descriptor, cursor.known)
            for cursor in self._cursors
            if cursor.descriptor is not None
        }

    async def follow(
        self, pump: OutputPump, descriptor: int, turn: Callable[[], Turn], run: Run
    ) -> None:
        """Hand out everything, in turns of the pump, which a slow disk does not hold up.

        Args:
            pump: Of the engine.
            descriptor: Rung when there is more.
            turn: Calls `turn`.
            run: Runs a function in a worker thread.
        """
        while await pump.follow(descriptor, turn) is Turn.COLD:
            try:
                await run(self._warm_up, deadline=math.inf, endures=True)
            except NoWorkerError:
                self._may_block = True  # better late than never
            except OSError:
                self._may_block = True  # the next turn meets it too, and says so

    def _warm_up(self) -> None:
        for cursor in self._cursors:
            cursor.warm_up(_CHUNK)

    def turn(self, has_news: Callable[[], bool], take_messages: Callable[[], None]) -> Turn:
        """Hand out the next piece of each stream; return whether the log has still more.

        Args:
            has_news: Whether the guardian has said something.
            take_messages: Takes it. It tells of lost bytes before it writes bytes behind them:
                with the sizes read first, every hole is known.
        """
        if self.interpreter is None and self._turn_of_lines(has_news):
            return Turn.IDLE
        wanted = self.interpreter is not None or self._bus.wants_output()
        sizes: list[int] = []
        for cursor in self._cursors:
            if wanted and not self._may_block and cursor.is_cold():
                return Turn.COLD
            sizes.append(cursor.look(_CHUNK) if wanted else cursor.available())
        self._may_block = False
        if has_news():
            take_messages()
            wanted = self.interpreter is not None or self._bus.wants_output()
        more = False
        for cursor, size in zip(self._cursors, sizes, strict=True):
            limit = _CHUNK if wanted else _SKIP
            for offset in self.stop_at.get(cursor.stream, ()):
                if offset > cursor.position:
                    limit = min(limit, offset - cursor.position)
            found = cursor.advance(limit, size, read=wanted)
            if found is None:
                continue
            start, end, line_start, cut = found
            more |= end < size
            self._emit_range(cursor.stream, start, end, line_start, last=cut)
            if self.interpreter is not None:
                self._interpret(cursor.stream, self._task.output.read(start, end, cursor.stream))
            self._task.output.grown()
        return Turn.MORE if more else Turn.IDLE

    def _turn_of_lines(self, has_news: Callable[[], bool]) -> bool:
        """Do what `turn` does, in the shortest way, if there is nothing but a few whole lines.

        Returns:
            Whether it is done; otherwise nothing is.
        """
        receiver = self._bus.lone_line_receiver()
        if receiver is None or len(self._cursors) != 1 or self.stop_at:
            return False
        cursor = self._cursors[0]
        lines = cursor.peek_lines(_FEW_LINES)
        if lines is None or has_news():
            return False
        if lines:
            if not self._emit_lines(receiver, cursor, lines):
                return False
            self._task.output.grown()
        return True

    def end(self) -> None:
        """Hand out last lines that have no line ending; nobody is talked to any more."""
        for cursor in self._cursors:
            end = cursor.position
            if cursor.line_start < end:
                self._emit_range(cursor.stream, end, end, cursor.line_start, last=True)
            if self.interpreter is not None:
                splitter, offset = self._splitters[cursor.stream]
                self._interpret_lines(cursor.stream, splitter.finish(), offset)
        if self.dialogue is not None:
            self.dialogue.end()

    def verdict(self, return_code: int | None) -> Verdict | None:
        """Ask the interpreter what to make of the run, which ended by itself."""
        if self.interpreter is None:
            return None
        try:
            verdict = self.interpreter.verdict(ProcessExit(return_code=return_code))
            _check_verdict(verdict)
        except BaseException as error:
            text = self.interpreter_failed(error)
            # Nobody can say whether the agent succeeded: that is not a success.
            return Verdict(reason=Reason.PLUGIN_ERROR, message=text)
        return verdict

    def _emit_range(
        self, stream: Stream, start: int, end: int, line_start: int, *, last: bool = False
    ) -> None:
        event = object.__new__(_Draft)
        event.stream = stream
        event.start = start
        event.end = end
        event.line_start = line_start
        event.last = last
        event.first_seq = 0
        event.source = self._task.output
        event.__class__ = OutputReceived
        self._emit(event)  # which sets what every event has

    def _interpret(self, stream: Stream, data: bytes) -> None:
        splitter, offset = self._splitters[stream]
        offset = self._interpret_lines(stream, splitter.feed(data), offset)
        self._splitters[stream] = (splitter, offset)

    def _interpret_lines(
        self, stream: Stream, lines: Sequence[tuple[bytes, bool]], offset: int
    ) -> int:
        """Hand lines to the interpreter; return the offset behind them."""
        interpreter = self.interpreter
        assert interpreter is not None
        for line, truncated in lines:
            end = offset + len(line)
            if self.dialogue is not None and stream == "stdout":
                self.dialogue.heard()
            try:
                for item in interpreter.interpret(line, stream):
                    if isinstance(item, (Send, Withdraw)):
                        self._take(item)
                    else:
                        self._tell(
                            replace(
                                item, stream=stream, start=offset, end=end, source=self._task.output
                            )
                        )
            except BaseException as error:
                self.interpreter_failed(error)
            offset = end + (not truncated)
        return offset

    def _tell(self, activity: AgentActivity) -> None:
        if isinstance(activity, AgentSession) and not activity.parent and activity.session_id:
            self._task._session_id = activity.session_id
            if self.sessions is not None:
                self.sessions.note(activity.session_id)
        dialogue = self.dialogue
        if dialogue is None:
            self._emit(activity)
            return
        if isinstance(activity, AgentInputRequired) and activity.request_id:
            patience = timedelta(seconds=min(dialogue.patience, _FOR_EVER))
            deadline = datetime.now(UTC) + patience
            activity = replace(activity, deadline=deadline)
            dialogue.register(activity)
        self._emit(activity)
        if isinstance(activity, AgentResult) and not activity.parent:
            dialogue.end_turn()

    def _take(self, item: Send | Withdraw) -> None:
        if self.dialogue is not None:
            self.dialogue.take(item)
        elif not self.replays:
            raise TypeError(f"{type(item).__name__} needs a command with stdin='open'")

    def interpreter_failed(self, error: BaseException) -> str:
        """Report that the interpreter has raised; return it as a sentence."""
        where = f"interpreter of {self._task.agent}"
        text = error_text(error)
        self._failed(where, text, False)
        redeliver(error)
        return f"{where} failed: {text}"


def _check_verdict(answer: Any) -> None:
    """Refuse what is no verdict, or one of which no outcome can be made."""
    if answer is None:
        return
    if not isinstance(answer, Verdict):
        raise TypeError(f"a verdict must be a Verdict or None, not {answer!r}")
    for name, wanted in (("reason", Reason), ("message", str), ("result", str | None)):
        value = getattr(answer, name)
        if not isinstance(value, wanted):
            raise TypeError(f"the {name} of a verdict cannot be {value!r}")

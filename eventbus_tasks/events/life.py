"""The life of a task, its output, and what went wrong around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from eventbus_tasks.errors import OutputUnavailableError
from eventbus_tasks.events.base import OutputSource, TaskEvent, register_event
from eventbus_tasks.lines import MAX_LINE, decode_lines
from eventbus_tasks.outcome import Outcome
from eventbus_tasks.policies import Stream, TerminationPolicy
from eventbus_tasks.request import TaskRequest

__all__ = [
    "HandlerFailed",
    "OutputDropped",
    "OutputLine",
    "OutputReceived",
    "SignalSent",
    "TaskAccepted",
    "TaskCancelled",
    "TaskCompleted",
    "TaskEnded",
    "TaskFailed",
    "TaskQueued",
    "TaskReattached",
    "TaskRemoved",
    "TaskStarted",
    "TaskStopping",
]


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAccepted(TaskEvent):
    """A task was accepted and is PENDING.

    Attributes:
        request: What was asked for (without its environment, when read back).
    """

    name: ClassVar[str] = "task.accepted"
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"request": TaskRequest.from_dict}

    request: TaskRequest


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQueued(TaskEvent):
    """An accepted task has to wait before it can start; it stays PENDING.

    Comes at most once for each of the two reasons, in their order.

    Attributes:
        why: ``"project"``: other tasks work in its directory or were there first;
            ``"max_running"``: the engine runs as many tasks as it may.
        ahead: How many tasks were waiting before it for the same.
        holder: With ``"project"``, what is known about the task that works in the directory, as
            in `ProjectBusyError`; may be empty.
    """

    name: ClassVar[str] = "task.queued"

    why: str
    ahead: int = 0
    holder: Mapping[str, Any] = field(default_factory=dict, hash=False)


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted(TaskEvent):
    """The program of the task was executed.

    Attributes:
        pid: Process number of the program.
        argv: Program and arguments.
    """

    name: ClassVar[str] = "task.started"
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"argv": tuple}

    pid: int
    argv: tuple[str, ...]


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReattached(TaskEvent):
    """A new host has taken over a task whose host had died; its events follow.

    Attributes:
        offset: Where the output that is delivered in this host begins.
    """

    name: ClassVar[str] = "task.reattached"

    offset: int = 0


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReceived(TaskEvent):
    """Bytes arrived. They are in the log; the event says where.

    Every byte is in exactly one such event of its stream, in order. A receiver that cannot keep
    up gets merged events: then `first_seq` to `seq` is the span of what was merged.

    Attributes:
        stream: ``"stdout"`` (with standard error in it, when merged) or ``"stderr"``.
        start: Offset of the first byte.
        end: Offset behind the last byte.
        line_start: Offset of the beginning of the line that `start` is part of.
        last: Nothing follows on this line: the stream has ended, or what followed was lost.
            `lines` includes it, without a line ending.
        first_seq: Number of the first event that was merged into this one.
    """

    name: ClassVar[str] = "output.received"

    stream: Stream
    start: int
    end: int
    line_start: int
    last: bool = False
    first_seq: int = 0
    source: OutputSource | None = field(
        default=None, repr=False, compare=False, metadata={"wire": False}
    )

    @property
    def data(self) -> bytes:
        """The bytes, read from the log.

        Raises:
            OutputUnavailableError: The log is gone, or the event was read back from a journal.
        """
        return self._read(self.start, self.end)

    @property
    def text(self) -> str:
        """The bytes as UTF-8; what is not valid is replaced."""
        return self.data.decode("utf-8", "replace")

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that became complete with these bytes, without their line endings.

        Over all events of a stream every line appears exactly once, whole, whatever the
        chunks were (a line over 16 MiB in pieces).
        """
        return decode_lines(self._completed(), last=self.last)

    def _completed(self) -> bytes:
        """Return the bytes from the beginning of the line on; nothing if no line ends here."""
        data = self.data
        if not self.last and b"\n" not in data and self.end - self.line_start <= MAX_LINE:
            return b""  # without reading a long line again for each of its pieces
        if self.line_start < self.start:
            data = self._read(self.line_start, self.start) + data
        return data

    def _read(self, start: int, end: int) -> bytes:
        if self.source is None:
            raise OutputUnavailableError("this event is not connected to a log any more")
        return self.source.read(start, end, self.stream)

    def merge(self, later: OutputReceived) -> OutputReceived:
        """Return one event for this one and the next of the same task and stream."""
        return dataclasses.replace(
            later,
            start=self.start,
            line_start=self.line_start,
            first_seq=self.first_seq or self.seq,
        )


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLine(TaskEvent):
    """A line is complete. Derived from `OutputReceived`, and made only when somebody listens.

    Attributes:
        stream: The stream it was written to.
        number: Its number in the stream, from 1.
        text: The line without its ending, as UTF-8; what is not valid is replaced.
        truncated: It is a piece of a line over 16 MiB, and another piece follows.
    """

    name: ClassVar[str] = "output.line"
    journaled: ClassVar[bool] = False

    stream: Stream
    number: int
    text: str
    truncated: bool = False


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDropped(TaskEvent):
    """Bytes could not be kept (full disk), were given up (retention), or cut off by somebody.

    Attributes:
        stream: The stream that they belong to.
        start: Offset of the first one.
        end: Offset behind the last one.
        why: ``"ENOSPC"`` and the like; ``"retention"``; or ``"truncated"``, when somebody has cut
            off the end of the log, which may have been delivered before.
    """

    name: ClassVar[str] = "output.dropped"

    stream: Stream
    start: int
    end: int
    why: str


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStopping(TaskEvent):
    """The stop ladder begins.

    Attributes:
        reason: Why the task is stopped: what the outcome's reason will be.
        policy: The ladder.
    """

    name: ClassVar[str] = "task.stopping"
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "policy": TerminationPolicy.from_dict
    }

    reason: str
    policy: TerminationPolicy


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSent(TaskEvent):
    """One rung of the ladder was carried out.

    Attributes:
        signal: Number of the signal.
        pids: The processes that it was sent to.
    """

    name: ClassVar[str] = "task.signal_sent"
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"pids": tuple}

    signal: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded(TaskEvent):
    """Base of the three terminal events: a task has exactly one of them, and it is the last.

    Attributes:
        outcome: How it ended.
    """

    name: ClassVar[str] = "task.ended"
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"outcome": Outcome.from_dict}

    outcome: Outcome


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompleted(TaskEnded):
    """The task has done what it was asked to do."""

    name: ClassVar[str] = "task.completed"


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(TaskEnded):
    """The task has ended without doing what it was asked to do."""

    name: ClassVar[str] = "task.failed"


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancelled(TaskEnded):
    """The task was stopped on request."""

    name: ClassVar[str] = "task.cancelled"


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRemoved(TaskEvent):
    """An ended task was removed from its engine. Not journaled: the journal has ended."""

    name: ClassVar[str] = "task.removed"
    journaled: ClassVar[bool] = False


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerFailed(TaskEvent):
    """A receiver, hook or interpreter raised, or took longer than it may. Not journaled.

    Attributes:
        where: What failed, by name: ``receiver pkg.module.function``, ``hook ebt_x of plugin y``.
        error: The exception, as ``Type: text``; or what took too long.
        overran: It did not fail, it blocked the loop or missed its deadline.
    """

    name: ClassVar[str] = "handler.failed"
    journaled: ClassVar[bool] = False

    where: str
    error: str
    overran: bool = False

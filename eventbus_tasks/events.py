"""Every event: typed, frozen, serialisable; and the registry of their wire names.

An event tells what has happened. It carries no live object, so it can be kept, compared, sent
elsewhere and read back: ``event_from_dict(event.to_dict()) == event``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar

from eventbus_tasks._encoding import encode
from eventbus_tasks.errors import OutputUnavailableError
from eventbus_tasks.outcome import Outcome
from eventbus_tasks.policies import Stream, TerminationPolicy
from eventbus_tasks.request import NO_TASK, TaskRef, TaskRequest

__all__ = [
    "EVENT_TYPES",
    "AgentActivity",
    "AgentEventUnknown",
    "AgentInputRequired",
    "AgentMessage",
    "AgentResult",
    "AgentRetry",
    "AgentSession",
    "AgentToolFinished",
    "AgentToolStarted",
    "AgentUsage",
    "HandlerFailed",
    "OutputDropped",
    "OutputLine",
    "OutputReceived",
    "OutputSource",
    "SignalSent",
    "TaskAccepted",
    "TaskCancelled",
    "TaskCompleted",
    "TaskEnded",
    "TaskEvent",
    "TaskFailed",
    "TaskQueued",
    "TaskReattached",
    "TaskRemoved",
    "TaskStarted",
    "TaskStopping",
    "event_from_dict",
    "register_event",
]

UNSTAMPED: Final = datetime(1970, 1, 1, tzinfo=UTC)


class OutputSource(Protocol):
    """Where an event's bytes can be read on demand."""

    def read(self, start: int, end: int, stream: Stream = "stdout") -> bytes:
        """Return the bytes from offset `start` to offset `end` of a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Something that happened to a task.

    Attributes:
        task: Whose event it is.
        seq: Its number in the task's journal, gapless from 1. Events that are not journaled
            carry the number of the event they derive from.
        at: When it happened, in UTC.
    """

    name: ClassVar[str] = ""
    journaled: ClassVar[bool] = True
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    task: TaskRef = NO_TASK
    seq: int = 0
    at: datetime = UNSTAMPED

    def stamp(self, task: TaskRef, seq: int, at: datetime) -> Self:
        """Return a copy that belongs to a task, with its number and time."""
        return dataclasses.replace(self, task=task, seq=seq, at=at)

    def _stamp_here(self, task: TaskRef, seq: int, at: datetime) -> None:
        """Do what `stamp` does to an event that nobody else has seen yet, without a copy."""
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "seq", seq)
        object.__setattr__(self, "at", at)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; ``"event"`` holds the wire name."""
        data: dict[str, Any] = {"event": self.name}
        for item in dataclasses.fields(self):
            if item.metadata.get("wire", True):
                data[item.name] = encode(getattr(self, item.name))
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild an event of this class from `to_dict`; unknown keys are ignored."""
        values: dict[str, Any] = {}
        for item in dataclasses.fields(cls):
            if item.name not in data or not item.metadata.get("wire", True):
                continue
            decode = _COMMON_DECODERS.get(item.name) or cls._decoders.get(item.name)
            value = data[item.name]
            values[item.name] = value if decode is None else decode(value)
        return cls(**values)


_COMMON_DECODERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "task": lambda data: TaskRef(**data),
    "at": datetime.fromisoformat,
}

EVENT_TYPES: Final[dict[str, type[TaskEvent]]] = {}
"""Every registered event class by its wire name."""

_E = TypeVar("_E", bound=type[TaskEvent])


def register_event(cls: _E) -> _E:
    """Make an event class known under its wire name (also a class decorator).

    Raises:
        TypeError: It is not a frozen dataclass derived from `TaskEvent`.
        ValueError: The wire name is missing or already belongs to another class.
    """
    params = getattr(cls, "__dataclass_params__", None)
    if not (isinstance(cls, type) and issubclass(cls, TaskEvent) and params and params.frozen):
        raise TypeError(f"{cls!r} must be a frozen dataclass derived from TaskEvent")
    if not cls.name or cls.name == getattr(cls.__base__, "name", None):
        raise ValueError(f"{cls.__name__} needs a wire name of its own (name: ClassVar[str])")
    known = EVENT_TYPES.setdefault(cls.name, cls)
    if known is not cls and known.__qualname__ != cls.__qualname__:
        raise ValueError(f"the wire name {cls.name!r} already belongs to {known.__name__}")
    EVENT_TYPES[cls.name] = cls
    return cls


def event_from_dict(data: Mapping[str, Any]) -> TaskEvent:
    """Rebuild an event from `TaskEvent.to_dict`.

    Raises:
        KeyError: The wire name is unknown: the plugin that defines it is not loaded.
    """
    return EVENT_TYPES[data["event"]].from_dict(data)


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
        from eventbus_tasks.lines import decode_lines

        return decode_lines(self._completed(), last=self.last)

    def _completed(self) -> bytes:
        """Return the bytes from the beginning of the line on; nothing if no line ends here."""
        from eventbus_tasks.lines import MAX_LINE

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
    """Bytes could not be kept (full disk) or were given up (retention).

    Attributes:
        stream: The stream that they belong to.
        start: Offset of the first one.
        end: Offset behind the last one.
        why: ``"ENOSPC"`` and the like, or ``"retention"``.
    """

    name: ClassVar[str] = "output.dropped"

    stream: Stream
    start: int
    end: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentActivity(TaskEvent):
    """Base of everything that an agent said in its own protocol.

    Attributes:
        stream: The stream of the line that says so.
        start: Offset of that line.
        end: Offset behind it.
        parent: The `call_id` of the tool use whose sub-agent this comes from; empty for the
            agent itself, and where the agent does not say.
    """

    name: ClassVar[str] = "agent"

    stream: Stream = "stdout"
    start: int = 0
    end: int = 0
    parent: str = ""
    source: OutputSource | None = field(
        default=None, repr=False, compare=False, metadata={"wire": False}
    )

    @property
    def raw(self) -> bytes:
        """The line as the agent wrote it, read from the log.

        Raises:
            OutputUnavailableError: The log is gone, or the event was read back from a journal.
        """
        if self.source is None:
            raise OutputUnavailableError("this event is not connected to a log any more")
        return self.source.read(self.start, self.end, self.stream)


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSession(AgentActivity):
    """The agent has begun, or resumed, a session.

    Attributes:
        session_id: The agent's own name for it, with which it can be resumed.
        model: The model that is used, where the agent says so.
    """

    name: ClassVar[str] = "agent.session"

    session_id: str
    model: str = ""


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentMessage(AgentActivity):
    """The agent said something.

    Each message is told once as a whole. Agents that stream tell its pieces before that; whoever
    wants only whole messages leaves out those with `delta`.

    Attributes:
        text: What it said.
        delta: It is a piece; more of the same message follows, and then the whole of it.
        kind: ``"text"``, or ``"thinking"``.
    """

    name: ClassVar[str] = "agent.message"

    text: str
    delta: bool = False
    kind: str = "text"


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentToolStarted(AgentActivity):
    """The agent has begun to use a tool.

    Attributes:
        tool: Name of the tool.
        call_id: The agent's name for this use.
        summary: What it does, in one line (a command, a path), shortened.
    """

    name: ClassVar[str] = "agent.tool_started"

    tool: str
    call_id: str = ""
    summary: str = ""


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentToolFinished(AgentActivity):
    """The agent has finished using a tool.

    Attributes:
        tool: Name of the tool.
        call_id: The agent's name for this use.
        status: ``"ok"``, ``"error"`` or ``"denied"``.
        summary: The beginning of what came out, in one line.
    """

    name: ClassVar[str] = "agent.tool_finished"

    tool: str
    call_id: str = ""
    status: str = "ok"
    summary: str = ""


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentUsage(AgentActivity):
    """What the work has cost since the last such event. ``None`` means unknown, not zero.

    Attributes:
        input_tokens: Tokens sent to the model.
        output_tokens: Tokens it produced.
        cost_usd: Price in US dollars.
    """

    name: ClassVar[str] = "agent.usage"

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRetry(AgentActivity):
    """The agent cannot go on now, and will try again by itself. ``None`` means unknown.

    It waits from the event's time on for `delay` seconds, or until `until`.

    Attributes:
        kind: ``"error"`` (a request has failed) or ``"rate_limit"`` (its quota is used up).
        message: Why, in the agent's words; may be empty.
        status: The HTTP status of the failed request.
        attempt: Which attempt follows, from 1.
        max_attempts: How many it makes before it gives up.
        delay: Seconds until the next attempt.
        until: When the quota is renewed.
    """

    name: ClassVar[str] = "agent.retry"
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "until": lambda text: None if text is None else datetime.fromisoformat(text)
    }

    kind: str = "error"
    message: str = ""
    status: int | None = None
    attempt: int | None = None
    max_attempts: int | None = None
    delay: float | None = None
    until: datetime | None = None


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInputRequired(AgentActivity):
    """The agent needs a person: a permission, or an answer.

    Attributes:
        kind: ``"permission"`` or ``"question"``.
        prompt: What it asks, readable.
        request_id: The agent's name for the request.
    """

    name: ClassVar[str] = "agent.input_required"

    kind: str
    prompt: str
    request_id: str = ""


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentResult(AgentActivity):
    """The agent gave its final answer. It may do so more than once; the last one counts.

    Attributes:
        ok: Whether the agent itself calls it a success.
        text: The answer, or the error.
    """

    name: ClassVar[str] = "agent.result"

    ok: bool
    text: str = ""


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEventUnknown(AgentActivity):
    """The agent said something that its interpreter has no name for; `raw` has it.

    Attributes:
        kind: The agent's own name for the kind of event, as far as it can be told.
    """

    name: ClassVar[str] = "agent.unknown"

    kind: str = ""


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

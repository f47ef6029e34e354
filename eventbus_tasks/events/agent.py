"""What agents say in their own protocols, whichever agent it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from eventbus_tasks.errors import OutputUnavailableError
from eventbus_tasks.events.base import OutputSource, TaskEvent, register_event
from eventbus_tasks.policies import Stream

__all__ = [
    "AgentActivity",
    "AgentEventUnknown",
    "AgentInputAnswered",
    "AgentInputRequired",
    "AgentMessage",
    "AgentOption",
    "AgentResult",
    "AgentRetry",
    "AgentSession",
    "AgentToolFinished",
    "AgentToolStarted",
    "AgentUsage",
]


def _read_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


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
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"until": _read_time}

    kind: str = "error"
    message: str = ""
    status: int | None = None
    attempt: int | None = None
    max_attempts: int | None = None
    delay: float | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOption:
    """One of the answers that an agent offers.

    Attributes:
        id: The agent's name for it, for ``Allow(option=…)`` and ``Deny(option=…)``.
        label: What it means, for people.
        kind: ``"allow"``, ``"allow_always"``, ``"deny"`` or ``"deny_always"``; with a question
            ``"answer"``.
    """

    id: str
    label: str = ""
    kind: str = "allow"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"id": self.id, "label": self.label, "kind": self.kind}


def _read_options(data: Sequence[Mapping[str, Any]]) -> tuple[AgentOption, ...]:
    return tuple(AgentOption(**item) for item in data)


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInputRequired(AgentActivity):
    """The agent needs a person: a permission, or an answer.

    It is answered with `Task.answer`, by a policy (``ebt_answer_agent``), or denied at `deadline`;
    an `AgentInputAnswered` says so. Agents that are not talked to only tell that they are stuck:
    then there is no `deadline`, and nobody can answer.

    Attributes:
        kind: ``"permission"`` or ``"question"``.
        prompt: What it asks, readable.
        request_id: The agent's name for the request.
        tool: With a permission, the name of the tool that it wants to use.
        summary: What it wants to use it for, in one line (a command, a path), shortened. The whole
            of it is in `raw`.
        options: The answers that the agent offers; empty: only a plain yes, no or text.
        deadline: When it is denied unless it was answered.
    """

    name: ClassVar[str] = "agent.input_required"
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "options": _read_options,
        "deadline": _read_time,
    }

    kind: str
    prompt: str
    request_id: str = ""
    tool: str = ""
    summary: str = ""
    options: tuple[AgentOption, ...] = ()
    deadline: datetime | None = None


@register_event
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentInputAnswered(TaskEvent):
    """A request of an agent is not open any more. Not said by the agent, so it has no line.

    Attributes:
        request_id: The agent's name for the request.
        answer: ``"allow"``, ``"deny"``, ``"answer"``, or ``"none"`` where it was withdrawn.
        by: Who has decided: ``"program"`` (`Task.answer`), ``"policy"``, ``"deadline"``; where
            nobody had to any more, ``"agent"``, ``"interrupt"``, ``"turn"`` or ``"task"``: what has
            ended it.
        text: The reason of a denial, or the text of an answer.
    """

    name: ClassVar[str] = "agent.input_answered"

    request_id: str
    answer: str
    by: str
    text: str = ""


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

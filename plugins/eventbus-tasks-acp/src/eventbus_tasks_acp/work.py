"""What an agent does in a session: its notifications ``session/update`` become events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventbus_tasks import AgentActivity, AgentMessage, AgentToolFinished, AgentToolStarted
from eventbus_tasks.agents import input_summary, list_in, object_in, one_line, text_in

__all__ = ["Messages", "ToolCalls"]

_NAME: Final = 100
"""Characters of a tool's name, at most."""

_ENDS: Final = frozenset({"completed", "failed"})

_OTHER: Final = "other"
"""The protocol's kind of a tool that has none of the others."""


class Messages:
    """Puts together what comes in chunks, so that each message is also told as a whole.

    Attributes:
        answer: The last message of the turn that was no thought, or ``None``.
        last_chunk: The last piece of any message of the turn, or ``""``.
    """

    def __init__(self) -> None:
        self.answer: str | None = None
        self.last_chunk: str = ""
        self._kind = ""
        self._message_id: str | None = None
        self._pieces: list[str] = []

    def begin_turn(self) -> None:
        """Forget everything: a new turn begins."""
        self.answer = None
        self.last_chunk = ""
        self._pieces.clear()

    def add(self, kind: str, update: Mapping[str, Any]) -> Iterator[AgentActivity]:
        """Take a chunk.

        Args:
            kind: ``"text"`` or ``"thinking"``.
            update: The chunk. One without a ``messageId`` belongs to the message before it.
        """
        message_id = text_in(update, "messageId") or None
        if self._kind != kind or message_id != self._message_id:
            yield from self.end()
            self._kind, self._message_id = kind, message_id
        text = text_in(object_in(update, "content"), "text")
        if text:
            self._pieces.append(text)
            self.last_chunk = text
            yield AgentMessage(text=text, delta=True, kind=kind)

    def end(self) -> Iterator[AgentActivity]:
        """Tell the whole of the message that was being said, if there is one."""
        text = "".join(self._pieces)
        self._pieces.clear()
        if text:
            if self._kind == "text":
                self.answer = text
            yield AgentMessage(text=text, kind=self._kind)


@dataclass(slots=True)
class _Call:
    """One use of a tool, as far as it is known."""

    tool: str = ""  # for people: may be a title, which the model may have chosen
    name: str = ""  # for rules: never a title
    kind: str = ""
    summary: str = ""
    output: str = ""
    started: bool = False
    denied: bool = False
    failed: bool = False  # says a command's exit status, whatever the agent calls it


class ToolCalls:
    """Follows the uses of tools: each one is told once when it begins, and once when it ends.

    Agents tell of a use in several steps, of which any can be missing: some begin with a request
    for a permission, some never say how a use ended.

    Attributes:
        denied: Names of the tools of this turn that were not allowed.
        interrupted: The turn was told to end: what a tool does after that is no success, though
            some agents say so.
    """

    def __init__(self) -> None:
        self.denied: list[str] = []
        self.interrupted: bool = False
        self._open: dict[str, _Call] = {}

    def begin_turn(self) -> None:
        """Forget everything: a new turn begins."""
        self.denied.clear()
        self.interrupted = False
        self._open.clear()

    def read(self, call: Mapping[str, Any], *, first: bool) -> Iterator[AgentActivity]:
        """Take what an update says about a use.

        Args:
            call: The update.
            first: It is a ``tool_call``: agents send it before they know the arguments.
        """
        call_id, status = text_in(call, "toolCallId"), text_in(call, "status")
        known = self._learn(call_id, call)
        told = not first and bool(object_in(call, "rawInput"))
        if told or status == "in_progress" or status in _ENDS:
            yield from self._start(call_id, known)
        if status in _ENDS:
            del self._open[call_id]
            yield self._finish(call_id, known, ok=status == "completed")

    def ask(self, call: Mapping[str, Any]) -> Iterator[AgentActivity]:
        """Take a use for which a permission is asked."""
        call_id = text_in(call, "toolCallId")
        yield from self._start(call_id, self._learn(call_id, call))

    def describe(self, call: Mapping[str, Any]) -> tuple[str, str]:
        """Return tool and summary of a use for which a permission is asked.

        Rules go by the tool, so it is never a title: a model that may choose one could choose what
        a rule allows. A tool without a name goes by the protocol's word for its kind.

        What is asked for may be something else than what has begun, as when a file that is read
        turns out to be outside of the project: then it goes by its own name, lest a rule for what
        has begun allow it.
        """
        known = self._open.get(text_in(call, "toolCallId"), _Call())
        kind = text_in(call, "kind") or known.kind
        name = _own_name_of(call) or (known.name if kind == known.kind else "")
        return name or one_line(kind, _NAME) or _OTHER, _input_of(call) or known.summary

    def deny(self, call_id: str) -> None:
        """Remember that a use was not allowed."""
        known = self._open.get(call_id)
        if known is not None and not known.denied:
            known.denied = True
            self.denied.append(known.tool)

    def end(self) -> Iterator[AgentActivity]:
        """End what is still open: its turn has ended, and nobody will say more about it."""
        for call_id, known in self._open.items():
            yield from self._start(call_id, known)
            known.output = known.output or "the turn ended before it"
            yield self._finish(call_id, known, ok=False)
        self._open.clear()

    def _learn(self, call_id: str, call: Mapping[str, Any]) -> _Call:
        known = self._open.setdefault(call_id, _Call())
        if not known.started:
            # A title may change with every update; it is a name only where there is no other.
            name, kind = _name_of(call), text_in(call, "kind")
            known.tool = name or known.tool or one_line(text_in(call, "title"), _NAME)
            # A name for what it was before must not stand for what it has turned out to be.
            changed = kind and known.kind and kind != known.kind
            known.name = name if changed else name or known.name
            known.summary = _summary_of(call) or known.summary
            known.kind = kind or known.kind
        known.output = _output_of(call) or known.output
        known.failed |= _exit_status_of(call) not in (None, 0)
        return known

    def _start(self, call_id: str, known: _Call) -> Iterator[AgentActivity]:
        if not known.started:
            known.started = True
            known.tool = known.tool or "tool"
            yield AgentToolStarted(tool=known.tool, call_id=call_id, summary=known.summary)

    def _finish(self, call_id: str, known: _Call, *, ok: bool) -> AgentActivity:
        ok = ok and not (known.failed or known.denied or self.interrupted)
        status = "ok" if ok else "denied" if known.denied else "error"
        return AgentToolFinished(
            tool=known.tool, call_id=call_id, status=status, summary=one_line(known.output)
        )


def _name_of(call: Mapping[str, Any]) -> str:
    """Return the tool's own name, or else the protocol's for its kind, or ``""``."""
    kind = text_in(call, "kind")
    return _own_name_of(call) or one_line(kind if kind != _OTHER else "", _NAME)


def _own_name_of(call: Mapping[str, Any]) -> str:
    claude = object_in(object_in(call, "_meta"), "claudeCode")
    return one_line(text_in(call, "name") or text_in(claude, "toolName"), _NAME)


def _summary_of(call: Mapping[str, Any]) -> str:
    return _input_of(call) or one_line(text_in(call, "title"))


def _input_of(call: Mapping[str, Any]) -> str:
    arguments = {
        key: " ".join(map(str, value)) if isinstance(value, list) else value
        for key, value in object_in(call, "rawInput").items()
        if key != "cwd"
    }
    return input_summary(arguments)


def _output_of(call: Mapping[str, Any]) -> str:
    raw = text_in(call, "rawOutput") or text_in(object_in(call, "rawOutput"), "output")
    if raw:
        return raw[:2000]
    for item in list_in(call, "content"):
        if isinstance(item, dict):
            text = text_in(object_in(item, "content"), "text")
            if text:
                return text[:2000]
    return ""


def _exit_status_of(call: Mapping[str, Any]) -> Any:
    """Return the exit status of a command, wherever the agent puts it; ``None`` if nowhere."""
    raw = object_in(call, "rawOutput")
    terminal = object_in(object_in(call, "_meta"), "terminal_exit")
    for place, key in (
        (raw, "exit_code"),
        (raw, "exitCode"),
        (object_in(raw, "metadata"), "exit"),
        (terminal, "exit_code"),
    ):
        if isinstance(place.get(key), int):
            return place[key]
    return None

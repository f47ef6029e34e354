"""Understanding Codex's output: each line becomes events, the last turn the verdict."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from eventbus_tasks import (
    AgentActivity,
    AgentMessage,
    AgentResult,
    AgentRetry,
    AgentSession,
    AgentToolFinished,
    AgentToolStarted,
    AgentUsage,
    ProcessExit,
    Reason,
    Verdict,
)
from eventbus_tasks.agents import (
    JsonLinesInterpreter,
    Totals,
    count_in,
    object_in,
    one_line,
    parse_object,
    text_in,
    unknown_event,
)
from eventbus_tasks_codex.items import describe_item, is_tool, result_of, status_of

__all__ = ["CodexInterpreter"]

_MESSAGE: Final = 500
"""Characters of a message, at most."""

# "Reconnecting... 2/5 (stream disconnected …)": the one `error` that is not the end.
_RETRY: Final = re.compile(
    r"(?:re-?connecting|retrying)\D{0,20}(\d+)/(\d+)(.*)", re.IGNORECASE | re.DOTALL
)


class CodexInterpreter(JsonLinesInterpreter):
    """The `OutputInterpreter` of one run of ``codex exec --json``.

    Args:
        resumed: The run goes on with an earlier session, whose usage is part of Codex's totals.

    Attributes:
        session_id: The session that Codex said it works in, or ``""``.
    """

    def __init__(self, *, resumed: bool = False) -> None:
        super().__init__()
        self.session_id: str = ""
        self._totals = Totals(unknown_start=resumed)
        self._open: set[str] = set()  # ids of items that have started
        self._answer: str | None = None  # the last message
        self._denied: list[str] = []
        self._problem = ""  # why the last turn has failed
        self._complete = False  # the last turn has ended well

    def read(self, data: Mapping[str, Any]) -> Iterator[AgentActivity]:
        """Return what one line means."""
        kind = text_in(data, "type")
        match kind:
            case "thread.started":
                self.session_id = text_in(data, "thread_id")
                yield AgentSession(session_id=self.session_id)
            case "turn.started":
                self._complete, self._problem = False, ""
            case "item.started" | "item.updated" | "item.completed":
                yield from self._read_item(kind, object_in(data, "item"))
            case "turn.completed":
                yield from self._read_usage(object_in(data, "usage"))
                self._complete, self._problem = True, ""
                yield AgentResult(ok=not self._denied, text=self._answer or self._refusal())
            case "turn.failed":
                yield from self._read_usage(object_in(data, "usage"))
                self._complete = False
                self._problem = _readable(text_in(object_in(data, "error"), "message"))
                self._problem = self._problem or "the turn has failed"
                yield AgentResult(ok=False, text=self._problem)
            case "error":
                yield self._read_error(text_in(data, "message"))
            case _:
                yield unknown_event(kind)

    def judge(self, exit: ProcessExit) -> Verdict:
        """Judge the run by its last turn; a turn that has not ended is no success."""
        answer = self._answer
        if self._complete and self._denied:
            # Codex calls it a success when it could not do what it was asked for.
            return Verdict(reason=Reason.AGENT_ERROR, message=self._refusal(), result=answer)
        if self._complete:
            return Verdict(reason=Reason.EXITED, result=answer)
        if self._problem:
            return Verdict(reason=Reason.AGENT_ERROR, message=self._problem)
        return self.no_result(exit, "ended without completing its turn", answer)

    def _read_item(self, event: str, item: Mapping[str, Any]) -> Iterator[AgentActivity]:
        kind, item_id = text_in(item, "type"), text_in(item, "id")
        if kind in ("agent_message", "reasoning"):
            text = text_in(item, "text")
            if event != "item.completed" or not text:
                return
            if kind == "agent_message":
                self._answer = text
            yield AgentMessage(text=text, kind="text" if kind == "agent_message" else "thinking")
        elif is_tool(kind):
            yield from self._read_tool(event, item_id, item)
        else:
            # Plans, and warnings: an item of the type `error` is one.
            yield unknown_event(event, kind)

    def _read_tool(
        self, event: str, item_id: str, item: Mapping[str, Any]
    ) -> Iterator[AgentActivity]:
        tool, summary = describe_item(item)
        if item_id not in self._open:
            # Some are told only when they are complete.
            self._open.add(item_id)
            yield AgentToolStarted(tool=tool, call_id=item_id, summary=summary)
        if event == "item.completed":
            self._open.discard(item_id)
            status = status_of(item)
            if status == "denied":
                self._denied.append(tool)
            yield AgentToolFinished(
                tool=tool, call_id=item_id, status=status, summary=result_of(item)
            )

    def _read_usage(self, usage: Mapping[str, Any]) -> Iterator[AgentUsage]:
        # Totals of the whole session. Cached tokens are part of those sent.
        totals = {key: count_in(usage, key) for key in ("input_tokens", "output_tokens")}
        new = self._totals.new(totals)
        if any(count is not None for count in new.values()):
            yield AgentUsage(input_tokens=new["input_tokens"], output_tokens=new["output_tokens"])

    def _read_error(self, message: str) -> AgentActivity:
        found = _RETRY.match(message)
        if found is None:
            self._complete = False
            self._problem = _readable(message) or "reported an error"
            return unknown_event("error")
        why = one_line(found[3].strip().removeprefix("(").removesuffix(")"))
        return AgentRetry(message=why, attempt=int(found[1][:9]), max_attempts=int(found[2][:9]))

    def _refusal(self) -> str:
        tools = ", ".join(dict.fromkeys(self._denied))
        return f"needs permission for {tools}" if tools else ""


def _readable(message: str) -> str:
    """Return an error in words; the API's own is often a JSON object in a string."""
    data = parse_object(message.encode()) or {}
    words = text_in(object_in(data, "error"), "message") or text_in(data, "message")
    return one_line(words or message, _MESSAGE)

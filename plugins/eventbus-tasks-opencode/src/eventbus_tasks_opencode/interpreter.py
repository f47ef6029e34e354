"""Understanding opencode's output: each line becomes events, the last step the verdict."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from eventbus_tasks import (
    AgentActivity,
    AgentMessage,
    AgentResult,
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
    count_in,
    input_summary,
    object_in,
    one_line,
    price_in,
    text_in,
    unknown_event,
)

__all__ = ["OpencodeInterpreter"]

_MESSAGE: Final = 500
"""Characters of a message, at most."""

_NAME: Final = 100
"""Characters of a tool's name, at most."""

# How the error of a tool that was not allowed begins.
_DENIAL: Final = re.compile(
    r"the user (?:rejected permission|has specified a rule which prevents)|permission denied by",
    re.IGNORECASE,
)

# Steps that end so are followed by another one; any other end but "stop" is a failure.
_GOES_ON: Final = frozenset({"tool-calls", "tool_calls"})

_ENDS: Final[Mapping[str, str]] = {
    "length": "reached the model's limit of tokens",
    "content-filter": "was stopped by a filter of the model",
}


class OpencodeInterpreter(JsonLinesInterpreter):
    """The `OutputInterpreter` of one run of ``opencode run --format json``.

    There is no final event: the run is over when a step has ended with the reason ``stop``.

    Attributes:
        session_id: The session that opencode said it works in, or ``""``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.session_id: str = ""
        self._answer: str | None = None  # the last text
        self._denied: list[str] = []
        self._problem = ""
        self._complete = False  # the last step has ended with "stop"

    def read(self, data: Mapping[str, Any]) -> Iterator[AgentActivity]:
        """Return what one line means."""
        session_id = text_in(data, "sessionID")
        if session_id and session_id != self.session_id:
            self.session_id = session_id
            yield AgentSession(session_id=session_id)
        kind, part = text_in(data, "type"), object_in(data, "part")
        match kind:
            case "step_start":
                self._complete, self._problem = False, ""
            case "text" | "reasoning":
                text = text_in(part, "text")
                if text and kind == "text":
                    self._answer = text
                if text:
                    yield AgentMessage(text=text, kind="text" if kind == "text" else "thinking")
            case "tool_use":
                yield from self._read_tool(part)
            case "step_finish":
                yield from self._read_finish(part)
            case "error":
                self._complete = False
                self._problem = _readable(object_in(data, "error"))
                yield AgentResult(ok=False, text=self._problem)
            case _:
                yield unknown_event(kind)

    def judge(self, exit: ProcessExit) -> Verdict:
        """Judge the run by its last step; one that has not ended with "stop" is no success."""
        if self._problem:
            return Verdict(reason=Reason.AGENT_ERROR, message=self._problem)
        if self._denied:
            # opencode ends with status 0 then, sometimes in the middle.
            message = f"needs permission for {', '.join(dict.fromkeys(self._denied))}"
            return Verdict(reason=Reason.AGENT_ERROR, message=message, result=self._answer)
        if self._complete:
            return Verdict(reason=Reason.EXITED, result=self._answer)
        return self.no_result(exit, "ended before its last step", self._answer)

    def _read_tool(self, part: Mapping[str, Any]) -> Iterator[AgentActivity]:
        # A tool is told when it has ended, so both events come from one line.
        tool, call_id = one_line(text_in(part, "tool"), _NAME), text_in(part, "callID")
        state = object_in(part, "state")
        yield AgentToolStarted(
            tool=tool, call_id=call_id, summary=input_summary(object_in(state, "input"))
        )
        error = text_in(state, "error")
        status = "ok" if text_in(state, "status") == "completed" else "error"
        if count_in(object_in(state, "metadata"), "exit") not in (None, 0):
            status = "error"  # of a command, which opencode calls completed
        if status == "error" and _DENIAL.match(error):
            status = "denied"
            self._denied.append(tool or "a tool")
        yield AgentToolFinished(
            tool=tool,
            call_id=call_id,
            status=status,
            summary=one_line(error or text_in(state, "output")),
        )

    def _read_finish(self, part: Mapping[str, Any]) -> Iterator[AgentActivity]:
        usage = _usage(part)
        if usage is not None:
            yield usage
        reason = text_in(part, "reason")
        if reason in _GOES_ON:
            return
        self._complete = reason == "stop"
        if not self._complete:
            self._problem = _ENDS.get(reason) or f"ended as {one_line(reason, _NAME) or 'nothing'}"
        ok = self._complete and not self._denied
        yield AgentResult(ok=ok, text=self._problem or self._answer or "")


def _usage(part: Mapping[str, Any]) -> AgentUsage | None:
    """Return what one step has used. Its numbers are those of the step alone."""
    tokens = object_in(part, "tokens")
    cache = object_in(tokens, "cache")
    sent = [count_in(tokens, "input"), count_in(cache, "read"), count_in(cache, "write")]
    made = [count_in(tokens, "output"), count_in(tokens, "reasoning")]
    # A price of 0 is what it says where it knows none.
    cost = price_in(part, "cost") or None
    if not any((*sent, *made)) and cost is None:
        return None
    return AgentUsage(input_tokens=_sum(sent), output_tokens=_sum(made), cost_usd=cost)


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _readable(error: Mapping[str, Any]) -> str:
    data = object_in(error, "data")
    words = text_in(data, "message") or text_in(error, "message") or text_in(error, "name")
    status = count_in(data, "statusCode")
    if status is not None:
        words = f"the API answered {status}: {words}" if words else f"the API answered {status}"
    return one_line(words, _MESSAGE) or "reported an error"

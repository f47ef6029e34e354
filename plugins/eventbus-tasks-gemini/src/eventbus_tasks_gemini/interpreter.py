"""Understanding Gemini's output: each line becomes events, the result the verdict."""

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
    Send,
    Stream,
    Verdict,
    Withdraw,
    decode_line,
)
from eventbus_tasks.agents import (
    JsonLinesInterpreter,
    Totals,
    count_in,
    input_summary,
    object_in,
    one_line,
    parse_object,
    text_in,
    unknown_event,
)

__all__ = ["GeminiInterpreter"]

_MESSAGE: Final = 500
"""Characters of a message, at most."""

_NAME: Final = 100
"""Characters of a tool's name, at most."""

# Gemini exits with these when it has not begun; other numbers are those of HTTP, modulo 256.
_EXITS: Final[Mapping[int, str]] = {
    41: "is not logged in",
    42: "refused its input or session",
    44: "has no sandbox",
    52: "has a mistake in its configuration",
    53: "reached its limit of turns",
}

# "Attempt 1 failed with status 500. Retrying with backoff..." on standard error.
_RETRY: Final = re.compile(
    r"attempt (\d+) failed(?: with status (\d+))?.{0,100}retrying", re.IGNORECASE | re.DOTALL
)
# Such words are called a success.
_LOOP: Final = re.compile(r"loop detected", re.IGNORECASE)
_FAILED_COMMAND: Final = re.compile(
    r"(?:command )?exited with code: [1-9-]|blocked: ", re.IGNORECASE
)

_API: Final = re.compile(r"\s*\[API Error: (.*)\]\s*", re.DOTALL)

_DENIALS: Final = frozenset({"policy_violation", "execution_denied"})


class GeminiInterpreter(JsonLinesInterpreter):
    """The `OutputInterpreter` of one run of ``gemini --output-format stream-json``.

    Attributes:
        session_id: The session that Gemini said it works in, or ``""``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.session_id: str = ""
        self._totals = Totals()
        self._tools: dict[str, str] = {}  # name by the id of an open use
        self._pieces: list[str] = []  # of the message that is being said
        self._answer: str | None = None  # the last message
        self._denied: list[str] = []
        self._warning = ""  # what makes a success none
        self._problem = ""
        self._result: str | None = None  # the status of the last result
        self._explained = ""  # the last line of standard error that is no stack trace

    @property
    def hint(self) -> str:
        """The last line of standard error that is not part of a stack trace."""
        return self._explained or super().hint

    def interpret(self, line: bytes, stream: Stream) -> Iterator[AgentActivity | Send | Withdraw]:
        """Return what one line means; retries are told on standard error only."""
        events = super().interpret(line, stream)
        if stream != "stderr":
            return events
        text = one_line(decode_line(line[:2000]), _MESSAGE)
        found = _RETRY.match(text)
        if found is not None:
            status = None if found[2] is None else int(found[2][:6])
            retry = AgentRetry(message=text, status=status, attempt=int(found[1][:6]) + 1)
            return iter((retry,))
        if text[:1].isalpha() and not text.startswith(("at ", "YOLO", "Warning", "Ripgrep")):
            self._explained = text
        return events

    def read(self, data: Mapping[str, Any]) -> Iterator[AgentActivity]:
        """Return what one line means."""
        kind = text_in(data, "type")
        if kind == "message" and text_in(data, "role") == "assistant":
            yield from self._read_message(data)
            return
        # Whatever comes next, the message before it is complete.
        yield from self._end_message()
        match kind:
            case "init":
                self.session_id = text_in(data, "session_id")
                self._result = None
                yield AgentSession(session_id=self.session_id, model=text_in(data, "model"))
            case "message" if text_in(data, "role") == "user":
                pass  # the prompt, once more
            case "tool_use":
                yield self._read_tool_use(data)
            case "tool_result":
                yield self._read_tool_result(data)
            case "error":
                yield self._read_error(data)
            case "result":
                yield from self._read_result(data)
            case _:
                yield unknown_event(kind)

    def judge(self, exit: ProcessExit) -> Verdict:
        """Judge the run by its result; without one it is no success, whatever its status."""
        answer = self._answer
        if self._result is None:
            code = exit.return_code
            known = "" if code is None else _EXITS.get(code, "")
            what = f"Gemini {known}" if known else "ended without a result"
            return self.no_result(exit, what, answer)
        if self._problem:
            denied = self._result == "success" and bool(self._denied)
            return Verdict(
                reason=Reason.AGENT_ERROR, message=self._problem, result=answer if denied else None
            )
        return Verdict(reason=Reason.EXITED, result=answer)

    def _read_message(self, data: Mapping[str, Any]) -> Iterator[AgentActivity]:
        text = text_in(data, "content")
        if data.get("delta") is True:
            if text:
                self._pieces.append(text)
                yield AgentMessage(text=text, delta=True)
            return
        yield from self._end_message()
        if text:
            self._answer = text
            yield AgentMessage(text=text)

    def _end_message(self) -> Iterator[AgentActivity]:
        if self._pieces:
            self._answer = "".join(self._pieces)
            self._pieces.clear()
            yield AgentMessage(text=self._answer)

    def _read_tool_use(self, data: Mapping[str, Any]) -> AgentActivity:
        call_id, tool = text_in(data, "tool_id"), one_line(text_in(data, "tool_name"), _NAME)
        self._tools[call_id] = tool
        return AgentToolStarted(
            tool=tool, call_id=call_id, summary=input_summary(object_in(data, "parameters"))
        )

    def _read_tool_result(self, data: Mapping[str, Any]) -> AgentActivity:
        call_id = text_in(data, "tool_id")
        tool = self._tools.pop(call_id, "")
        error = object_in(data, "error")
        output = text_in(data, "output") or text_in(error, "message")
        status = "ok" if text_in(data, "status") == "success" else "error"
        if text_in(error, "type") in _DENIALS:
            status = "denied"
            self._denied.append(tool or "a tool")
        elif _FAILED_COMMAND.match(output):
            status = "error"  # Gemini calls it a success
        return AgentToolFinished(
            tool=tool, call_id=call_id, status=status, summary=one_line(output)
        )

    def _read_error(self, data: Mapping[str, Any]) -> AgentActivity:
        message = one_line(text_in(data, "message"), _MESSAGE)
        severity = text_in(data, "severity")
        if severity != "warning" or _LOOP.search(message):
            self._warning = message or "reported an error"
        return unknown_event("error", severity)

    def _read_result(self, data: Mapping[str, Any]) -> Iterator[AgentActivity]:
        stats = object_in(data, "stats")
        totals = {key: count_in(stats, key) for key in ("input_tokens", "output_tokens")}
        new = self._totals.new(totals)
        if any(new.values()):
            yield AgentUsage(input_tokens=new["input_tokens"], output_tokens=new["output_tokens"])
        self._result = text_in(data, "status")
        self._problem = self._failure(data, stats)
        yield AgentResult(ok=not self._problem, text=self._problem or self._answer or "")

    def _failure(self, data: Mapping[str, Any], stats: Mapping[str, Any]) -> str:
        if self._result != "success":
            message = _readable(text_in(object_in(data, "error"), "message"))
            return message or self._warning or "reported an error"
        if self._warning:
            return self._warning
        if self._denied:
            return f"needs permission for {', '.join(dict.fromkeys(self._denied))}"
        if self._answer is None and count_in(stats, "total_tokens") == 0:
            # So it ends when a prompt is too long for it.
            return "has asked no model"
        return ""


def _readable(message: str) -> str:
    """Return an error in words; the API's own is a JSON object in brackets."""
    found = _API.fullmatch(message)
    words = found[1] if found else message
    data = object_in(parse_object(words.encode()) or {}, "error")
    if text_in(data, "message"):
        code = count_in(data, "code")
        words = text_in(data, "message")
        words = words if code is None else f"the API answered {code}: {words}"
    return one_line(words, _MESSAGE)

"""Understanding Claude's output: each line of JSON becomes events, the last result the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from eventbus_tasks import (
    AgentActivity,
    AgentAnswer,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    AgentRetry,
    AgentSession,
    ProcessExit,
    Reason,
    Send,
    Verdict,
    Withdraw,
)
from eventbus_tasks.agents import (
    JsonLinesInterpreter,
    count_in,
    list_in,
    object_in,
    one_line,
    price_in,
    text_in,
    unknown_event,
)
from eventbus_tasks_claude.conversation import Conversation
from eventbus_tasks_claude.judgement import ClaudeResult, read_result
from eventbus_tasks_claude.tools import ToolCalls
from eventbus_tasks_claude.usage import UsageCounter

__all__ = ["ClaudeInterpreter"]

# Parts of a streamed message that say nothing a person would read; the whole message follows.
_SILENT: Final = frozenset(
    {
        "message_start",
        "message_delta",
        "message_stop",
        "content_block_start",
        "content_block_stop",
        "ping",
    }
)
_SILENT_DELTAS: Final = frozenset({"input_json_delta", "signature_delta", "citations_delta"})


class ClaudeInterpreter(JsonLinesInterpreter):
    """The `OutputInterpreter` of one run of ``claude -p --output-format stream-json``.

    Only lines of standard output that begin with ``{`` are read as JSON. Nothing that Claude, or
    anything else, writes there makes it raise: a value of a wrong type counts as absent.

    With ``--input-format=stream-json`` it is a `ConversationInterpreter`, too.

    Args:
        resumed: The run goes on with an earlier session.
        prompt: The first prompt of a Claude that is talked to.

    Attributes:
        session_id: The session that Claude said it works in, or ``""``.
    """

    def __init__(self, *, resumed: bool = False, prompt: str = "") -> None:
        super().__init__()
        self.session_id: str = ""
        self._model = ""
        self._prompt = prompt
        self._talk = Conversation()
        self._usage = UsageCounter(resumed=resumed)
        self._tools = ToolCalls()
        self._result: ClaudeResult | None = None
        self._turn_open = False  # something has begun since the last result

    def begin(self) -> bytes:
        """Return the first prompt as a message."""
        return self._talk.prompt(self._prompt)

    def encode_prompt(self, text: str) -> bytes:
        """Return a message; Claude works on it when the turn at hand has ended."""
        return self._talk.prompt(text)

    def encode_answer(self, request: AgentInputRequired, answer: AgentAnswer) -> bytes:
        """Return the answer to a permission request or question."""
        return self._talk.answer(request, answer)

    def encode_interrupt(self) -> bytes:
        """Return what ends the turn at hand and its tools."""
        return self._talk.interrupt()

    def read(self, data: Mapping[str, Any]) -> Iterable[AgentActivity | Send | Withdraw]:
        """Return what one JSON object means, with the use of a tool that it belongs to."""
        parent = text_in(data, "parent_tool_use_id")
        if not parent:
            return self._read(data)
        return (
            replace(item, parent=parent) if isinstance(item, AgentActivity) else item
            for item in self._read(data)
        )

    def judge(self, exit: ProcessExit) -> Verdict:
        """Judge the run by its last result; without one it is no success, whatever its status."""
        result = self._result
        answer = result.text if result is not None and result.is_answer else None
        if result is None:
            return self.no_result(exit, answer=answer)
        if result.ok and self._turn_open:
            return self.no_result(exit, "ended in the middle of another turn", answer)
        if not result.ok:
            return Verdict(reason=Reason.AGENT_ERROR, message=result.problem, result=answer)
        return Verdict(reason=Reason.EXITED, result=answer)

    # -- lines --------------------------------------------------------------------------------

    def _read(self, data: Mapping[str, Any]) -> Iterator[AgentActivity | Send | Withdraw]:
        kind = text_in(data, "type")
        match kind:
            case "system":
                yield from self._read_system(data)
            case "assistant":
                if not text_in(data, "parent_tool_use_id"):  # not the word of a sub-agent
                    self._turn_open = True
                yield from self._read_assistant(object_in(data, "message"))
            case "user":
                yield from self._read_user(object_in(data, "message"))
            case "stream_event":
                yield from _read_stream_event(object_in(data, "event"))
            case "result":
                yield from self._read_result(data)
            case "control_request":
                yield from self._talk.read_request(data)
            case "control_cancel_request":
                yield self._talk.read_cancel(data)
            case "control_response":
                return  # our interrupt has arrived; the result that follows says so
            case "rate_limit_event":
                yield _read_rate_limit(object_in(data, "rate_limit_info"))
            case _:
                yield unknown_event(kind)

    def _read_system(self, data: Mapping[str, Any]) -> Iterator[AgentActivity]:
        subtype = text_in(data, "subtype")
        if subtype == "permission_denied":
            self._tools.note_denial(data)
        if subtype == "api_retry":
            yield _read_retry(data)
            return
        if subtype != "init":
            yield unknown_event("system", subtype)
            return
        self._turn_open = True
        session_id, model = text_in(data, "session_id"), text_in(data, "model")
        # Claude begins each turn with the same line again.
        if session_id and (session_id, model) != (self.session_id, self._model):
            self.session_id, self._model = session_id, model
            yield AgentSession(session_id=session_id, model=model)

    def _read_assistant(self, message: Mapping[str, Any]) -> Iterator[AgentActivity]:
        text = text_in(message, "content")
        if text:
            yield AgentMessage(text=text)
        for block in _blocks(message):
            yield from self._read_block(block)
        usage = self._usage.of_message(message)
        if usage is not None:
            yield usage

    def _read_block(self, block: Mapping[str, Any]) -> Iterator[AgentActivity]:
        kind = text_in(block, "type")
        if kind in ("text", "thinking"):
            text = text_in(block, kind)
            if text:
                yield AgentMessage(text=text, kind=kind)
        elif kind == "tool_use" or kind.endswith("_tool_use"):
            started = self._tools.start(block)
            if started is not None:
                yield started
        elif kind == "tool_result" or kind.endswith("_tool_result"):
            yield self._tools.finish(block)
        else:
            yield unknown_event("assistant", kind)

    def _read_user(self, message: Mapping[str, Any]) -> Iterator[AgentActivity]:
        if "content" in message and not isinstance(message["content"], list):
            yield unknown_event("user", "text")
        for block in _blocks(message):
            kind = text_in(block, "type")
            if kind == "tool_result":
                yield self._tools.finish(block)
            else:
                yield unknown_event("user", kind)

    def _read_result(self, data: Mapping[str, Any]) -> Iterator[AgentActivity]:
        yield from self._tools.note_denials(data)
        usage = self._usage.of_result(data)
        if usage is not None:
            yield usage
        self._turn_open = False
        self._result = read_result(data, self._tools.denied)
        yield AgentResult(ok=self._result.ok, text=self._result.text or self._result.problem)


def _read_retry(data: Mapping[str, Any]) -> AgentRetry:
    delay = price_in(data, "retry_delay_ms")
    return AgentRetry(
        message=one_line(text_in(data, "error")),
        status=count_in(data, "error_status"),
        attempt=count_in(data, "attempt"),
        max_attempts=count_in(data, "max_retries"),
        delay=None if delay is None else delay / 1000,
    )


def _read_rate_limit(info: Mapping[str, Any]) -> AgentActivity:
    """Return what it means when the quota is used up; a mere reading of it has no meaning."""
    if text_in(info, "status") != "rejected":
        return unknown_event("rate_limit_event")
    resets = count_in(info, "resetsAt")
    try:
        until = None if resets is None else datetime.fromtimestamp(resets, UTC)
    except (OverflowError, OSError, ValueError):  # no time that a clock can show
        until = None
    what = one_line(text_in(info, "rateLimitType").replace("_", " "), 100)
    return AgentRetry(kind="rate_limit", message=what, until=until)


def _read_stream_event(event: Mapping[str, Any]) -> Iterator[AgentActivity]:
    kind = text_in(event, "type")
    if kind != "content_block_delta":
        if kind not in _SILENT:
            yield unknown_event("stream_event", kind)
        return
    delta = object_in(event, "delta")
    part = text_in(delta, "type")
    if part in ("text_delta", "thinking_delta"):
        word = part.removesuffix("_delta")
        text = text_in(delta, word)
        if text:
            yield AgentMessage(text=text, delta=True, kind=word)
    elif part not in _SILENT_DELTAS:
        yield unknown_event("stream_event", part)


def _blocks(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (block for block in list_in(message, "content") if isinstance(block, dict))

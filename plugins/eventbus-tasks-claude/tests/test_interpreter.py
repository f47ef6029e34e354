"""The interpreter by itself: whatever is written to its streams, it does not raise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from eventbus_tasks_claude import ClaudeInterpreter
from fake_claude import bare, init, result, text
from hypothesis import example, given
from hypothesis import strategies as st

from eventbus_tasks import (
    AgentActivity,
    ProcessExit,
    Reason,
    Verdict,
    Withdraw,
    event_from_dict,
)

# Words that lead into every branch, also with values of the wrong type behind them.
WORDS = (
    *("type", "subtype", "message", "content", "event", "delta", "text", "thinking", "id", "name"),
    *("input", "usage", "result", "errors", "is_error", "session_id", "model", "tool_use_id"),
    *("permission_denials", "tool_name", "terminal_reason", "api_error_status"),
    *("total_cost_usd", "modelUsage", "input_tokens", "output_tokens", "inputTokens"),
    *("outputTokens", "parent_tool_use_id", "request", "request_id", "command"),
)
TYPES = ("system", "assistant", "user", "stream_event", "result", "control_request")
VALUES = (
    *TYPES,
    *("init", "api_retry", "can_use_tool", "text", "thinking", "tool_use", "tool_result"),
    *("text_delta", "thinking_delta", "content_block_delta", "success", "completed"),
    *("aborted_tools", "error_during_execution"),
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**400)
    | st.floats()
    | st.sampled_from(VALUES)
    | st.text(st.characters())
    | st.just("\ud83d")
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=20,
)
# Lines of every known type, with known parts in known places, and anything inside.
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "tool_use", "tool_result", "x_tool_result"])},
    optional={
        name: values | st.text(max_size=3)
        for name in ("text", "thinking", "id", "tool_use_id", "name", "input", "content")
    },
)
messages = st.fixed_dictionaries(
    {"content": st.lists(blocks | values, max_size=3) | values},
    optional={"id": st.sampled_from(["a", "b"]), "usage": values},
)
lines = st.fixed_dictionaries(
    {"type": st.sampled_from([*TYPES, "rate_limit_event"])},
    optional={
        "message": messages | values,
        **{name: values for name in WORDS if name not in ("type", "message")},
    },
)
objects = st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), values, max_size=8)


def check(interpreter: ClaudeInterpreter, line: bytes, stream: Any) -> list[AgentActivity]:
    """Interpret a line, and check that what comes of it can be kept."""
    found: list[AgentActivity] = []
    for event in interpreter.interpret(line, stream):
        if isinstance(event, Withdraw):
            continue
        assert isinstance(event, AgentActivity)
        found.append(event)
        wire = json.dumps(event.to_dict(), ensure_ascii=False, allow_nan=False).encode()
        assert event_from_dict(json.loads(wire)) == event
    return found


def check_verdict(interpreter: ClaudeInterpreter, return_code: int | None) -> Verdict:
    """Judge, and check what holds for every verdict."""
    verdict = interpreter.verdict(ProcessExit(return_code=return_code))
    assert verdict.reason in (Reason.EXITED, Reason.AGENT_ERROR, Reason.NO_RESULT)
    assert (verdict.reason is Reason.EXITED) == (not verdict.message)
    assert len(verdict.message) < 1000
    assert "\n" not in verdict.message
    return verdict


@given(
    st.lists(
        st.tuples(
            st.binary() | st.binary().map(lambda rest: b"{" + rest),
            st.sampled_from(["stdout", "stderr"]),
        )
    ),
    st.none() | st.integers(min_value=-64, max_value=255),
)
@example([(b'{"a":' * 100_000, "stdout")], 0)
@example([(b'{"n":' + b"9" * 5000 + b"}", "stdout")], 0)
@example([(b'{"type":"result"}', "stdout")], 0)
@example([(b"{\x00}", "stdout"), (b"\xff\xfe{", "stdout")], None)
def test_any_bytes_are_taken(pieces: list[tuple[bytes, Any]], return_code: int | None) -> None:
    """Arbitrary bytes on either stream never raise, and never amount to a success."""
    interpreter = ClaudeInterpreter()
    for line, stream in pieces:
        check(interpreter, line, stream)
    # Bytes can happen to be a result that says nothing of success.
    told = any(b'"result"' in line and stream == "stdout" for line, stream in pieces)
    reason = check_verdict(interpreter, return_code).reason
    assert reason is Reason.NO_RESULT or (told and reason is Reason.AGENT_ERROR)


@given(st.lists(objects | lines, max_size=6))
@example([{"type": "result", "total_cost_usd": 10**400, "usage": {"input_tokens": 10**400}}])
def test_any_objects_are_taken(found: list[dict[str, Any]]) -> None:
    """Arbitrary JSON objects, of known types too, never raise, and each line tells something."""
    interpreter = ClaudeInterpreter()
    for item in found:
        check(interpreter, json.dumps(item).encode(), "stdout")
    verdict = check_verdict(interpreter, 0)
    if verdict.reason is Reason.EXITED:
        last = [item for item in found if item.get("type") == "result"][-1]
        assert last["is_error"] is False
        assert last["subtype"] == "success"


@given(st.integers(min_value=0, max_value=400))
def test_no_beginning_of_a_stream_is_a_success(size: int) -> None:
    """A good stream that is cut anywhere before its end is no success."""
    stream = b"\n".join(bare(step) for step in (init(), text("Hello."), result("Hello.")))
    interpreter = ClaudeInterpreter()
    for line in stream[: len(stream) - 1 - size].split(b"\n"):
        check(interpreter, line, "stdout")
    assert check_verdict(interpreter, 0).reason is Reason.NO_RESULT


def test_a_permission_question_is_told() -> None:
    """A `can_use_tool` request of the control protocol becomes a need for a person."""
    line = {
        "type": "control_request",
        "request_id": "r1",
        "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}},
    }
    (event,) = check(ClaudeInterpreter(), json.dumps(line).encode(), "stdout")
    assert event.to_dict()["kind"] == "permission"
    assert event.to_dict()["prompt"] == "may it use Bash: ls"
    assert event.to_dict()["request_id"] == "r1"


@pytest.mark.parametrize("text_", ["x" * 100_000, "a\x1b[2Jb\x07\nc\u202ed"])
def test_words_in_a_message_are_short_and_safe(text_: str) -> None:
    """What becomes a failure message is one line, not long, without control sequences."""
    interpreter = ClaudeInterpreter()
    list(interpreter.interpret(bare(result(text_, is_error=True)), "stdout"))
    message = check_verdict(interpreter, 0).message
    assert len(message) <= 500
    assert message.isprintable()

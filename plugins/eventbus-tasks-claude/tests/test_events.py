"""What each line of Claude's stream becomes, through a real engine."""

from __future__ import annotations

from typing import Any

import pytest
from fake_claude import (
    MODEL,
    assistant,
    delta,
    denial,
    err,
    init,
    out,
    result,
    system,
    text,
    thinking,
    tool_result,
    tool_use,
)

from eventbus_tasks import (
    AgentMessage,
    AgentResult,
    AgentSession,
    AgentToolFinished,
    AgentUsage,
    Reason,
    event_from_dict,
)

pytestmark = pytest.mark.anyio


async def test_a_plain_answer_becomes_session_message_usage_and_result(play: Any) -> None:
    """A run with one answer tells its session, the text, what it cost, and the result."""
    run = await play(init(), text("Hello.", input_tokens=10, output_tokens=2), result("Hello."))
    assert run.plain() == [
        ("session", run.task.uid, MODEL),
        ("message", "Hello.", False, "text"),
        ("usage", 10, 2, None),
        ("usage", 0, 3, 0.25),
        ("result", True, "Hello."),
    ]
    assert run.outcome.reason is Reason.EXITED
    assert run.outcome.result == "Hello."


async def test_each_event_has_the_line_it_comes_from(play: Any) -> None:
    """The raw line of an event is the one that Claude wrote."""
    run = await play(init(), text("Grüße"), result())
    for event in run.activities:
        assert event.raw.startswith(b"{")
        assert event.raw.endswith(b"}")
    message = next(event for event in run.activities if isinstance(event, AgentMessage))
    assert "Grüße".encode() in message.raw


async def test_tools_start_and_finish_with_their_names(play: Any) -> None:
    """Tool results are matched to their names by id, also when two tools run at once."""
    run = await play(
        init(),
        assistant(
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls\n-l"}},
            {"type": "tool_use", "id": "t2", "name": "Read", "input": {"file_path": "/a b"}},
        ),
        tool_result("t2", [{"type": "text", "text": "content"}]),
        tool_result("t1", "no such file", is_error=True),
        result(),
    )
    assert run.plain()[1:6] == [
        ("message", "Looking.", False, "text"),
        ("tool_started", "Bash", "t1", "ls -l"),
        ("tool_started", "Read", "t2", "/a b"),
        ("tool_finished", "Read", "t2", "ok", "content"),
        ("tool_finished", "Bash", "t1", "error", "no such file"),
    ]
    assert run.outcome.reason is Reason.EXITED


@pytest.mark.parametrize(
    "words",
    [
        "Claude requested permissions to use Bash, but you haven't granted it yet.",
        "Claude requested permissions to write to /a/b, but you haven't granted it yet.",
        "This command requires approval",
        "This Bash command contains multiple operations. The following part requires approval: x",
        "Permission to use Bash with command rm has been denied.",
    ],
)
async def test_a_denied_tool_is_not_a_failed_one(play: Any, words: str) -> None:
    """A tool result that asks for permission finishes the tool as denied."""
    run = await play(
        init(), tool_use("t1", "Bash", command="rm x"), tool_result("t1", words, is_error=True)
    )
    finished = [event for event in run.activities if isinstance(event, AgentToolFinished)]
    assert [(event.tool, event.status) for event in finished] == [("Bash", "denied")]


async def test_an_interrupted_tool_is_not_a_denied_one(play: Any) -> None:
    """What Claude says of a tool that SIGINT ended is an error, though it speaks of a user."""
    words = "The user doesn't want to proceed with this tool use. The tool use was rejected"
    run = await play(
        init(), tool_use("t1", "Bash", command="ls"), tool_result("t1", words, is_error=True)
    )
    assert ("tool_finished", "Bash", "t1", "error", words) in run.plain()


async def test_a_denial_that_claude_announces_needs_no_known_words(play: Any) -> None:
    """A `permission_denied` line makes the result that follows a denied one."""
    run = await play(
        init(),
        tool_use("t1", "Bash", command="rm x"),
        system("permission_denied", tool_name="Bash", tool_use_id="t1", message="Nein."),
        tool_result("t1", "Nein.", is_error=True),
        result(permission_denials=[denial("t1", "Bash")]),
    )
    assert run.plain()[1:-2] == [
        ("tool_started", "Bash", "t1", "rm x"),
        ("unknown", "system/permission_denied"),
        ("tool_finished", "Bash", "t1", "denied", "Nein."),
    ]


async def test_a_tool_that_only_the_result_calls_denied_is_finished_by_it(play: Any) -> None:
    """A use without a tool result, listed in permission_denials, finishes as denied."""
    run = await play(
        init(), tool_use("t1", "Write"), result(permission_denials=[denial("t1", "Write")])
    )
    assert ("tool_finished", "Write", "t1", "denied", "") in run.plain()


async def test_thinking_and_pieces_are_marked(play: Any) -> None:
    """Thinking has its kind, pieces of streamed messages are deltas, and structure is silent."""
    run = await play(
        init(),
        {"line": {"type": "stream_event", "event": {"type": "message_start", "message": {}}}},
        delta("thinking", "Hm"),
        delta("text", "Hel"),
        delta("text", "lo"),
        thinking("Hm."),
        text("Hello"),
        result(),
    )
    assert run.plain()[1:6] == [
        ("message", "Hm", True, "thinking"),
        ("message", "Hel", True, "text"),
        ("message", "lo", True, "text"),
        ("message", "Hm.", False, "thinking"),
        ("message", "Hello", False, "text"),
    ]


async def test_what_has_no_name_here_is_passed_on(play: Any) -> None:
    """Readings of a quota, other system lines and unknown types keep their kind and raw line."""
    run = await play(
        init(),
        system("task_started", task_id="b1"),
        {"line": {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed"}}},
        {"line": {"type": "sparkle", "n": 1}},
        {"line": {"no": "type"}},
        assistant({"type": "hologram"}),
        result(),
    )
    assert [row for row in run.plain() if row[0] == "unknown"] == [
        ("unknown", "system/task_started"),
        ("unknown", "rate_limit_event"),
        ("unknown", "sparkle"),
        ("unknown", ""),
        ("unknown", "assistant/hologram"),
    ]
    assert b'"b1"' in run.activities[1].raw


async def test_waiting_for_the_model(play: Any) -> None:
    """A retry says why and how long, a quota that is used up until when; `None` is unknown."""
    info = {"status": "rejected", "resetsAt": 1_800_000_000, "rateLimitType": "five_hour"}
    run = await play(
        init(),
        system(
            "api_retry",
            attempt=1,
            max_retries=10,
            retry_delay_ms=508,
            error_status=529,
            error="overloaded",
        ),
        {"line": {"type": "rate_limit_event", "rate_limit_info": info}},
        {"line": {"type": "rate_limit_event", "rate_limit_info": {**info, "resetsAt": 2**52}}},
        result(),
    )
    until = "2027-01-15T08:00:00+00:00"
    assert [row for row in run.plain() if row[0] == "retry"] == [
        ("retry", "error", "overloaded", 529, 1, 10, 0.508, None),
        ("retry", "rate_limit", "five hour", None, None, None, None, until),
        ("retry", "rate_limit", "five hour", None, None, None, None, None),
    ]


async def test_sub_agents_are_told_apart(play: Any) -> None:
    """What a sub-agent says and does names the use of the tool that has started it."""
    step = assistant({"type": "text", "text": "aside"})
    step["line"]["parent_tool_use_id"] = "t9"
    run = await play(init(), tool_use("t9", "Task", prompt="look"), step, result("all"))
    assert [(event.name, event.parent) for event in run.activities[1:3]] == [
        ("agent.tool_started", ""),
        ("agent.message", "t9"),
    ]


async def test_a_session_is_told_once_and_again_when_it_changes(play: Any) -> None:
    """The init line of a later turn makes an event only if session or model are others."""
    run = await play(
        init(), result(), init(), result(), init(model="claude-fake-2"), result("last")
    )
    sessions = [event for event in run.activities if isinstance(event, AgentSession)]
    assert [event.model for event in sessions] == [MODEL, "claude-fake-2"]


async def test_usage_is_counted_once_for_each_message(play: Any) -> None:
    """Lines of one message repeat its usage, results repeat totals: the events add up exactly."""
    spent = {"input_tokens": 3, "cache_read_input_tokens": 7}
    models = {
        MODEL: {"inputTokens": 13, "cacheReadInputTokens": 7, "outputTokens": 21},
        "small": {"inputTokens": 100, "outputTokens": 9},
    }
    run = await play(
        init(),
        thinking("Hm.", message_id="a", output_tokens=1, **spent),
        text("One.", message_id="a", output_tokens=4, **spent),
        text("Two.", message_id="b", output_tokens=16, input_tokens=10),
        result(total_cost_usd=0.5, modelUsage=models),
        init(),
        text("Three.", message_id="c", output_tokens=2, input_tokens=1),
        result(
            total_cost_usd=0.75,
            modelUsage={**models, "large": {"inputTokens": 1, "outputTokens": 2}},
        ),
    )
    usage = [event for event in run.activities if isinstance(event, AgentUsage)]
    assert sum(event.input_tokens or 0 for event in usage) == 121
    assert sum(event.output_tokens or 0 for event in usage) == 32
    assert [event.cost_usd for event in usage if event.cost_usd is not None] == [0.5, 0.25]


def _models(sent: int, produced: int, price: float) -> dict[str, Any]:
    return {MODEL: {"inputTokens": sent, "outputTokens": produced, "costUSD": price}}


async def test_usage_of_a_resumed_session_is_that_of_this_run(play: Any) -> None:
    """Claude's totals go on from the earlier run; what the events say does not."""
    run = await play(
        init(),
        text("Again.", input_tokens=11, output_tokens=1),
        result(
            total_cost_usd=0.75,
            usage={"input_tokens": 11, "output_tokens": 7},
            modelUsage=_models(44, 28, 0.75),
            model_usage_since_last_result=_models(11, 7, 0.25),
        ),
        options={"resume": "abc"},
    )
    assert [row for row in run.plain() if row[0] == "usage"] == [
        ("usage", 11, 1, None),
        ("usage", 0, 6, 0.25),
    ]


async def test_the_price_of_a_resumed_session_may_be_unknown(play: Any) -> None:
    """Versions that tell only the session's price leave that of the first turn unknown."""
    usage = {"input_tokens": 11, "output_tokens": 7}
    run = await play(
        init(),
        result(total_cost_usd=0.75, usage=usage, modelUsage=_models(44, 28, 0.75)),
        init(),
        result(total_cost_usd=1.0, usage=usage, modelUsage=_models(55, 35, 1.0)),
        options={"args": ["--continue"]},
    )
    assert [row for row in run.plain() if row[0] == "usage"] == [
        ("usage", 11, 7, None),
        ("usage", 11, 7, 0.25),
    ]


async def test_unknown_usage_is_none(play: Any) -> None:
    """A result that tells a price and no tokens leaves the tokens unknown."""
    run = await play(init(), result(usage=...))
    usage = [event for event in run.activities if isinstance(event, AgentUsage)]
    assert [(event.input_tokens, event.output_tokens) for event in usage] == [(None, None)]


async def test_a_line_of_5_mb_is_one_message(play: Any) -> None:
    """An answer in one line of five million characters arrives whole, as message and result."""
    words = "x" * 5_000_000
    run = await play(init(), text(words), result(words))
    messages = [event.text for event in run.activities if isinstance(event, AgentMessage)]
    assert messages == [words]
    assert run.outcome.reason is Reason.EXITED
    assert run.outcome.result == words


async def test_line_separators_of_unicode_do_not_cut_a_line(play: Any) -> None:
    """Raw U+2028 and U+0085 in a JSON string stay in the text."""
    words = "one\u2028two\u0085three"
    run = await play(init(), text(words), result())
    assert ("message", words, False, "text") in run.plain()


async def test_noise_around_the_lines_changes_nothing(play: Any) -> None:
    """Warnings on both streams, also ones that hold JSON, make no event and no failure."""
    run = await play(
        out("warning: slow start\n"),
        err('{"type":"result","is_error":true}\n'),
        init(),
        out('[debug] {"type":"assistant"}\n'),
        err("\x1b[31mtrace\x1b[0m\n" * 100),
        out("\n"),
        result("fine"),
    )
    assert [row[0] for row in run.plain()] == ["session", "usage", "result"]
    assert run.outcome.reason is Reason.EXITED


async def test_lines_of_wrong_types_do_no_harm(play: Any) -> None:
    """Known lines with wrong types inside are told as far as they can be read."""
    run = await play(
        init(session_id=7),
        {"line": {"type": "assistant", "message": "x"}},
        {"line": {"type": "assistant", "message": {"content": ["x", None, {"type": 3}]}}},
        {"line": {"type": "user", "message": {"content": [{"type": "tool_result"}]}}},
        {"line": {"type": "stream_event", "event": []}},
        {"line": {"type": ["result"]}},
        out('{"type": "assistant", "mess\n'),
        out("[" * 10 + "{" * 100_000 + "\n"),
        out('{"a":' * 100_000 + "\n"),
        result("fine", total_cost_usd="free", usage=[]),
    )
    assert run.outcome.reason is Reason.EXITED
    assert run.plain()[-1] == ("result", True, "fine")
    assert ("unknown", "unreadable") in run.plain()
    assert not [event for event in run.events if event.name == "handler.failed"]


async def test_events_of_a_run_can_be_read_back(play: Any) -> None:
    """Every activity survives its JSON form."""
    run = await play(init(), tool_use("t1", "Bash", command="ls"), tool_result("t1", "a"), result())
    for event in run.activities:
        assert event_from_dict(event.to_dict()) == event
    assert isinstance(run.activities[-1], AgentResult)

"""What each message of an agent becomes, through a real engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_acp import OPTIONS, SESSION, Manners
from talking import Talk

from eventbus_tasks import (
    AgentEventUnknown,
    AgentInputAnswered,
    AgentInputRequired,
    Reason,
    Settings,
)

pytestmark = [
    pytest.mark.anyio,
    # What is understood does not depend on the loop.
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]


def update(sort: str, /, **fields: Any) -> str:
    """Return a step in which the agent sends any update."""
    return f"update {json.dumps({'sessionUpdate': sort, **fields})}"


def chunk(text: str, message_id: str, kind: str = "agent_message_chunk") -> str:
    """Return a step in which the agent says a piece of a message that has a name."""
    return update(kind, messageId=message_id, content={"type": "text", "text": text})


async def test_a_plain_answer(talk: Talk) -> None:
    """A run tells its session, the pieces, the whole text, what it used, and the result."""
    used = {"usage": {"inputTokens": 6, "outputTokens": 12, "totalTokens": 18}}
    cost = update("usage_update", used=1, size=2, cost={"amount": 0.5, "currency": "USD"})
    manners = Manners(opened={"models": {"currentModelId": "small", "availableModels": []}})
    run = await talk.play(f"say Hel\nsay lo.\n{cost}\nresult {json.dumps(used)}", manners=manners)
    assert run.plain() == [
        ("session", SESSION, "small"),
        ("message", "Hel", True, "text"),
        ("message", "lo.", True, "text"),
        ("message", "Hello.", False, "text"),
        ("usage", 6, 12, 0.5),
        ("result", True, "Hello."),
    ]


async def test_each_message_is_told_once_as_a_whole(talk: Talk) -> None:
    """Another name, a thought, and the use of a tool end a message; a note in between does not."""
    steps = [
        chunk("One", "a"),
        update("usage_update", used=1, size=2),
        chunk(".", "a"),
        chunk("Two.", "b"),
        "think Hm.",
        chunk("Three.", "b"),
        "tool 1 ls",
        chunk("", "c"),
        chunk("Four.", "c"),
    ]
    run = await talk.play("\n".join(steps))
    found = [row[1::2] for row in run.plain() if row[0] == "message" and not row[2]]
    assert found == [
        ("One.", "text"),
        ("Two.", "text"),
        ("Hm.", "thinking"),
        ("Three.", "text"),
        ("Four.", "text"),
    ]
    assert run.outcome.result == "Four."


async def test_a_tool_begins_when_it_is_known_what_for(talk: Talk) -> None:
    """A use is told when its arguments are there, once, whatever the agent repeats."""
    steps = [
        update("tool_call", toolCallId="1", title="bash", kind="execute", status="pending"),
        update("tool_call_update", toolCallId="1", rawInput={"command": "ls -l"}, title="ls -l"),
        update("tool_call_update", toolCallId="1", status="in_progress", rawInput={"command": "x"}),
        update("tool_call_update", toolCallId="1", status="completed", rawOutput={"output": "a b"}),
    ]
    run = await talk.play("\n".join(steps))
    assert run.plain()[1:3] == [
        ("tool_started", "execute", "1", "ls -l"),
        ("tool_finished", "execute", "1", "ok", "a b"),
    ]


NAMES = [
    ({"name": "exec_command", "kind": "execute"}, "exec_command"),
    ({"_meta": {"claudeCode": {"toolName": "Bash"}}, "kind": "execute"}, "Bash"),
    ({"kind": "execute", "title": "ls"}, "execute"),
    ({"kind": "other", "title": "ask the oracle"}, "ask the oracle"),
    ({}, "tool"),
]


@pytest.mark.parametrize(("fields", "name"), NAMES, ids=["name", "claude", "kind", "title", "none"])
async def test_names_of_tools(talk: Talk, fields: dict[str, Any], name: str) -> None:
    """A tool has its own name where the agent says it, or else the protocol's for its kind."""
    steps = update("tool_call", toolCallId="1", status="completed", **fields)
    run = await talk.play(steps)
    assert [row[1] for row in run.plain() if row[0].startswith("tool")] == [name, name]


ENDS = [
    ({"status": "completed"}, "ok"),
    ({"status": "failed"}, "error"),
    ({"status": "completed", "rawOutput": {"exit_code": 2}}, "error"),
    ({"status": "completed", "rawOutput": {"exit_code": 0}}, "ok"),
    ({"status": "completed", "rawOutput": {"metadata": {"exit": 2}}}, "error"),
    ({"status": "completed", "_meta": {"terminal_exit": {"exit_code": 2}}}, "error"),
    ({"status": "in_progress"}, "error"),
]


@pytest.mark.parametrize(("fields", "status"), ENDS)
async def test_how_a_tool_ends(talk: Talk, fields: dict[str, Any], status: str) -> None:
    """A command that failed is an error whatever the agent says; so is a use without an end."""
    steps = [
        update("tool_call", toolCallId="1", title="ls", kind="execute", status="pending"),
        update("tool_call_update", toolCallId="1", **fields),
    ]
    run = await talk.play("\n".join(steps))
    assert [row[3] for row in run.plain() if row[0] == "tool_finished"] == [status]


async def test_costs_are_told_as_differences(talk: Talk) -> None:
    """The cost of each turn is what has come to that of the turns before; tokens are its own."""

    def turn(total: float) -> str:
        cost = update("usage_update", used=1, size=2, cost={"amount": total, "currency": "USD"})
        return f"{cost}\nresult {json.dumps({'usage': {'inputTokens': 7, 'outputTokens': 1}})}"

    further = [turn(0.75)]

    async def react(task: Any, event: Any) -> None:
        if event.name == "agent.result" and further:
            await task.send(further.pop())
        elif event.name == "agent.result":
            await task.close_input()

    run = await talk.play(turn(0.5), react, options={"interactive": True})
    assert [row for row in run.plain() if row[0] == "usage"] == [
        ("usage", 7, 1, 0.5),
        ("usage", 7, 1, 0.25),
    ]


async def test_tokens_that_gemini_tells_elsewhere(talk: Talk) -> None:
    """Gemini tells tokens in a place of its own; a cost in other money is unknown, not 0."""
    quota = {"_meta": {"quota": {"token_count": {"input_tokens": 6, "output_tokens": 8}}}}
    euro = update("usage_update", used=1, size=2, cost={"amount": 0.5, "currency": "EUR"})
    run = await talk.play(f"{euro}\nresult {json.dumps(quota)}")
    assert [row for row in run.plain() if row[0] == "usage"] == [("usage", 6, 8, None)]


async def test_what_has_no_name_here_is_passed_on(talk: Talk) -> None:
    """Plans, pictures, other notifications, broken lines and unknown answers keep their kind."""
    other = {"method": "session/update", "params": {"sessionId": "x", "update": {}}}
    other["params"]["update"] = {"sessionUpdate": "plan"}  # type: ignore[index]
    steps = [
        update("plan", entries=[]),
        update("agent_message_chunk", content={"type": "image", "data": ""}),
        'line {"method": "_vendor/news", "params": {}}',
        f"line {json.dumps(other)}",
        'line {"id": 77, "result": {}}',
        'line {"jsonrpc": "2.0"}',
        "line {x",
    ]
    run = await talk.play("\n".join(steps))
    assert [event.kind for event in run.of(AgentEventUnknown)] == [
        "plan",
        "agent_message_chunk",
        "_vendor/news",
        "other_session/plan",
        "answer",
        "message",
        "unreadable",
    ]
    assert b"entries" in run.of(AgentEventUnknown)[0].raw
    assert run.outcome.reason is Reason.EXITED


@pytest.mark.parametrize("method", ["fs/read_text_file", "terminal/create", "elicitation/create"])
async def test_what_was_not_offered_is_refused(talk: Talk, method: str) -> None:
    """A request for something that the client has not offered gets an answer, so nobody hangs."""
    run = await talk.play(f"request {method}")
    assert run.plain()[1] == ("unknown", f"request/{method}")
    assert run.outcome.result == "-32601"


async def test_a_request_that_is_taken_back(talk: Talk) -> None:
    """A permission request that the agent takes back is not open any more."""
    back = json.dumps({"method": "$/cancel_request", "params": {"requestId": "r"}})
    asks = {"id": "r", "method": "session/request_permission", "params": {"toolCall": {}}}
    run = await talk.play(f"line {json.dumps(asks)}\nline {back}")
    (answered,) = [event for event in run.events if event.name == "agent.input_answered"]
    assert (answered.to_dict()["answer"], answered.to_dict()["by"]) == ("none", "agent")


async def test_a_permission_for_something_else(talk: Talk) -> None:
    """A rule for what has begun does not allow something else that is asked for on the way."""
    began = update("tool_call", toolCallId="c", kind="read", title="a", status="in_progress")
    call = {"toolCallId": "c", "kind": "other", "title": "external_directory"}
    call["rawInput"] = {"file_path": "/etc/passwd"}  # type: ignore[assignment]
    params = {"toolCall": call, "options": OPTIONS}
    asks = {"id": "r", "method": "session/request_permission", "params": params}
    settings = Settings(allow_tools=("read",))
    run = await talk.play(f"{began}\nline {json.dumps(asks)}", settings=settings)
    (asked,) = run.of(AgentInputRequired)
    assert (asked.tool, asked.summary) == ("other", "/etc/passwd")
    (answered,) = [event for event in run.events if isinstance(event, AgentInputAnswered)]
    assert (answered.answer, answered.by) == ("deny", "turn")


@pytest.mark.parametrize(
    "began",
    [None, {"kind": "other"}, {"kind": "read"}, {}],
    ids=["at once", "same", "read", "bare"],
)
async def test_no_rule_goes_by_a_title(talk: Talk, began: dict[str, str] | None) -> None:
    """A title, which the model may choose, is shown to people, but is never what a rule allows."""
    call = {"toolCallId": "c", "kind": "other", "title": "read"}
    asks = {"id": "r", "method": "session/request_permission"}
    asks["params"] = {"toolCall": call, "options": OPTIONS}  # type: ignore[assignment]
    steps = [f"line {json.dumps(asks)}"]
    if began is not None:
        steps.insert(
            0, update("tool_call", toolCallId="c", title="read", status="pending", **began)
        )
    run = await talk.play("\n".join(steps), settings=Settings(allow_tools=("read",)))
    (asked,) = run.of(AgentInputRequired)
    assert (asked.tool, asked.prompt) == ("other", "read")
    (answered,) = [event for event in run.events if isinstance(event, AgentInputAnswered)]
    assert (answered.answer, answered.by) == ("deny", "turn")


async def test_separators_in_a_string_do_not_cut_a_line(talk: Talk) -> None:
    """Separators that some agents write raw into their lines cut none of them."""
    words = "one\u2028two\u2029three four"
    run = await talk.play(f"update {json.dumps({'sessionUpdate': 'x'})}\nhistory {words}")
    assert words in (run.outcome.result or "")

"""What each line of Codex's stream becomes, through a real engine."""

from __future__ import annotations

from typing import Any

import pytest
from fake_codex import THREAD, command, done, error, item, line, message, thread, turn

from eventbus_tasks import AgentMessage, Reason, event_from_dict

pytestmark = pytest.mark.anyio

WORK = (thread(), turn())


async def test_a_plain_answer(play: Any) -> None:
    """A run with one answer tells its session, the text, what it cost, and the result."""
    run = await play(*WORK, message("Hello."), done())
    assert run.plain() == [
        ("session", THREAD, ""),
        ("message", "Hello.", False, "text"),
        ("usage", 16, 57, None),
        ("result", True, "Hello."),
    ]
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Hello.")


async def test_reasoning_is_a_message_of_its_own_kind(play: Any) -> None:
    """What Codex thinks is told apart from what it says, and is not the answer."""
    run = await play(
        *WORK, message("yes"), item("completed", "reasoning", text="Is it so?"), done()
    )
    assert [(event.text, event.kind) for event in run.of(AgentMessage)] == [
        ("yes", "text"),
        ("Is it so?", "thinking"),
    ]
    assert run.outcome.result == "yes"


async def test_a_command(play: Any) -> None:
    """A command starts and ends once, without the shell around it; updates change nothing."""
    run = await play(
        *WORK,
        command("started", "echo hello", status="in_progress"),
        command("updated", "echo hello", status="in_progress", output="hel"),
        command("completed", "echo hello", status="completed", code=0, output="hello\n"),
        done(),
    )
    assert run.plain()[1:3] == [
        ("tool_started", "shell", "item_1", "echo hello"),
        ("tool_finished", "shell", "item_1", "ok", "hello"),
    ]


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [
        ("completed", 0, "ok"),
        ("completed", 2, "error"),
        ("failed", 1, "error"),
        ("failed", None, "error"),
        ("declined", None, "denied"),
    ],
)
async def test_how_a_command_ends(play: Any, status: str, code: int | None, wanted: str) -> None:
    """A bad exit status is an error whatever the item says; a declined command is denied."""
    run = await play(*WORK, command("completed", "x", status=status, code=code), done())
    assert [row[3] for row in run.plain() if row[0] == "tool_finished"] == [wanted]


@pytest.mark.parametrize(
    ("kind", "fields", "wanted"),
    [
        (
            "file_change",
            {"changes": [{"path": "/a", "kind": "add"}, {"path": "/b", "kind": "update"}]},
            ("edit", "/a, /b", ""),
        ),
        (
            "mcp_tool_call",
            {
                "server": "docs",
                "tool": "search",
                "arguments": {"query": "walrus"},
                "result": {"content": [{"type": "text", "text": "found"}]},
            },
            ("docs.search", "walrus", "found"),
        ),
        ("mcp_tool_call", {"error": {"message": "no"}}, ("mcp", "", "no")),
        (
            "collab_tool_call",
            {"tool": "spawn_agent", "prompt": "look there"},
            ("spawn_agent", "look there", ""),
        ),
        ("web_search", {"query": "weather"}, ("web_search", "weather", "")),
    ],
)
async def test_other_tools(
    play: Any, kind: str, fields: dict[str, Any], wanted: tuple[str, str, str]
) -> None:
    """A tool that is told only when it is complete has a start and an end all the same."""
    run = await play(*WORK, item("completed", kind, **{"status": "completed", **fields}), done())
    tool, summary, result = wanted
    status = "error" if "error" in fields else "ok"
    assert run.plain()[1:3] == [
        ("tool_started", tool, "item_1", summary),
        ("tool_finished", tool, "item_1", status, result),
    ]


async def test_usage_is_the_difference_of_totals(play: Any) -> None:
    """Codex tells totals of the session: several turns add up to the last one."""
    run = await play(*WORK, done(100, 25), turn(), done(250, 60))
    usage = [row for row in run.plain() if row[0] == "usage"]
    assert usage == [("usage", 100, 25, None), ("usage", 150, 35, None)]


async def test_usage_of_a_resumed_session_begins_unknown(play: Any) -> None:
    """What of the first total of a resumed session is new, nobody knows: it is not told."""
    run = await play(*WORK, done(200, 50), turn(), done(260, 55), options={"resume": THREAD})
    assert [row for row in run.plain() if row[0] == "usage"] == [("usage", 60, 5, None)]


async def test_a_retry(play: Any) -> None:
    """An error that announces another attempt is a retry, and no failure."""
    run = await play(
        *WORK, error("Reconnecting... 2/5 (stream disconnected)"), message("Done."), done()
    )
    assert run.plain()[1] == ("retry", "error", "stream disconnected", None, 2, 5, None, None)
    assert run.outcome.reason is Reason.EXITED


async def test_what_has_no_name_here_is_passed_on(play: Any) -> None:
    """Plans, warnings, unknown lines and broken ones keep their kind and raw line."""
    run = await play(
        *WORK,
        item("updated", "todo_list", items=[{"text": "look", "completed": False}]),
        item("completed", "plan", text="first this"),
        item("completed", "error", message="a warning"),
        line("sparkle", n=1),
        {"stdout": '{"type":\n'},
        done(),
    )
    assert [row for row in run.plain() if row[0] == "unknown"] == [
        ("unknown", "item.updated/todo_list"),
        ("unknown", "item.completed/plan"),
        ("unknown", "item.completed/error"),
        ("unknown", "sparkle"),
        ("unknown", "unreadable"),
    ]
    assert b'"a warning"' in run.activities[3].raw


async def test_separators_in_a_string_do_not_cut_a_line(play: Any) -> None:
    """Codex writes U+2028 and U+0085 raw into its lines; each line is still one."""
    words = "one\u2028two\u2029three\x85four"
    run = await play(*WORK, message(words), done())
    assert run.outcome.result == words
    for event in run.activities:
        again = event_from_dict(event.to_dict())
        assert again.to_dict() == event.to_dict()

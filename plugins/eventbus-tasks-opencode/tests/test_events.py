"""What each line of opencode's stream becomes, through a real engine."""

from __future__ import annotations

from typing import Any

import pytest
from fake_opencode import SESSION, finish, line, part, start, text, tool

from eventbus_tasks import Reason

pytestmark = pytest.mark.anyio


async def test_a_plain_answer(play: Any) -> None:
    """A run with one answer tells its session, the text, what it cost, and the result."""
    run = await play(start(), text("Hello."), finish())
    assert run.plain() == [
        ("session", SESSION, ""),
        ("message", "Hello.", False, "text"),
        ("usage", 11, 13, None),
        ("result", True, "Hello."),
    ]
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Hello.")


async def test_thoughts_are_a_message_of_their_own_kind(play: Any) -> None:
    """What the model thinks is told apart from what it says, and is not the answer."""
    run = await play(start(), text("yes"), part("reasoning", text="Is it so?"), finish())
    assert ("message", "Is it so?", False, "thinking") in run.plain()
    assert run.outcome.result == "yes"


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ({"output": "out", "metadata": {"exit": 0}}, ("ok", "out")),
        ({"output": "out", "metadata": {"exit": 2}}, ("error", "out")),
        ({"status": "error", "error": "no such file"}, ("error", "no such file")),
        (
            {"status": "error", "error": "The user rejected permission to use this"},
            ("denied", "The user rejected permission to use this"),
        ),
        (
            {"status": "error", "error": "The user has specified a rule which prevents you"},
            ("denied", "The user has specified a rule which prevents you"),
        ),
    ],
)
async def test_a_tool(play: Any, state: dict[str, Any], wanted: tuple[str, str]) -> None:
    """A tool, told when it has ended, has a start and an end; bad exit statuses are errors."""
    run = await play(start(), tool("bash", {"command": "ls -l"}, **state), finish())
    assert run.plain()[1:3] == [
        ("tool_started", "bash", "call_1", "ls -l"),
        ("tool_finished", "bash", "call_1", *wanted),
    ]


async def test_usage_is_that_of_each_step(play: Any) -> None:
    """Tokens include cached ones and thoughts; a price of 0 is an unknown one."""
    run = await play(
        start(),
        finish("tool-calls", cost=0.5, sent=1, made=2, thought=3, written=10, read=20),
        start(),
        text("x"),
        finish(sent=7, made=0),
    )
    assert [row for row in run.plain() if row[0] == "usage"] == [
        ("usage", 31, 5, 0.5),
        ("usage", 7, 0, None),
    ]


async def test_what_has_no_name_here_is_passed_on(play: Any) -> None:
    """Unknown lines and broken ones keep their kind and raw line."""
    run = await play(start(), line("sparkle", n=1), {"stdout": "{x\n"}, text("y"), finish())
    assert [row for row in run.plain() if row[0] == "unknown"] == [
        ("unknown", "sparkle"),
        ("unknown", "unreadable"),
    ]
    assert b'"sparkle"' in run.activities[1].raw


async def test_separators_in_a_string_do_not_cut_a_line(play: Any) -> None:
    """Opencode writes U+2028 and U+0085 raw into its lines; each line is still one."""
    words = "one\u2028two\u2029three\x85four"
    run = await play(start(), text(words), finish())
    assert run.outcome.result == words

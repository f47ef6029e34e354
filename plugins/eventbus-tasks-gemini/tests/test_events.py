"""What each line of Gemini's stream becomes, through a real engine."""

from __future__ import annotations

from typing import Any

import pytest
from fake_gemini import (
    MODEL,
    SESSION,
    echo,
    error,
    init,
    line,
    piece,
    result,
    tool_result,
    tool_use,
    whole,
)

from eventbus_tasks import Reason

pytestmark = pytest.mark.anyio

WORK = (init(), echo())


async def test_a_plain_answer_comes_in_pieces_and_then_whole(play: Any) -> None:
    """A run tells its session, the pieces, the whole text, what it cost, and the result."""
    run = await play(*WORK, piece("Hel"), piece("lo."), result())
    assert run.plain() == [
        ("session", SESSION, MODEL),
        ("message", "Hel", True, "text"),
        ("message", "lo.", True, "text"),
        ("message", "Hello.", False, "text"),
        ("usage", 16, 10, None),
        ("result", True, "Hello."),
    ]
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Hello.")


async def test_each_message_is_told_once_as_a_whole(play: Any) -> None:
    """A tool between pieces ends a message; one that comes whole is told as it is."""
    run = await play(
        *WORK,
        piece("First."),
        tool_use("t1", "read_file", file_path="/a"),
        tool_result("t1"),
        whole("Second."),
        piece("Third."),
        result(),
    )
    found = [row[1] for row in run.plain() if row[0] == "message" and not row[2]]
    assert found == ["First.", "Second.", "Third."]
    assert run.outcome.result == "Third."


@pytest.mark.parametrize(
    ("output", "more", "wanted"),
    [
        ("hello", {}, "ok"),
        ("Command exited with code: 1", {}, "error"),
        ("Blocked: command substitution detected in shell command.", {}, "error"),
        ("", {"status": "error", "error": {"type": "invalid", "message": "no file"}}, "error"),
        ("", {"status": "error", "error": {"type": "policy_violation", "message": "no"}}, "denied"),
    ],
)
async def test_how_a_tool_ends(play: Any, output: str, more: dict[str, Any], wanted: str) -> None:
    """A command that failed is an error though Gemini says success; a denial is told apart."""
    run = await play(
        *WORK,
        tool_use("t1", "run_shell_command", command="echo hello"),
        tool_result("t1", output, **more),
        piece("x"),
        result(),
    )
    summary = output or more.get("error", {}).get("message", "")
    assert run.plain()[1:3] == [
        ("tool_started", "run_shell_command", "t1", "echo hello"),
        ("tool_finished", "run_shell_command", "t1", wanted, summary),
    ]


async def test_retries_are_told_on_standard_error(play: Any) -> None:
    """Gemini tells a retry in words on standard error; it is an event, and no failure."""
    words = "Attempt 1 failed with status 503. Retrying with backoff... _ApiError: {\n"
    run = await play(*WORK, {"stderr": words}, piece("Done."), result())
    (retry,) = [row for row in run.plain() if row[0] == "retry"]
    assert retry[1:] == ("error", words.strip(), 503, 2, None, None, None)
    assert run.outcome.reason is Reason.EXITED


async def test_what_has_no_name_here_is_passed_on(play: Any) -> None:
    """Warnings, unknown lines and broken ones keep their kind and raw line."""
    run = await play(
        *WORK, error("slow", "warning"), line("sparkle"), {"stdout": "{x\n"}, piece("y"), result()
    )
    assert [row for row in run.plain() if row[0] == "unknown"] == [
        ("unknown", "error/warning"),
        ("unknown", "sparkle"),
        ("unknown", "unreadable"),
    ]
    assert b'"slow"' in run.activities[1].raw


async def test_separators_in_a_string_do_not_cut_a_line(play: Any) -> None:
    """Gemini writes U+2028 and U+0085 raw into its lines; each line is still one."""
    words = "one\u2028two\u2029three\x85four"
    run = await play(*WORK, piece(words), result())
    assert run.outcome.result == words

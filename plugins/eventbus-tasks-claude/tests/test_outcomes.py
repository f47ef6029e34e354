"""What a run of Claude amounts to: success only where its last result says so in full."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from fake_claude import (
    assistant,
    denial,
    err,
    init,
    leave,
    out,
    result,
    system,
    text,
    tool_result,
    tool_use,
    wait,
)

from eventbus_tasks import AgentMessage, AgentResult, Reason, Task, TaskEvent, TaskStatus

pytestmark = pytest.mark.anyio


async def test_an_api_error_is_a_failure_though_its_subtype_is_success(play: Any) -> None:
    """`subtype: success` with `is_error` and exit status 1 fails with the API's words."""
    run = await play(
        init(),
        text("API Error: 400 bad request"),
        result(
            "API Error: 400 bad request",
            is_error=True,
            terminal_reason="api_error",
            api_error_status=400,
        ),
        leave(1),
    )
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "the API answered 400: API Error: 400 bad request"
    assert run.outcome.return_code == 1
    assert run.outcome.result is None
    assert run.plain()[-1] == ("result", False, "API Error: 400 bad request")


async def test_an_error_counts_with_exit_status_0_too(play: Any) -> None:
    """A result with `is_error` fails the task whatever the exit status is."""
    run = await play(init(), result("Credit balance is too low", is_error=True))
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "Credit balance is too low"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"subtype": "error_during_execution", "errors": ["first", {"message": "second"}]},
            "first; second",
        ),
        ({"subtype": "error_max_turns", "is_error": True}, "reached its limit of turns"),
        ({"subtype": "error_max_budget_usd"}, "reached its budget"),
        ({"subtype": "error_new_kind"}, "ended as error_new_kind"),
        ({"terminal_reason": "hook_stopped"}, "ended as hook_stopped"),
        ({"subtype": 5}, "reported an error"),
        ({"is_error": None, "subtype": "success", "terminal_reason": ...}, "reported an error"),
    ],
)
async def test_a_result_that_does_not_say_success_in_full_is_a_failure(
    play: Any, changes: dict[str, Any], message: str
) -> None:
    """Error subtypes, other reasons and missing fields fail, with the best words there are."""
    run = await play(init(), result(**{"words": "", **changes}))
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == message


@pytest.mark.parametrize(
    ("words", "changes", "reason"),
    [
        ("/help isn't available in this environment.", {"num_turns": 0}, Reason.AGENT_ERROR),
        ("/help isn't available in this environment.", {"num_turns": 1}, Reason.EXITED),
        ("Total cost: $0", {"num_turns": 0, "local_command": "cost"}, Reason.EXITED),
    ],
)
async def test_a_command_that_claude_does_not_have_is_no_success(
    play: Any, words: str, changes: dict[str, Any], reason: Reason
) -> None:
    """What Claude could not do, without asking a model, fails; a command that it has does not."""
    run = await play(init(), result(words, terminal_reason=..., **changes))
    assert run.outcome.reason is reason
    assert words in (run.outcome.message, run.outcome.result)


async def test_a_denied_permission_is_not_a_success(play: Any) -> None:
    """Claude exits 0 with a success when a tool was denied: the task fails and names the tools."""
    run = await play(
        init(),
        tool_use("t1", "Bash", command="rm x"),
        tool_result("t1", "This command requires approval", is_error=True),
        tool_use("t2", "Write", file_path="/x"),
        tool_result("t2", "Claude requested permissions to write, but …", is_error=True),
        result(
            "I could not do it.",
            permission_denials=[
                denial("t1", "Bash"),
                denial("t2", "Write"),
                denial("t3", "Bash"),
            ],
        ),
    )
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "needs permission for Bash, Write"
    assert run.outcome.result == "I could not do it."
    assert run.outcome.return_code == 0


async def test_a_denial_of_an_earlier_turn_still_counts(play: Any) -> None:
    """A later result without denials does not make the denied work done."""
    run = await play(
        init(), result(permission_denials=[denial("t1", "Bash")]), init(), result("later")
    )
    assert run.outcome.message == "needs permission for Bash"


async def test_denials_are_taken_from_the_texts_where_there_is_no_list(play: Any) -> None:
    """Without `permission_denials` the tool results decide."""
    run = await play(
        init(),
        tool_use("t1", "Bash", command="rm x"),
        tool_result("t1", "This command requires approval", is_error=True),
        result(permission_denials=...),
    )
    assert run.outcome.message == "needs permission for Bash"


async def test_an_interrupt_from_outside_is_not_a_success(play: Any) -> None:
    """SIGINT by somebody else: Claude says `aborted_streaming` and exits 0, the task fails."""

    def interrupt(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage):
            assert task.pid is not None
            os.kill(task.pid, signal.SIGINT)

    run = await play(
        init(),
        text("Beginning"),
        wait("SIGINT"),
        result(
            ...,
            subtype="error_during_execution",
            is_error=True,
            terminal_reason="aborted_streaming",
            errors=["[ede_diagnostic] result_type=user"],
        ),
        until=interrupt,
    )
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "interrupted"
    assert run.outcome.return_code == 0
    assert run.plain()[-1] == ("result", False, "interrupted")


async def test_a_cancel_interrupts_first_and_is_a_cancel(play: Any) -> None:
    """Cancelling lets Claude end by SIGINT and say how far it came; the task is CANCELLED."""

    def cancel(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage):
            task.cancel_nowait()

    run = await play(
        init(),
        text("Beginning"),
        wait("SIGINT"),
        result(is_error=True, subtype="error_during_execution", terminal_reason="aborted_tools"),
        until=cancel,
    )
    assert run.outcome.status is TaskStatus.CANCELLED
    results = [event for event in run.activities if isinstance(event, AgentResult)]
    assert [event.ok for event in results] == [False]
    signals = [event for event in run.events if event.name == "task.signal_sent"]
    assert [event.to_dict()["signal"] for event in signals] == [signal.SIGINT]


async def test_exit_status_0_without_a_result_is_no_success(play: Any) -> None:
    """A run that ends early fails as `no_result`, with its status and last line of stderr."""
    run = await play(init(), text("Beginning"), err("warming up\n\x1b[31mout of memory\x1b[0m\n"))
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == "ended without a result (exit status 0): out of memory"


async def test_a_refused_command_line_says_why(play: Any) -> None:
    """A bad flag prints nothing but a line on stderr: that line is in the message."""
    run = await play(err("error: unknown option '--frobnicate'\n"), leave(1))
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == (
        "ended without a result (exit status 1): error: unknown option '--frobnicate'"
    )


async def test_a_silent_end_says_what_is_known(play: Any) -> None:
    """No output at all: the message has the exit status."""
    run = await play()
    assert run.outcome.message == "ended without a result (exit status 0)"


async def test_a_cut_last_line_is_no_result(play: Any) -> None:
    """A result that is cut off in the middle, without line ending, counts as none."""
    run = await play(init(), out('{"type":"result","is_error":false,"subtype":"succ'))
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == (
        "ended without a result (exit status 0), its last line is cut off"
    )


async def test_a_last_line_without_line_ending_counts(play: Any) -> None:
    """A complete result without line ending is a result."""
    line = '{"type":"result","subtype":"success","is_error":false,"result":"ok","session_id":"s"}'
    run = await play(init(), out(line))
    assert run.outcome.reason is Reason.EXITED
    assert run.outcome.result == "ok"


async def test_the_last_of_two_results_counts(play: Any) -> None:
    """After a background command Claude gives a second result, and that is the outcome."""
    run = await play(
        init(),
        result("Started it.", result_index=0),
        system("task_notification", task_id="b1"),
        init(),
        text("It failed."),
        result("It failed.", is_error=True, result_index=1, total_cost_usd=0.5),
        leave(1),
    )
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "It failed."
    results = [event for event in run.activities if isinstance(event, AgentResult)]
    assert [(event.ok, event.text) for event in results] == [
        (True, "Started it."),
        (False, "It failed."),
    ]


async def test_a_good_second_result_makes_up_for_a_bad_first_one(play: Any) -> None:
    """The last result is a success, so the task is."""
    run = await play(init(), result("no", is_error=True), init(), result("yes", result_index=1))
    assert run.outcome.reason is Reason.EXITED
    assert run.outcome.result == "yes"


async def test_a_second_turn_without_a_result_is_no_success(play: Any) -> None:
    """Work that began after a good result, and came to none, is not covered by it."""
    run = await play(init(), result("first"), init(), text("More"))
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == "ended in the middle of another turn (exit status 0)"
    assert run.outcome.result == "first"


async def test_a_sub_agent_that_talks_on_opens_no_turn(play: Any) -> None:
    """Lines of a sub-agent after the result leave the result as it is."""
    step = assistant({"type": "text", "text": "aside"})
    step["line"]["parent_tool_use_id"] = "t9"
    run = await play(init(), result("all"), step)
    assert run.outcome.reason is Reason.EXITED


async def test_a_success_with_a_bad_exit_status_is_a_failure(play: Any) -> None:
    """The result and the exit status must agree; the engine takes the worse one."""
    run = await play(init(), result("fine"), leave(3))
    assert run.outcome.reason is Reason.EXIT_CODE
    assert run.outcome.return_code == 3


async def test_retries_are_no_failure(play: Any) -> None:
    """A run that had to ask the API again, and got its answer, is a success."""
    retry = system("api_retry", attempt=1, max_retries=10, retry_delay_ms=508, error_status=500)
    run = await play(init(), retry, retry, text("Done."), result("Done."))
    assert run.outcome.reason is Reason.EXITED


async def test_a_kill_from_outside_names_the_signal(play: Any) -> None:
    """A Claude that is killed before its result fails as `no_result`, and the signal is named."""

    def kill(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage):
            assert task.pid is not None
            os.kill(task.pid, signal.SIGKILL)

    run = await play(init(), text("Beginning"), wait("SIGUSR1"), until=kill)
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == "ended without a result (killed by signal 9)"
    assert run.outcome.return_code == -signal.SIGKILL

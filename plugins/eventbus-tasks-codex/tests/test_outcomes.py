"""What a run of Codex amounts to: success only where its last turn says so."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import pytest
from fake_codex import command, done, error, failed, item, message, thread, turn

from eventbus_tasks import AgentMessage, AgentResult, Reason, Task, TaskEvent

pytestmark = pytest.mark.anyio

WORK = (thread(), turn())
BEGINNING = (*WORK, message("Beginning"))


async def test_a_turn_that_failed(play: Any) -> None:
    """A failed turn fails the task with the API's words, taken out of its JSON."""
    words = json.dumps({"error": {"message": "no such model", "type": "invalid_request_error"}})
    run = await play(*WORK, error(words), failed(words), {"exit": 1})
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "no such model"
    assert run.outcome.result is None
    assert [(event.ok, event.text) for event in run.of(AgentResult)] == [(False, "no such model")]


async def test_a_turn_that_failed_counts_with_exit_status_0_too(play: Any) -> None:
    """A failed turn fails the task whatever the exit status is."""
    run = await play(*WORK, failed("usage limit reached"))
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "usage limit reached"


async def test_an_error_after_which_nothing_comes(play: Any) -> None:
    """An error without the end of the turn fails the task with its words."""
    run = await play(*BEGINNING, error("stream disconnected"), {"exit": 1})
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "stream disconnected"


@pytest.mark.parametrize("before", [failed("once"), error("once")], ids=["failed", "error"])
async def test_a_later_turn_counts(play: Any, before: dict[str, Any]) -> None:
    """Work that failed and was then completed is a success."""
    run = await play(*WORK, before, turn(), message("at last"), done())
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "at last")


async def test_a_warning_is_no_failure(play: Any) -> None:
    """An item of the type `error` is only a warning."""
    run = await play(*WORK, item("completed", "error", message="slow"), message("ok"), done())
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "ok")


async def test_a_declined_command_is_not_a_success(play: Any) -> None:
    """Codex exits 0 when a command was declined: the task fails and names the tool."""
    run = await play(
        *WORK, command("completed", "rm x", status="declined"), message("I may not."), done()
    )
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "needs permission for shell"
    assert (run.outcome.return_code, run.outcome.result) == (0, "I may not.")


async def test_a_command_that_failed_is_the_business_of_the_model(play: Any) -> None:
    """A tool's error does not fail a turn that Codex calls complete."""
    run = await play(*WORK, command("completed", "false", status="failed", code=1), done())
    assert run.outcome.reason is Reason.EXITED


async def test_an_end_without_the_end_of_the_turn(play: Any) -> None:
    """Exit status 0 without `turn.completed` is no success."""
    run = await play(*BEGINNING)
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == "ended without completing its turn (exit status 0)"
    assert run.outcome.result == "Beginning"


async def test_an_interrupt_leaves_no_event(play: Any) -> None:
    """SIGINT by somebody else ends Codex without any event and with status 1: no success."""

    def interrupt(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage):
            assert task.pid is not None
            os.kill(task.pid, signal.SIGINT)

    run = await play(*BEGINNING, {"wait": "SIGINT"}, {"exit": 1}, until=interrupt)
    assert run.outcome.reason is Reason.NO_RESULT
    assert "exit status 1" in run.outcome.message


async def test_a_second_turn_that_does_not_end(play: Any) -> None:
    """Work that began after a good turn, and came to none, is not covered by it."""
    run = await play(*BEGINNING, done(), turn())
    assert run.outcome.reason is Reason.NO_RESULT


async def test_a_line_that_is_cut_off(play: Any) -> None:
    """A last line that is cut off is no success, and is named."""
    run = await play(*WORK, {"stdout": '{"type":"item.completed","item":{"type":"agent_mess'})
    assert run.outcome.reason is Reason.NO_RESULT
    assert "cut off" in run.outcome.message


async def test_words_of_a_refusal_to_start(play: Any) -> None:
    """What Codex says on standard error explains an end without any event."""
    run = await play({"stderr": "error: unexpected argument '--frob' found\n"}, {"exit": 2})
    assert run.outcome.reason is Reason.NO_RESULT
    assert "'--frob'" in run.outcome.message


async def test_a_success_with_a_bad_exit_status(play: Any) -> None:
    """The turn and the exit status must agree; the engine takes the worse one."""
    run = await play(*BEGINNING, done(), {"exit": 3})
    assert run.outcome.reason is Reason.EXIT_CODE


async def test_what_a_success_leaves_behind_is_swept(play: Any) -> None:
    """A process in a session of its own does not outlive a successful task."""
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    run = await play(*BEGINNING, {"leave": sleeper}, done())
    assert run.outcome.reason is Reason.EXITED
    assert run.outcome.survivors == ()


async def test_cancel_of_one_that_does_not_listen(play: Any) -> None:
    """A first SIGINT that is swallowed is followed by others, and the task is cancelled."""
    import anyio

    async with anyio.create_task_group() as group:

        def cancel(task: Task, event: TaskEvent) -> None:
            if isinstance(event, AgentMessage):
                group.start_soon(task.cancel)

        run = await play(
            *WORK, {"ignore": "SIGINT"}, message("Beginning"), {"wait": "SIGUSR1"}, until=cancel
        )
    assert run.outcome.reason is Reason.CANCELLED

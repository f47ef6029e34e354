"""What a run of Gemini amounts to: success only where its result says so."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import anyio
import pytest
from fake_gemini import echo, error, init, piece, result, tool_result, tool_use

from eventbus_tasks import AgentActivity, AgentMessage, Reason, Task, TaskEvent

pytestmark = pytest.mark.anyio

WORK = (init(), echo())


async def test_an_api_error(play: Any) -> None:
    """The API's words are taken out of their JSON; the exit status is the HTTP one modulo 256."""
    words = json.dumps({"error": {"code": 400, "message": "no such model", "status": "X"}})
    failure = {"type": "unknown", "message": f"[API Error: {words}]"}
    run = await play(*WORK, result("error", error=failure), {"exit": 144})
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "the API answered 400: no such model"
    assert (run.outcome.return_code, run.outcome.result) == (144, None)
    assert run.plain()[-1] == ("result", False, "the API answered 400: no such model")


async def test_an_api_error_in_words(play: Any) -> None:
    """An error that is no JSON is told as it is, in one line."""
    failure = {"message": "[API Error: too many\nrequests] wait"}
    run = await play(*WORK, result("error", error=failure), {"exit": 173})
    assert run.outcome.message == "[API Error: too many requests] wait"


async def test_exit_status_0_without_a_result(play: Any) -> None:
    """Gemini exits with 0 after a signal and says nothing: no success."""

    def end(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage):
            assert task.pid is not None
            os.kill(task.pid, signal.SIGTERM)

    run = await play(*WORK, piece("Beginning"), {"wait": "SIGTERM"}, {"exit": 0}, until=end)
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == "ended without a result (exit status 0)"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((piece("x"), error("Loop detected, stopping execution", "warning")), "Loop detected"),
        ((piece("x"), error("Maximum session turns exceeded")), "Maximum session turns"),
        ((), "has asked no model"),
        (
            (
                tool_use("t1", "run_shell_command", command="rm x"),
                tool_result("t1", "", "error", error={"type": "policy_violation"}),
                piece("I may not."),
            ),
            "needs permission for run_shell_command",
        ),
    ],
    ids=["loop", "turns", "nothing", "denied"],
)
async def test_successes_that_are_none(play: Any, steps: tuple[Any, ...], message: str) -> None:
    """Gemini calls a loop, a limit, a prompt that it never sent, and a denial a success."""
    run = await play(*WORK, *steps, result() if steps else result(sent=0, made=0))
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert message in run.outcome.message
    assert run.outcome.return_code == 0


async def test_a_warning_is_no_failure(play: Any) -> None:
    """Other warnings change nothing."""
    run = await play(*WORK, error("slow", "warning"), piece("Done."), result())
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Done.")


@pytest.mark.parametrize(
    ("status", "words"),
    [(41, "not logged in"), (42, "input or session"), (52, "configuration"), (53, "turns")],
)
async def test_exit_statuses_of_its_own(play: Any, status: int, words: str) -> None:
    """What its own exit statuses mean is said, with its last words, not a stack trace."""
    stderr = "Please set an Auth method\n    at main (file.js:1:2)\n}\n"
    run = await play({"stderr": stderr}, {"exit": status})
    assert run.outcome.reason is Reason.NO_RESULT
    assert words in run.outcome.message
    assert run.outcome.message.endswith("Please set an Auth method")


async def test_a_line_that_is_cut_off(play: Any) -> None:
    """Output that was lost at the end is no success, though the exit status is 0."""
    run = await play(*WORK, piece("Done."), {"stdout": '{"type":"result","status":"succ'})
    assert run.outcome.reason is Reason.NO_RESULT
    assert "cut off" in run.outcome.message


async def test_a_success_with_a_bad_exit_status(play: Any) -> None:
    """The result and the exit status must agree; the engine takes the worse one."""
    run = await play(*WORK, piece("Done."), result(), {"exit": 1})
    assert run.outcome.reason is Reason.EXIT_CODE


async def test_what_a_success_leaves_behind_is_swept(play: Any) -> None:
    """A process in a session of its own does not outlive a successful task."""
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    run = await play(*WORK, {"leave": sleeper}, piece("Done."), result())
    assert (run.outcome.reason, run.outcome.survivors) == (Reason.EXITED, ())


async def test_cancel_of_one_that_does_not_listen(play: Any) -> None:
    """A SIGTERM that is ignored for ever does not keep a task from being cancelled."""
    async with anyio.create_task_group() as group:

        def cancel(task: Task, event: TaskEvent) -> None:
            if isinstance(event, AgentActivity):
                group.start_soon(lambda: task.cancel(now=True))

        run = await play({"ignore": "SIGTERM"}, init(), {"wait": "SIGUSR1"}, until=cancel)
    assert run.outcome.reason is Reason.CANCELLED

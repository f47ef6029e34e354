"""What a run of opencode amounts to: success only where its last step was the last one."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import anyio
import pytest
from fake_opencode import error, finish, start, text, tool

from eventbus_tasks import AgentMessage, Reason, Task, TaskEvent

pytestmark = pytest.mark.anyio

REJECTED = {"status": "error", "error": "The user rejected permission to use this tool call."}


async def test_an_api_error(play: Any) -> None:
    """An error fails the task with the API's words and status."""
    run = await play(error("no such model", 400), {"exit": 1})
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "the API answered 400: no such model"
    assert run.plain()[-1] == ("result", False, "the API answered 400: no such model")


async def test_an_error_counts_with_exit_status_0_too(play: Any) -> None:
    """An error fails the task whatever the exit status is, also one without words."""
    run = await play(start(), text("x"), error("", name="ProviderAuthError"))
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "ProviderAuthError"


async def test_an_error_that_was_overcome(play: Any) -> None:
    """An error after which a later step ends well is none."""
    run = await play(error("busy", 503), start(), text("Done."), finish())
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Done.")


async def test_a_step_that_should_go_on_is_no_end(play: Any) -> None:
    """There is no final event: a run that stops after a tool has no result, at exit status 0."""
    run = await play(start(), tool("bash", {"command": "ls"}), finish("tool-calls"))
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == "ended before its last step (exit status 0)"


@pytest.mark.parametrize(
    ("reason", "message"),
    [("length", "limit of tokens"), ("content-filter", "filter"), ("other", "ended as other")],
)
async def test_other_ends_of_the_last_step(play: Any, reason: str, message: str) -> None:
    """A last step that ended otherwise than with "stop" is no success."""
    run = await play(start(), text("half an ans"), finish(reason))
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert message in run.outcome.message


@pytest.mark.parametrize("more", [(), (start(), text("I may not."), finish())], ids=["cut", "end"])
async def test_a_denied_tool_is_not_a_success(play: Any, more: tuple[Any, ...]) -> None:
    """Opencode exits 0 when a tool was denied, in the middle or at the end: the task fails."""
    run = await play(
        start(), tool("bash", {"command": "rm x"}, **REJECTED), finish("tool-calls"), *more
    )
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "needs permission for bash"
    assert run.outcome.return_code == 0


async def test_a_signal_leaves_no_event(play: Any) -> None:
    """Opencode is killed by a signal without a word: no success, and the signal is named."""

    def end(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage):
            assert task.pid is not None
            os.kill(task.pid, signal.SIGTERM)

    run = await play(start(), text("Beginning"), {"wait": "SIGUSR1"}, until=end)
    assert run.outcome.reason is Reason.NO_RESULT
    assert "killed by signal 15" in run.outcome.message


async def test_a_line_that_is_cut_off(play: Any) -> None:
    """Output that was lost at the end is no success, though the exit status is 0."""
    run = await play(start(), text("Done."), {"stdout": '{"type":"step_fin'})
    assert run.outcome.reason is Reason.NO_RESULT
    assert "cut off" in run.outcome.message


async def test_words_of_a_refusal_to_start(play: Any) -> None:
    """What opencode says on standard error explains an end without any event."""
    run = await play({"stderr": "\x1b[91mError:\x1b[0m Session not found\n"}, {"exit": 1})
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message.endswith("Error: Session not found")


async def test_a_success_with_a_bad_exit_status(play: Any) -> None:
    """The last step and the exit status must agree; the engine takes the worse one."""
    run = await play(start(), text("Done."), finish(), {"exit": 1})
    assert run.outcome.reason is Reason.EXIT_CODE


async def test_what_a_success_leaves_behind_is_swept(play: Any) -> None:
    """A process in a session of its own does not outlive a successful task."""
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    run = await play(start(), {"leave": sleeper}, text("Done."), finish())
    assert (run.outcome.reason, run.outcome.survivors) == (Reason.EXITED, ())


async def test_cancel(play: Any) -> None:
    """A task that is cancelled is called so, whatever its last event was."""
    async with anyio.create_task_group() as group:

        def cancel(task: Task, event: TaskEvent) -> None:
            if isinstance(event, AgentMessage):
                group.start_soon(task.cancel)

        run = await play(start(), text("Beginning"), {"wait": "SIGUSR1"}, until=cancel)
    assert run.outcome.reason is Reason.CANCELLED

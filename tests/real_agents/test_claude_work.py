"""What the real Claude Code does, as typed events and outcomes."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from eventbus_tasks import (
    AgentMessage,
    AgentResult,
    AgentRetry,
    AgentSession,
    AgentToolFinished,
    AgentToolStarted,
    AgentUsage,
    HandlerFailed,
    ProjectBusyError,
    Reason,
    TaskCompleted,
    TaskEngine,
    TaskFailed,
    TaskStarted,
)
from eventbus_tasks.testing.agents import FakeModelAPI, huge_text

if TYPE_CHECKING:
    from .conftest import Stage

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ONE_LOOP = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])


# ------------------------------------------------------------------------------------ success


async def test_text_answer(stage: Stage) -> None:
    """A plain answer completes the task, with its text as the result and one typed story."""
    run = await stage.run("fake:text It is done, – 你好 \u2028 end.")
    assert run.outcome.reason is Reason.EXITED, run.outcome
    assert run.outcome.result == "It is done, – 你好 \u2028 end."
    assert (run.outcome.return_code, run.outcome.survivors) == (0, ())
    (session,) = run.of(AgentSession)
    assert session.session_id == run.task.uid
    assert session.model
    assert [event.text for event in run.of(AgentMessage)] == [run.outcome.result]
    (result,) = run.of(AgentResult)
    assert (result.ok, result.text) == (True, run.outcome.result)
    kinds = [type(event) for event in run.events]
    story = [TaskStarted, AgentSession, AgentMessage, AgentResult, TaskCompleted]
    assert [kind for kind in kinds if kind in story] == story
    (exchange,) = stage.api.exchanges
    assert (exchange.prompt, exchange.state) == (run.task.prompt, "complete")


@ONE_LOOP
async def test_usage(stage: Stage) -> None:
    """The usage that is told adds up to what the model has said it was, over several turns."""
    run = await stage.run("fake:shell true\nfake:shell true\nfake:text Done")
    sent = [1 + len(run.task.prompt) // 4] * 3
    assert sum(event.input_tokens or 0 for event in run.of(AgentUsage)) == sum(sent)
    assert sum(event.output_tokens or 0 for event in run.of(AgentUsage)) > 6
    prices = [event.cost_usd for event in run.of(AgentUsage) if event.cost_usd is not None]
    assert len(prices) == 1
    assert prices[0] > 0


async def test_tool_that_writes_a_file(stage: Stage) -> None:
    """A file that the model writes is there, and each use of a tool is told."""
    target = stage.project() / "notes.txt"
    run = await stage.run(f"fake:write {target} some words\nfake:shell cat notes.txt\nfake:text OK")
    assert run.outcome.reason is Reason.EXITED, run.outcome
    assert run.outcome.result == "OK"
    assert target.read_text() == "some words"
    started, finished = run.of(AgentToolStarted), run.of(AgentToolFinished)
    assert [(event.tool, event.summary) for event in started] == [
        ("Write", str(target)),
        ("Bash", "cat notes.txt"),
    ]
    assert [(event.tool, event.status) for event in finished] == [("Write", "ok"), ("Bash", "ok")]
    assert [event.call_id for event in started] == [event.call_id for event in finished]
    assert finished[1].summary == "some words"
    assert stage.api.exchanges[-1].conversation.results[-1] == "some words"


@ONE_LOOP
async def test_tool_that_fails(stage: Stage) -> None:
    """A tool that fails is told as an error; what the model makes of it is the outcome."""
    run = await stage.run("fake:shell echo no >&2; exit 3\nfake:text I could not.")
    assert [event.status for event in run.of(AgentToolFinished)] == ["error"]
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "I could not.")


@pytest.mark.parametrize(
    "prompt",
    [
        "-p begins with a dash",
        "--help",
        "/home/me/notes is a directory, not a command",
        "@nobody !true #word $(true) `true` \\ \"quoted\" 'words'",
        "many words " * 30_000,
    ],
    ids=["dash", "flag", "path", "signs", "330 KB"],
)
@ONE_LOOP
async def test_prompt_arrives_as_it_is(stage: Stage, prompt: str) -> None:
    """A prompt of any size, beginning with whatever, reaches the model unchanged."""
    run = await stage.run(prompt)
    assert run.outcome.reason is Reason.EXITED, run.outcome
    assert stage.api.exchanges[-1].prompt == prompt.strip()


@ONE_LOOP
async def test_command_that_claude_does_not_have(stage: Stage) -> None:
    """`/help` asks no model and does nothing, so it is no success, though Claude exits with 0."""
    run = await stage.run("/help")
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert "/help" in run.outcome.message
    assert run.outcome.return_code == 0
    assert not stage.api.exchanges


@ONE_LOOP
async def test_custom_command(stage: Stage) -> None:
    """A command of the project's own works: what it stands for goes to the model."""
    folder = stage.project() / ".claude" / "commands"
    folder.mkdir(parents=True)
    (folder / "greet.md").write_text("fake:text Hello, $ARGUMENTS")
    run = await stage.run("/greet world")
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Hello, world")


# ------------------------------------------------------------------------------------ failure


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 529])
@ONE_LOOP
async def test_api_error(stage: Stage, status: int) -> None:
    """When the API refuses, the task fails with the status and words of the API."""
    run = await stage.run(f"fake:error {status}")
    assert run.outcome.reason is Reason.AGENT_ERROR, run.outcome
    assert str(status) in run.outcome.message
    assert "\n" not in run.outcome.message
    assert len(run.outcome.message) > 20
    assert run.outcome.result is None
    assert [event.ok for event in run.of(AgentResult)] == [False]
    assert isinstance(run.events[-1], TaskFailed)
    assert {exchange.status for exchange in stage.api.exchanges} == {status}


@ONE_LOOP
async def test_retry(stage: Stage) -> None:
    """A refusal that a retry overcomes is told, and is no failure."""
    run = await stage.run("fake:flaky 1 500")
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Done at last.")
    assert [(event.kind, event.status, event.attempt) for event in run.of(AgentRetry)] == [
        ("error", 500, 1)
    ]


@ONE_LOOP
async def test_connection_that_breaks(stage: Stage) -> None:
    """Half an answer is none: the task fails, and says why."""
    run = await stage.run("fake:drop")
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert "API Error" in run.outcome.message
    assert run.outcome.result is None


@ONE_LOOP
async def test_wrong_key(stage: Stage) -> None:
    """A key that the API does not know fails the task as 401."""
    with FakeModelAPI(key="another one") as strict:
        run = await stage.run("fake:text Hello", env={"ANTHROPIC_BASE_URL": strict.url})
        assert run.outcome.reason is Reason.AGENT_ERROR
        assert "401" in run.outcome.message
        assert {exchange.status for exchange in strict.exchanges} == {401}


@ONE_LOOP
async def test_missing_key(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a login the task fails and says so, and no model is asked."""
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    run = await stage.run("fake:text Hello")
    assert run.outcome.reason is Reason.AGENT_ERROR, run.outcome
    assert "log" in run.outcome.message.lower()
    assert not stage.api.exchanges


@ONE_LOOP
async def test_nobody_listens(stage: Stage) -> None:
    """An API that cannot be reached fails the task in words."""
    with FakeModelAPI() as closed:
        pass
    run = await stage.run("fake:text Hello", env={"ANTHROPIC_BASE_URL": closed.url})
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert "API" in run.outcome.message


@ONE_LOOP
async def test_denied_tool(stage: Stage) -> None:
    """A tool that is not allowed is denied, and the task is no success though Claude exits 0."""
    target = stage.project() / "file"
    run = await stage.run(
        f"fake:write {target} words\nfake:text I may not.", options={"allowed_tools": ["Bash"]}
    )
    assert run.outcome.reason is Reason.AGENT_ERROR, run.outcome
    assert run.outcome.message == "needs permission for Write"
    assert (run.outcome.return_code, run.outcome.result) == (0, "I may not.")
    assert [event.status for event in run.of(AgentToolFinished)] == ["denied"]
    assert not target.exists()


@ONE_LOOP
async def test_limit_of_turns(stage: Stage) -> None:
    """Claude's own limit of turns fails the task and is named."""
    prompt = "fake:shell true\nfake:shell true\nfake:shell true"
    run = await stage.run(prompt, options={"max_turns": 2})
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "reached its limit of turns"


@ONE_LOOP
async def test_bad_argument(stage: Stage) -> None:
    """An argument that Claude refuses fails the task with Claude's words."""
    run = await stage.run("fake:text Hello", options={"args": ["--no-such-flag"]})
    assert run.outcome.reason is Reason.NO_RESULT, run.outcome
    assert "--no-such-flag" in run.outcome.message


# ------------------------------------------------------------- output, several tasks, sessions


async def test_huge_answer_while_the_loop_is_blocked(stage: Stage) -> None:
    """512 KiB that come while a receiver blocks the host's loop for 2 s are all there."""
    size = 512 * 1024
    events = []

    def block(event: AgentSession) -> None:
        time.sleep(2)
        events.append(event)

    async with TaskEngine() as engine:
        engine.signals.agent_session.connect(block)
        failed: list[HandlerFailed] = []
        engine.signals.handler_failed.connect(failed.append)
        run = await stage.run_in(engine, f"fake:huge {size}")
    assert events
    assert run.outcome.reason is Reason.EXITED, run.outcome
    assert run.outcome.result == huge_text(size)
    assert [event.text for event in run.of(AgentMessage)] == [huge_text(size)]
    assert not any(run.outcome.lost_bytes.values())
    assert [event.overran for event in failed] == [True]


async def test_two_at_once(stage: Stage) -> None:
    """Two tasks in two directories work at the same time; a third one must wait for a place."""
    one, other = stage.directory / "one", stage.directory / "other"

    def prompt(mine: Path, theirs: Path) -> str:
        # Neither ends before the other one has come.
        wait = f"touch {mine}; until [ -e {theirs} ]; do sleep 0.05; done; echo met"
        return f"fake:shell {wait}\nfake:text {mine.name} has met {theirs.name}"

    async with TaskEngine() as engine:
        first = await stage.spawn(engine, prompt(one, other), project="first")
        second = await stage.spawn(engine, prompt(other, one), project="second")
        with pytest.raises(ProjectBusyError):
            await stage.spawn(engine, "fake:text Me too", project="first")
        assert (await first.wait()).result == "one has met other"
        assert (await second.wait()).result == "other has met one"


async def test_resume(stage: Stage) -> None:
    """A task goes on with the session of an earlier one, whose id is the task's own."""
    first = await stage.run("fake:text Hello\nremember the word walrus")
    second = await stage.run("fake:history", options={"resume": first.task.uid})
    assert second.outcome.result is not None, second.outcome
    assert "remember the word walrus" in second.outcome.result
    assert [event.session_id for event in second.of(AgentSession)] == [first.task.uid]


@pytest.mark.parametrize("now", [False, True], ids=["politely", "now"])
@ONE_LOOP
async def test_resume_after_a_cancel(stage: Stage, now: bool) -> None:
    """The session of a task that was ended in the middle of an answer can be resumed."""
    async with TaskEngine() as engine:
        # Claude writes its session down a moment after it has asked: after a turn it has.
        task = await stage.spawn(engine, "fake:shell true\nfake:stall\nremember the word walrus")
        await anyio.to_thread.run_sync(
            stage.api.wait_until, lambda api: len(api.exchanges) == 2 and api.open_exchanges
        )
        assert await task.cancel(now=now)
        second = await stage.run_in(engine, "fake:history", options={"resume": task.uid})
    assert second.outcome.result is not None, second.outcome
    assert "remember the word walrus" in second.outcome.result


@ONE_LOOP
async def test_resume_of_nothing(stage: Stage) -> None:
    """A session that does not exist fails the task, in Claude's words."""
    run = await stage.run("fake:text Hello", options={"resume": str(uuid.uuid4())})
    assert run.outcome.reason in (Reason.AGENT_ERROR, Reason.NO_RESULT)
    assert "No conversation found" in run.outcome.message

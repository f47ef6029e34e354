"""Codex, Gemini CLI, opencode and those over ACP, the real ones, by the same tests."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import pytest

from eventbus_tasks import (
    AgentMessage,
    AgentResult,
    AgentSession,
    AgentToolFinished,
    AgentToolStarted,
    AgentUsage,
    Reason,
    TaskEngine,
)
from eventbus_tasks.testing.agents import FakeModelAPI, huge_text

from .agents import AGENTS, AgentStage, open_stage
from .conftest import Run, marked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.time_limit(400),
    # Each start of a program takes seconds, and the loops are compared with Claude.
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]


PATIENCE: Final = 150.0
"""Seconds until a tool that was not started is given up. opencode takes its time under load."""


@pytest.fixture(params=AGENTS)
def stage(
    request: pytest.FixtureRequest,
    api: FakeModelAPI,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[AgentStage]:
    """Return where each of the agents works."""
    with open_stage(str(request.param), api, tmp_path, monkeypatch) as opened:
        yield opened


def shape(run: Run) -> list[str]:
    """Return the names of what happened, without what only some agents tell."""
    kinds = (AgentSession, AgentMessage, AgentToolStarted, AgentToolFinished, AgentResult)
    return [
        event.name
        for event in run.events
        if isinstance(event, kinds)
        and not (isinstance(event, AgentMessage) and (event.delta or _is_warning(event)))
    ]


def _is_warning(event: AgentMessage) -> bool:
    return event.text.startswith("Warning: Model metadata for `fake` not found.")


async def test_text(stage: AgentStage) -> None:
    """A plain answer has the same shape with every agent: session, message, usage, result."""
    run = await stage.run("fake:text Hello there.")
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Hello there."), run.outcome
    assert shape(run) == ["agent.session", "agent.message", "agent.result"]
    assert [event.ok for event in run.of(AgentResult)] == [True]
    assert run.of(AgentSession)[0].session_id
    assert sum(event.output_tokens or 0 for event in run.of(AgentUsage)) > 0
    assert not marked(run.task.uid)


async def test_tools(stage: AgentStage) -> None:
    """A tool that writes a file and one that runs a command: typed, and really carried out."""
    target = stage.project() / "file.txt"
    run = await stage.run(f"fake:write {target} two words\nfake:shell false\nfake:text Done so.")
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Done so."), run.outcome
    assert target.read_text().strip() == "two words"
    tools = ["agent.tool_started", "agent.tool_finished"]
    assert shape(run) == ["agent.session", *tools, *tools, "agent.message", "agent.result"]
    failed = "error" if stage.agent.knows_status else "ok"
    assert [event.status for event in run.of(AgentToolFinished)] == ["ok", failed]
    assert run.of(AgentToolStarted)[1].tool == stage.agent.shell
    assert run.of(AgentToolStarted)[1].summary == "false"


@pytest.mark.parametrize("status", [400, 401])
async def test_api_error(stage: AgentStage, status: int) -> None:
    """An error of the API fails the task with the API's words, and no exit code decides that."""
    run = await stage.run(f"fake:error {status}")
    assert run.outcome.reason is Reason.AGENT_ERROR, run.outcome
    hidden = stage.agent.hides_401 and status == 401
    words = "not logged in" if hidden else "the script says so"
    assert words in run.outcome.message
    assert "{" not in run.outcome.message
    assert run.outcome.result is None


async def test_prompts_that_look_like_something_else(stage: AgentStage) -> None:
    """A prompt that begins with a dash arrives as it is."""
    run = await stage.run("--help -p\nfake:text Arrived.")
    assert run.outcome.result == "Arrived.", run.outcome
    assert any("--help -p" in prompt for prompt in stage.api.exchanges[-1].conversation.prompts)


@pytest.mark.parametrize("now", [False, True], ids=["politely", "now"])
async def test_cancel_while_a_tool_runs(stage: AgentStage, now: bool) -> None:
    """A cancel in the middle of a tool ends everybody whom the tool has started, in any session."""
    puppet = stage.puppet()
    async with TaskEngine() as engine:
        task = await stage.spawn(engine, f"fake:shell {shlex.join(puppet.argv)}\nfake:text no")
        await puppet.connected(PATIENCE)
        puppet.spawn(session=True)
        puppet.spawn(daemon=True)
        puppet.spawn(daemon=True, wipe_environment=True, hold_output=False)
        assert len(puppet.living()) == 4
        assert await task.cancel(now=now)
        assert not puppet.living()
        assert not marked(task.uid)
        assert task.outcome is not None
        assert task.outcome.reason is Reason.CANCELLED
        assert task.outcome.survivors == ()


async def test_cancel_while_the_model_answers(stage: AgentStage) -> None:
    """A cancel in the middle of an answer lets go of the model."""
    async with TaskEngine() as engine:
        task = await stage.spawn(engine, "fake:stall")
        await anyio.to_thread.run_sync(lambda: stage.api.wait_until(_is_asked, PATIENCE))
        assert await task.cancel()
        assert not marked(task.uid)
    assert (await task.wait()).reason is Reason.CANCELLED


def _is_asked(api: FakeModelAPI) -> bool:
    return any(exchange.prompt == "fake:stall" for exchange in api.open_exchanges)


@pytest.mark.parametrize("how", ["nohup", "setsid"])
async def test_leftovers_of_a_success(stage: AgentStage, how: str) -> None:
    """What a tool has left in the background is gone when the successful task has ended."""
    puppet = stage.puppet()
    ready = stage.directory / "ready"
    start = f"{how} {shlex.join(puppet.argv)} </dev/null >/dev/null 2>&1 &"
    # Codex ends what is left in the tool's session when the tool has ended.
    wait = f"until [ -e {ready} ]; do sleep 0.05; done; echo started"
    async with TaskEngine() as engine:
        task = await stage.spawn(engine, f"fake:shell {start} {wait}\nfake:text It runs.")
        await puppet.connected(PATIENCE)
        ready.touch()
        outcome = await task.wait()
        assert not puppet.living()
        assert not marked(task.uid)
    assert (outcome.reason, outcome.result) == (Reason.EXITED, "It runs."), outcome
    assert outcome.survivors == ()


async def test_huge_answer_while_the_loop_is_blocked(stage: AgentStage) -> None:
    """512 KiB that come while a receiver blocks the host's loop for 2 s are all there."""
    size = 512 * 1024
    async with TaskEngine() as engine:
        engine.signals.agent_session.connect(lambda event: time.sleep(2))
        run = await stage.run_in(engine, f"fake:huge {size}")
    assert run.outcome.reason is Reason.EXITED, run.outcome
    assert run.outcome.result == huge_text(size)
    assert not any(run.outcome.lost_bytes.values())


async def test_resume(stage: AgentStage) -> None:
    """A task goes on with the session of an earlier one, and knows what was said in it."""
    first = await stage.run("fake:text Hello\nremember the word walrus")
    session = first.of(AgentSession)[-1].session_id
    if stage.agent.forgets:
        await anyio.sleep(60 - time.time() % 60)  # until the next minute
    second = await stage.run("fake:history", options={"resume": session})
    assert second.outcome.reason is Reason.EXITED, second.outcome
    assert "remember the word walrus" in (second.outcome.result or "")
    assert [event.session_id for event in second.of(AgentSession)] == [session]


async def test_resume_of_nothing(stage: AgentStage) -> None:
    """A session that does not exist fails the task, in the agent's words."""
    nothing = "ses_none" if stage.name == "opencode" else "0a0a0a0a-0000-4000-8000-00000000000a"
    run = await stage.run("fake:text Hello", options={"resume": nothing})
    assert run.outcome.reason in (Reason.NO_RESULT, Reason.AGENT_ERROR), run.outcome
    assert run.outcome.result is None
    assert "exit status" not in run.outcome.message.rpartition(": ")[2]

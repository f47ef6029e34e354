"""The real Claude Code that stays: further prompts, interrupts, permissions asked and answered."""

from __future__ import annotations

import shlex
from typing import Any

import anyio
import pytest

from eventbus_tasks import (
    AgentInputRequired,
    AgentResult,
    AgentToolFinished,
    Allow,
    Deny,
    EventStream,
    Reason,
    RequestClosedError,
    TaskEngine,
    TaskEvent,
)

from .conftest import Stage, marked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.time_limit(240),
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]


async def until(stream: EventStream[TaskEvent], kind: type[Any]) -> Any:
    """Return the next event of a kind."""
    async for event in stream:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


async def test_follow_up_and_interrupt(stage: Stage) -> None:
    """A running task takes further prompts; an interrupt ends a turn and its tools, no session."""
    puppet = stage.puppet()
    async with TaskEngine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await stage.spawn(engine, "fake:text One.", options={"interactive": True})
            assert (await until(stream, AgentResult)).text == "One."
            await task.send(f"fake:shell {shlex.join(puppet.argv)}")
            await puppet.connected(120)
            await task.interrupt()
            assert not (await until(stream, AgentResult)).ok
            await task.send("fake:history")
            result = await until(stream, AgentResult)
            assert result.ok
            assert "fake:text One." in result.text
            assert not puppet.living()
            await task.close_input()
            outcome = await task.wait()
    assert outcome.reason is Reason.EXITED, outcome
    assert "fake:text One." in (outcome.result or "")
    assert not marked(task.uid)


@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_permission(stage: Stage, decision: str) -> None:
    """A permission is asked for while the task runs, and answered from Python."""
    target = stage.project() / "file"
    options = {"interactive": True, "allowed_tools": ["Bash"]}
    async with TaskEngine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            prompt = f"fake:write {target} words\nfake:text So be it."
            task = await stage.spawn(engine, prompt, options=options)
            asked = await until(stream, AgentInputRequired)
            assert (asked.kind, str(target) in asked.prompt) == ("permission", True)
            await task.answer(asked, Allow() if decision == "allow" else Deny("not that"))
            with pytest.raises(RequestClosedError):
                await task.answer(asked, Allow())
            finished = await until(stream, AgentToolFinished)
            await until(stream, AgentResult)
            await task.close_input()
            outcome = await task.wait()
    assert target.exists() == (decision == "allow")
    assert (finished.status == "ok") == (decision == "allow")
    assert (outcome.reason is Reason.EXITED) == (decision == "allow"), outcome


async def test_silence_is_no_consent(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that nobody answers is denied after the deadline."""
    monkeypatch.setenv("EBT_ANSWER_DEADLINE", "0.5")
    target = stage.project() / "file"
    options = {"interactive": True, "allowed_tools": ["Bash"]}
    async with TaskEngine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            prompt = f"fake:write {target} words\nfake:text Then not."
            task = await stage.spawn(engine, prompt, options=options)
            with anyio.fail_after(120):
                await until(stream, AgentResult)
            await task.close_input()
            outcome = await task.wait()
    assert not target.exists()
    assert outcome.reason is Reason.AGENT_ERROR, outcome

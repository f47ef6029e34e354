"""Real agents over the Agent Client Protocol: further prompts, interrupts, permissions."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from eventbus_tasks import (
    AgentInputAnswered,
    AgentInputRequired,
    AgentResult,
    AgentToolFinished,
    Allow,
    Deny,
    EventStream,
    Reason,
    RequestClosedError,
    Settings,
    TaskEngine,
    TaskEvent,
)
from eventbus_tasks.testing.agents import FakeModelAPI

from .agents import AGENTS, AgentStage, open_stage
from .conftest import marked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.time_limit(400),
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]

OVER_ACP: Final = [name for name, agent in AGENTS.items() if agent.plugin == "acp"]

# What each is told in order that it asks. Codex asks only for what its sandbox forbids.
ASKING: Final[dict[str, dict[str, str]]] = {
    "claude-acp": {"mode": "default"},
    "gemini-acp": {"mode": "default"},
    "opencode-acp": {},
}


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return the agent; each test says which ones."""
    return str(request.param)


@pytest.fixture
def stage(
    name: str, api: FakeModelAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AgentStage]:
    """Return where the agent works; opencode is told to ask, which it does not do by itself."""
    with open_stage(name, api, tmp_path, monkeypatch) as opened:
        config = json.loads(os.environ["OPENCODE_CONFIG_CONTENT"])
        if name in ASKING:
            config["permission"] = {"edit": "ask"}
            monkeypatch.setenv("OPENCODE_CONFIG_CONTENT", json.dumps(config))
        yield opened


async def until(stream: EventStream[TaskEvent], kind: type[Any]) -> Any:
    """Return the next event of a kind."""
    async for event in stream:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


@pytest.mark.parametrize("name", OVER_ACP, indirect=True)
async def test_follow_up_and_interrupt(
    stage: AgentStage, record_property: Callable[[str, object], None]
) -> None:
    """A running task takes further prompts; an interrupt ends a turn, not the session."""
    puppet = stage.puppet()
    async with TaskEngine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await stage.spawn(engine, "fake:text One.", options={"interactive": True})
            assert (await until(stream, AgentResult)).text == "One."
            await task.send(f"fake:shell {shlex.join(puppet.argv)}")
            await puppet.connected(150)
            told = time.monotonic()
            await task.interrupt()
            interrupted = await until(stream, AgentResult)
            record_property("seconds until the turn had ended", time.monotonic() - told)
            assert (interrupted.ok, interrupted.text) == (False, "its turn was interrupted")
            await task.send("fake:history")
            result = await until(stream, AgentResult)
            assert result.ok
            assert "fake:text One." in result.text
            await task.close_input()
            outcome = await task.wait()
            # Codex ends what a tool has started when its input ends.
            assert not puppet.living()
    assert outcome.reason is Reason.EXITED, outcome
    assert "fake:text One." in (outcome.result or "")
    assert not marked(task.uid)


@pytest.mark.parametrize("decision", ["allow", "deny"])
@pytest.mark.parametrize("name", ASKING, indirect=True)
async def test_permission(stage: AgentStage, name: str, decision: str) -> None:
    """A permission is asked for while the task runs, and answered from Python."""
    target = stage.project() / "file"
    prompt = f"fake:write {target} words\nfake:text So be it."
    async with TaskEngine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await stage.spawn(engine, prompt, options=ASKING[name])
            asked = await until(stream, AgentInputRequired)
            assert (asked.kind, "file" in asked.summary) == ("permission", True)
            assert {"allow", "deny"} <= {option.kind for option in asked.options}
            assert not target.exists()
            await task.answer(asked, Allow() if decision == "allow" else Deny("not that"))
            with pytest.raises(RequestClosedError):
                await task.answer(asked, Allow())
            finished = await until(stream, AgentToolFinished)
            outcome = await task.wait()
    assert target.exists() == (decision == "allow")
    assert finished.status == ("ok" if decision == "allow" else "denied")
    assert (outcome.reason is Reason.EXITED) == (decision == "allow"), outcome


@pytest.mark.parametrize("name", ASKING, indirect=True)
async def test_silence_is_no_consent(stage: AgentStage, name: str) -> None:
    """A request that nobody answers is denied after the deadline."""
    target = stage.project() / "file"
    prompt = f"fake:write {target} words\nfake:text Then not."
    async with TaskEngine(Settings(answer_deadline=0.5)) as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await stage.spawn(engine, prompt, options=ASKING[name])
            answered = await until(stream, AgentInputAnswered)
            outcome = await task.wait()
    assert (answered.answer, answered.by) == ("deny", "deadline")
    assert not target.exists()
    assert outcome.reason is Reason.AGENT_ERROR, outcome


@pytest.mark.parametrize("name", ASKING, indirect=True)
async def test_a_rule_allows(stage: AgentStage, name: str) -> None:
    """What the settings allow needs nobody."""
    target = stage.project() / "file"
    async with TaskEngine(Settings(allow_tools=("edit", "Write"))) as engine:
        prompt = f"fake:write {target} words\nfake:text Done so."
        task = await stage.spawn(engine, prompt, options=ASKING[name])
        outcome = await task.wait()
    assert (outcome.reason, outcome.result) == (Reason.EXITED, "Done so."), outcome
    assert target.exists()

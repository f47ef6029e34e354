"""Ours against an implementation of the protocol that is not ours: its schema, and its agent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from fake_acp import SESSION, Manners
from talking import Talk

from eventbus_tasks import (
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    Allow,
    Deny,
    Reason,
    Task,
    TaskEvent,
)

schema = pytest.importorskip("acp.schema", reason="needs agent-client-protocol: tox has it")

pytestmark = [
    pytest.mark.anyio,
    # What is written does not depend on the loop.
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]

REQUESTS: Final = {
    "initialize": schema.InitializeRequest,
    "session/new": schema.NewSessionRequest,
    "session/load": schema.LoadSessionRequest,
    "session/resume": schema.ResumeSessionRequest,
    "session/prompt": schema.PromptRequest,
    "session/cancel": schema.CancelNotification,
    "session/set_mode": schema.SetSessionModeRequest,
    "session/set_config_option": schema.SetSessionConfigOptionSelectRequest,
}

CONFIGURED: Final = {
    "modes": {"currentModeId": "ask", "availableModes": [{"id": "ask", "name": "Ask"}]},
    "configOptions": [
        {
            "id": "model",
            "name": "Model",
            "type": "select",
            "currentValue": "small",
            "options": [{"value": "small", "name": "Small"}],
        }
    ],
}

LOADS: Final[dict[str, Any]] = {"agentCapabilities": {"loadSession": True}}
RESUMES: Final[dict[str, Any]] = {"agentCapabilities": {"sessionCapabilities": {"resume": {}}}}


def check_sent(talk: Talk) -> set[str]:
    """Check every message that an agent was sent, and return the methods."""
    methods = set()
    for message in talk.agent.given:
        assert message["jsonrpc"] == "2.0"
        if "method" in message:
            REQUESTS[message["method"]].model_validate(message["params"])
            methods.add(message["method"])
        else:
            schema.RequestPermissionResponse.model_validate(message["result"])
    return methods


def check_written(task: Task) -> None:
    """Check that the scripted agent writes what an agent may write."""
    for line in task.output.tail(1000):
        message = json.loads(line)
        if message.get("method") == "session/update":
            schema.SessionNotification.model_validate(message["params"])
        elif message.get("method") == "session/request_permission":
            schema.RequestPermissionRequest.model_validate(message["params"])
        elif "stopReason" in message.get("result", {}):
            schema.PromptResponse.model_validate(message["result"])


@pytest.mark.parametrize("answer", [Allow(), Deny("no")], ids=["allow", "deny"])
async def test_a_conversation(talk: Talk, answer: Any) -> None:
    """Everything that both sides write in a conversation is valid by the protocol's schema."""
    further = ["say Working\nwait", "history"]

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentInputRequired):
            await task.answer(event, answer)
        elif isinstance(event, AgentMessage) and event.text == "Working" and event.delta:
            await task.interrupt()
        elif isinstance(event, AgentResult):
            await (task.send(further.pop(0)) if further else task.close_input())

    run = await talk.play(
        "say Hello.\nthink Hm.\ntool 1 ls\nfail 2 ls\nask 3 file",
        react,
        manners=Manners(opened=CONFIGURED),
        options={"interactive": True, "mode": "ask", "model": "small"},
    )
    assert run.outcome.reason is Reason.EXITED
    assert check_sent(talk) == {
        "initialize",
        "session/new",
        "session/set_mode",
        "session/set_config_option",
        "session/prompt",
        "session/cancel",
    }
    check_written(run.task)


@pytest.mark.parametrize(
    ("can", "method"),
    [(LOADS, "session/load"), (RESUMES, "session/resume")],
    ids=["load", "resume"],
)
async def test_resuming(talk: Talk, can: dict[str, Any], method: str) -> None:
    """What goes on with a session is valid by the protocol's schema."""
    manners = Manners(initialized=can, opened=CONFIGURED)
    run = await talk.play("say Hello.", manners=manners, options={"resume": SESSION})
    assert run.outcome.result == "Hello."
    assert method in check_sent(talk)
    check_written(run.task)


@pytest.mark.parametrize(
    ("answer", "said"), [(Allow(), "yes"), (Deny(), "no")], ids=["allow", "deny"]
)
async def test_an_agent_on_the_official_library(talk: Talk, answer: Any, said: str) -> None:
    """Follow-up, interrupt and permission, with an agent that somebody else's library drives."""
    program = str(Path(__file__).with_name("sdk_agent.py"))
    further = ["wait", "ask"]

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentInputRequired):
            await task.answer(event, answer)
        elif isinstance(event, AgentMessage) and event.text == "waiting" and event.delta:
            await task.interrupt()
        elif isinstance(event, AgentResult):
            await (task.send(further.pop(0)) if further else task.close_input())

    run = await talk.play(
        "hello", react, options={"command": [sys.executable, program], "interactive": True}
    )
    first, interrupted, last = run.of(AgentResult)
    assert (first.ok, first.text) == (True, "hello")
    assert (interrupted.ok, interrupted.text) == (False, "its turn was interrupted")
    assert run.outcome.result == f"{said}hello wait ask"
    assert last.ok == (said == "yes")
    assert (run.outcome.reason is Reason.EXITED) == (said == "yes"), run.outcome

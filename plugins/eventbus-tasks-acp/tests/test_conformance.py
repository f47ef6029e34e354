"""The contracts of command builders, interpreters and termination policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import eventbus_tasks_acp
import pytest
from eventbus_tasks_acp import AcpInterpreter, SessionPlan
from fake_acp import OPTIONS, SESSION, FakeAgent, Manners

from eventbus_tasks.testing.conformance import (
    BuilderCase,
    CommandBuilderContract,
    ConversationCase,
    ConversationContract,
    InterpreterCase,
    InterpreterContract,
    PolicyCase,
    TerminationPolicyContract,
)


class TestBuilder(CommandBuilderContract):
    """The command of any agent, with a scripted one in its place."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> BuilderCase:
        """Return a run that succeeds."""
        fake = FakeAgent(tmp_path / "bin")
        return BuilderCase(
            plugin=eventbus_tasks_acp,
            agent="acp",
            env=fake.environment(Manners(session=None)),
            options={"command": [str(fake.executable)]},
        )


def update(kind: str, **fields: Any) -> dict[str, Any]:
    """Return a notification of something that the agent does."""
    params = {"sessionId": SESSION, "update": {"sessionUpdate": kind, **fields}}
    return {"method": "session/update", "params": params}


ASKS = {
    "id": 0,
    "method": "session/request_permission",
    "params": {
        "sessionId": SESSION,
        "options": list(OPTIONS),
        "toolCall": {"toolCallId": "1", "title": "ls"},
    },
}

RUN = (
    {"id": 1, "result": {"protocolVersion": 1, "agentCapabilities": {}}},
    {"id": 2, "result": {"sessionId": SESSION}},
    update("tool_call", toolCallId="1", title="ls", status="pending"),
    ASKS,
    update("tool_call_update", toolCallId="1", status="completed"),
    update("agent_message_chunk", content={"type": "text", "text": "It is "}),
    update("agent_message_chunk", content={"type": "text", "text": "done."}),
    {"id": 3, "result": {"stopReason": "end_turn", "usage": {"inputTokens": 1}}},
)


class TestInterpreter(InterpreterContract):
    """What is made of a conversation."""

    @pytest.fixture
    def case(self) -> InterpreterCase:
        """Return what an agent writes in a run that succeeds."""
        plan = SessionPlan(cwd="/", prompt="do it")
        return InterpreterCase(
            make=lambda: AcpInterpreter(plan),
            lines=[json.dumps({"jsonrpc": "2.0", **message}).encode() for message in RUN],
            result="It is done.",
        )


class TestPolicy(TerminationPolicyContract):
    """How an agent is stopped."""

    @pytest.fixture
    def case(self) -> PolicyCase:
        """Return the plugin and its agent."""
        return PolicyCase(plugin=eventbus_tasks_acp, agent="acp")


class TestConversation(ConversationContract):
    """Talking to the scripted agent."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> ConversationCase:
        """Return an agent that stays."""
        fake = FakeAgent(tmp_path / "bin")
        return ConversationCase(
            plugin=eventbus_tasks_acp,
            agent="acp",
            prompt="say Hello.",
            ask="ask 1 file.txt",
            env=fake.environment(Manners(session=None)),
            options={"command": [str(fake.executable)], "interactive": True},
        )

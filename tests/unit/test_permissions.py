"""The core's own rule for what agents ask: lists of tools."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eventbus_tasks import AgentAnswer, AgentInputRequired, Allow, Deny
from eventbus_tasks.builtin import permissions
from eventbus_tasks.testing.conformance import AnswerCase, AnswerContract

FORBIDDEN = Deny("It is forbidden by the setting deny_tools.")


def asked(tool: str, answer: AgentAnswer) -> tuple[AgentInputRequired, AgentAnswer]:
    """Return a request to use a tool, and its answer."""
    request = AgentInputRequired(kind="permission", prompt="?", request_id="r1", tool=tool)
    return request, answer


class TestListsOfTools(AnswerContract):
    """Names and patterns; the forbidding list is the stronger."""

    @pytest.fixture
    def case(self) -> AnswerCase:
        """Return the rule with both lists."""
        return AnswerCase(
            # Another object, because the engine has the module already.
            plugin=SimpleNamespace(ebt_answer_agent=permissions.ebt_answer_agent),
            answered=(
                asked("Read", Allow()),
                asked("mcp__docs__find", Allow()),
                asked("mcp__docs__delete", FORBIDDEN),
                asked("Bash", FORBIDDEN),
            ),
            settings={
                "allow_tools": ("Read", "mcp__docs__*"),
                "deny_tools": ("Bash", "*__delete"),
            },
        )

"""The contracts of command builders, interpreters and termination policies."""

from __future__ import annotations

import eventbus_tasks_claude
import fake_claude
import pytest
from eventbus_tasks_claude import ClaudeInterpreter

from eventbus_tasks.testing.agents import ScriptedCli
from eventbus_tasks.testing.conformance import (
    BuilderCase,
    CommandBuilderContract,
    InterpreterCase,
    InterpreterContract,
    PolicyCase,
    TerminationPolicyContract,
)

RUN = (
    fake_claude.init(),
    fake_claude.text("Let me look."),
    fake_claude.tool_use("toolu_1", "Bash", command="ls"),
    fake_claude.tool_result("toolu_1", "a file"),
    fake_claude.result("It is done."),
)


class TestBuilder(CommandBuilderContract):
    """The command of Claude Code, with a scripted one in its place."""

    @pytest.fixture
    def case(self, fake: ScriptedCli) -> BuilderCase:
        """Return a run that succeeds."""
        env = fake.environment(*RUN)
        return BuilderCase(plugin=eventbus_tasks_claude, agent="claude", env=env)


class TestInterpreter(InterpreterContract):
    """What is made of the stream."""

    @pytest.fixture
    def case(self) -> InterpreterCase:
        """Return the lines of the same run."""
        return InterpreterCase(
            make=ClaudeInterpreter,
            lines=[fake_claude.bare(step) for step in RUN],
            result="It is done.",
        )


class TestPolicy(TerminationPolicyContract):
    """How Claude is stopped."""

    @pytest.fixture
    def case(self) -> PolicyCase:
        """Return the plugin and its agent."""
        return PolicyCase(plugin=eventbus_tasks_claude, agent="claude")

"""The contracts of command builders, interpreters and termination policies."""

from __future__ import annotations

import json
from pathlib import Path

import eventbus_tasks_gemini
import pytest
from eventbus_tasks_gemini import GeminiInterpreter
from fake_gemini import SESSION, echo, init, piece, result, tool_result, tool_use

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
    init(),
    echo(),
    tool_use("t1", "run_shell_command", command="ls"),
    tool_result("t1", "a file"),
    piece("It is "),
    piece("done."),
    result(),
)


class TestBuilder(CommandBuilderContract):
    """The command of Gemini, with a scripted one in its place."""

    @pytest.fixture
    def case(self, fake: ScriptedCli) -> BuilderCase:
        """Return a run that succeeds."""
        # Tasks side by side work in sessions of their own.
        steps = json.loads(json.dumps(RUN).replace(SESSION, "$SESSION"))
        env = fake.environment(*steps)
        return BuilderCase(plugin=eventbus_tasks_gemini, agent="gemini", env=env)


class TestInterpreter(InterpreterContract):
    """What is made of the stream."""

    @pytest.fixture
    def case(self) -> InterpreterCase:
        """Return the lines of the same run."""
        return InterpreterCase(
            make=GeminiInterpreter,
            lines=[json.dumps(step["line"]).encode() for step in RUN],
            result="It is done.",
        )


class TestPolicy(TerminationPolicyContract):
    """How Gemini is stopped."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> PolicyCase:
        """Return the plugin and its agent."""
        return PolicyCase(plugin=eventbus_tasks_gemini, agent="gemini")

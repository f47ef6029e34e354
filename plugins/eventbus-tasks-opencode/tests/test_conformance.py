"""The contracts of command builders, interpreters and termination policies."""

from __future__ import annotations

import json
from pathlib import Path

import eventbus_tasks_opencode
import pytest
from eventbus_tasks_opencode import OpencodeInterpreter
from fake_opencode import SESSION, finish, start, text, tool

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
    start(),
    tool("bash", {"command": "ls"}, output="a file"),
    finish("tool-calls"),
    start(),
    text("It is done."),
    finish(),
)


class TestBuilder(CommandBuilderContract):
    """The command of opencode, with a scripted one in its place."""

    @pytest.fixture
    def case(self, fake: ScriptedCli) -> BuilderCase:
        """Return a run that succeeds."""
        # Tasks side by side work in sessions of their own.
        steps = json.loads(json.dumps(RUN).replace(SESSION, "$SESSION"))
        env = fake.environment(*steps)
        return BuilderCase(plugin=eventbus_tasks_opencode, agent="opencode", env=env)


class TestInterpreter(InterpreterContract):
    """What is made of the stream."""

    @pytest.fixture
    def case(self) -> InterpreterCase:
        """Return the lines of the same run."""
        return InterpreterCase(
            make=OpencodeInterpreter,
            lines=[json.dumps(step["line"]).encode() for step in RUN],
            result="It is done.",
        )


class TestPolicy(TerminationPolicyContract):
    """How opencode is stopped."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> PolicyCase:
        """Return the plugin and its agent."""
        return PolicyCase(plugin=eventbus_tasks_opencode, agent="opencode")

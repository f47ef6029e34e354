"""The contracts of command builders, interpreters and termination policies."""

from __future__ import annotations

import json
from pathlib import Path

import eventbus_tasks_codex
import pytest
from eventbus_tasks_codex import CodexInterpreter
from fake_codex import THREAD, command, done, message, thread, turn

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
    thread(),
    turn(),
    command("started", "ls", status="in_progress"),
    command("completed", "ls", status="completed", code=0, output="a file\n"),
    message("It is done."),
    done(),
)


class TestBuilder(CommandBuilderContract):
    """The command of Codex, with a scripted one in its place."""

    @pytest.fixture
    def case(self, fake: ScriptedCli) -> BuilderCase:
        """Return a run that succeeds."""
        # Tasks side by side work in sessions of their own.
        steps = json.loads(json.dumps(RUN).replace(THREAD, "$SESSION"))
        env = fake.environment(*steps)
        return BuilderCase(plugin=eventbus_tasks_codex, agent="codex", env=env)


class TestInterpreter(InterpreterContract):
    """What is made of the stream."""

    @pytest.fixture
    def case(self) -> InterpreterCase:
        """Return the lines of the same run."""
        return InterpreterCase(
            make=CodexInterpreter,
            lines=[json.dumps(step["line"]).encode() for step in RUN],
            result="It is done.",
        )


class TestPolicy(TerminationPolicyContract):
    """How Codex is stopped."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> PolicyCase:
        """Return the plugin and its agent."""
        return PolicyCase(plugin=eventbus_tasks_codex, agent="codex")

"""The contracts of command builders, interpreters and termination policies."""

from __future__ import annotations

import os
from pathlib import Path

import eventbus_tasks_claude
import fake_claude
import pytest
from eventbus_tasks_claude import ClaudeInterpreter
from fake_claude import FakeClaude

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

OWN_SCENARIO = """\
#!/bin/sh
own=$(mktemp -d) && cp "$FAKE_CLAUDE" "$own/scenario.json" || exit
FAKE_CLAUDE="$own/scenario.json" exec "$REAL_FAKE" "$@"
"""


class TestBuilder(CommandBuilderContract):
    """The command of Claude Code, with a scripted one in its place."""

    @pytest.fixture
    def case(self, fake: FakeClaude, tmp_path: Path) -> BuilderCase:
        """Return a run that succeeds."""
        env = fake.environment(*RUN)
        # What a scripted Claude writes down lies beside its scenario: each run has its own.
        wrapper = tmp_path / "wrapper" / "claude"
        wrapper.parent.mkdir()
        wrapper.write_text(OWN_SCENARIO)
        wrapper.chmod(0o700)
        env["PATH"] = f"{wrapper.parent}{os.pathsep}{env['PATH']}"
        env["TMPDIR"] = str(tmp_path)
        env["REAL_FAKE"] = str(fake.executable)
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

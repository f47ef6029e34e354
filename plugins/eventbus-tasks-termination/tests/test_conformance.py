"""The contract of termination policies, for the built-in ladders and for policies from settings."""

from __future__ import annotations

import eventbus_tasks_termination
import pytest
from eventbus_tasks_termination import AGENT_LADDERS, TerminationSettings

from eventbus_tasks.testing.conformance import PolicyCase, TerminationPolicyContract


class TestBuiltInLadders(TerminationPolicyContract):
    """Every agent that the plugin knows."""

    @pytest.fixture(params=sorted(AGENT_LADDERS))
    def case(self, request: pytest.FixtureRequest) -> PolicyCase:
        """Return the agent, with rungs that do not take long."""
        quick = TerminationSettings(grace=0.2)
        return PolicyCase(plugin=eventbus_tasks_termination, agent=request.param, tables=(quick,))


class TestSettings(TerminationPolicyContract):
    """Any agent, with a policy that somebody has set."""

    @pytest.fixture(params=["kill", "leave"])
    def case(self, request: pytest.FixtureRequest) -> PolicyCase:
        """Return a plain command, and a table of settings."""
        table = TerminationSettings(
            steps=("INT:leader:0.2", "TERM:tree:2"), after_exit=request.param, max_output="1GiB"
        )
        return PolicyCase(plugin=eventbus_tasks_termination, tables=(table,))

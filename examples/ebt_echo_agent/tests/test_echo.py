"""The contracts that every plugin for an agent keeps, run against this one."""

from typing import Any

import ebt_echo_agent
import pytest

from eventbus_tasks.testing.conformance import (
    BuilderCase,
    CommandBuilderContract,
    InterpreterCase,
    InterpreterContract,
)


class TestBuilder(CommandBuilderContract):
    @pytest.fixture
    def case(self) -> BuilderCase:
        return BuilderCase(plugin=ebt_echo_agent, agent="echo")


class TestInterpreter(InterpreterContract):
    @pytest.fixture
    def case(self) -> Any:
        return InterpreterCase(
            make=ebt_echo_agent.EchoInterpreter,
            lines=[b'{"type": "say", "text": "hi"}', b'{"type": "done", "answer": "HI"}'],
            result="HI",
        )

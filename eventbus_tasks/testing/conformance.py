"""Conformance classes: what every plugin of a kind keeps, as tests that a plugin inherits.

Needs pytest (with anyio's own pytest plugin, which comes with anyio); trio is used where it is
installed. Subclass the class of your kind and give it one fixture, ``case``::

    import ebt_shout
    import pytest

    from eventbus_tasks.testing.conformance import BuilderCase, CommandBuilderContract


    class TestConformance(CommandBuilderContract):
        @pytest.fixture
        def case(self) -> BuilderCase:
            return BuilderCase(plugin=ebt_shout, agent="shout")

The tests run real processes through a real `TaskEngine`, on asyncio and trio, with the settings
of the person at the machine hidden, and each of them fails if a process, descriptor or thread
is left behind.

A plugin that cannot keep a part of its contract replaces that test and says why, with
`overrides_with_reason` or ``pytest.mark.xfail(reason=…)``; a test that is replaced without a
reason fails the run.
"""

from __future__ import annotations

from eventbus_tasks.testing._contract import Contract, overrides_with_reason
from eventbus_tasks.testing._contract_command import (
    BuilderCase,
    CommandBuilderContract,
    InterpreterCase,
    InterpreterContract,
)
from eventbus_tasks.testing._contract_conversation import (
    AnswerCase,
    AnswerContract,
    ConversationCase,
    ConversationContract,
)
from eventbus_tasks.testing._contract_policy import PolicyCase, TerminationPolicyContract
from eventbus_tasks.testing._contract_storage import (
    JournalCase,
    JournalContract,
    OutputStoreContract,
    StoreCase,
)

__all__ = [
    "AnswerCase",
    "AnswerContract",
    "BuilderCase",
    "CommandBuilderContract",
    "Contract",
    "ConversationCase",
    "ConversationContract",
    "InterpreterCase",
    "InterpreterContract",
    "JournalCase",
    "JournalContract",
    "OutputStoreContract",
    "PolicyCase",
    "StoreCase",
    "TerminationPolicyContract",
    "overrides_with_reason",
]

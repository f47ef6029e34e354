"""Decides how tasks are stopped: a ladder for each agent, timeouts, and limits."""

from __future__ import annotations

from collections.abc import Callable

from eventbus_tasks import Task, TerminationPolicy, hookimpl
from eventbus_tasks_termination.ladders import AGENT_LADDERS
from eventbus_tasks_termination.settings import TABLE, TerminationSettings, policy_for

__all__ = ["AGENT_LADDERS", "TerminationSettings", "policy_for"]


@hookimpl
def ebt_register_settings(register: Callable[[str, type], None]) -> None:
    """Declare the table ``[termination]``."""
    register(TABLE, TerminationSettings)


@hookimpl
def ebt_termination_policy(task: Task) -> TerminationPolicy | None:
    """Answer from the settings and the measured ladders; ``None`` where neither says anything.

    Not `trylast`: what a user has set comes before what the agent's own plugin proposes, as long
    as that is marked `trylast`. Where nothing is set and the agent is not in the table, every
    other plugin is asked.
    """
    return policy_for(task.settings.table(TerminationSettings), task.agent)

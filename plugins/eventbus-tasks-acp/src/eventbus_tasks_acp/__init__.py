"""Drives every agent that speaks the Agent Client Protocol, by itself or through its adapter.

The agents ``claude-acp``, ``codex-acp``, ``gemini-acp`` and ``opencode-acp`` are known; others are
named in the settings, or given as the option ``command`` of the agent ``acp``. They take further
prompts (`Task.send`), are interrupted (`Task.interrupt`), and their permission requests are
answered (`Task.answer`), all while they run.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from eventbus_tasks import Command, Settings, Step, TerminationPolicy, hookimpl
from eventbus_tasks_acp.command import AcpOptions, build_command
from eventbus_tasks_acp.interpreter import AcpInterpreter
from eventbus_tasks_acp.known import AGENT, KNOWN, AcpAgent, AcpSettings
from eventbus_tasks_acp.session import AcpSession, SessionPlan

if TYPE_CHECKING:
    from eventbus_tasks import Task
    from eventbus_tasks.agents import AgentHealth

__all__ = [
    "KNOWN",
    "POLICY",
    "AcpAgent",
    "AcpInterpreter",
    "AcpOptions",
    "AcpSession",
    "AcpSettings",
    "SessionPlan",
    "ebt_build_command",
    "ebt_check_agent",
    "ebt_register_agents",
    "ebt_register_settings",
    "ebt_termination_policy",
]

# Told to cancel its turn, an agent ends its tools itself. An adapter is a program around another
# one, which has tools: the whole tree gets the signals. Less than ten seconds in all, because that
# is when nothing may be left of a task whose host was killed.
POLICY: Final = TerminationPolicy(
    steps=(
        Step(signal=0, grace=2.0),
        Step(signal=signal.SIGTERM, scope="tree", grace=2.0),
        Step(signal=signal.SIGTERM, scope="tree", grace=4.0),
    )
)
"""How an agent is stopped, unless a setting or a request says otherwise."""


def _is_ours(task: Task) -> bool:
    return task.agent in (AGENT, *KNOWN) or task.agent in task.settings.table(AcpSettings).agents


@hookimpl
def ebt_register_agents(register: Callable[..., None]) -> None:
    """Name ``acp``, the agents that are known, and those of the user's settings."""
    words = "any program that speaks the Agent Client Protocol (option: command)"
    register(AGENT, words, resumes=True)
    # The plugin is asked for its agents once, before anybody has settings to give it.
    named = Settings.load(tables={AGENT: AcpSettings}).table(AcpSettings).agents
    for name, agent in KNOWN.items():
        if name not in named:
            register(name, agent.description, resumes=True)
    for name, table in named.items():
        said = table.get("description") if isinstance(table, dict) else ""
        words = said if isinstance(said, str) and said else "an agent of your settings"
        register(name, words, resumes=True)


@hookimpl
def ebt_register_settings(register: Callable[[str, type], None]) -> None:
    """Declare the table ``acp``."""
    register(AGENT, AcpSettings)


@hookimpl
def ebt_build_command(task: Task) -> Command | None:
    """Say what to execute for a task of one of these agents."""
    return build_command(task) if _is_ours(task) else None


@hookimpl
def ebt_check_agent(agent: str, settings: Settings) -> AgentHealth | None:
    """Say whether an agent can work: its program, its version, a key."""
    table = settings.table(AcpSettings)
    if agent not in KNOWN and agent not in table.agents:
        return None
    from eventbus_tasks_acp.health import check

    return check(agent, table)


# Last among the plugins, so that policies that somebody has *set* go first.
@hookimpl(trylast=True)
def ebt_termination_policy(task: Task) -> TerminationPolicy | None:
    """Say how an agent is stopped: by its protocol, then SIGTERM to the tree, then SIGKILL."""
    return POLICY if _is_ours(task) else None

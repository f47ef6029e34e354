"""Drives Codex: builds its command, understands its stream, judges its end.

The agent is ``codex``. Its prompt goes to standard input and never becomes an argument; its
output is the JSON lines of ``codex exec --json``; it has succeeded only if its last turn says so.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from eventbus_tasks import Command, Step, TerminationPolicy, hookimpl
from eventbus_tasks_codex.command import AGENT, CodexOptions, CodexSettings, build_command
from eventbus_tasks_codex.interpreter import CodexInterpreter

if TYPE_CHECKING:
    from eventbus_tasks import Settings, Task
    from eventbus_tasks.agents import AgentHealth

__all__ = [
    "POLICY",
    "CodexInterpreter",
    "CodexOptions",
    "CodexSettings",
    "ebt_build_command",
    "ebt_check_agent",
    "ebt_register_agents",
    "ebt_register_settings",
    "ebt_termination_policy",
]

# SIGINT is the one signal after which Codex ends its tools, which live in sessions of their own;
# its node launcher passes it on. It comes twice, because one that arrives before the handlers are
# up is lost. Servers of its own are in process groups of their own: the last rung is for them.
# Less than ten seconds in all, because that is when nothing may be left of a task whose host was
# killed.
POLICY: Final = TerminationPolicy(
    steps=(
        Step(signal=signal.SIGINT, scope="leader", grace=2.5),
        Step(signal=signal.SIGINT, scope="group", grace=2.5),
        Step(signal=signal.SIGTERM, scope="tree", grace=2.0),
    )
)
"""How Codex is stopped, unless a setting or a request says otherwise."""


@hookimpl
def ebt_register_agents(register: Callable[..., None]) -> None:
    """Name the agent ``codex``."""
    register(AGENT, "OpenAI Codex, headless", resumes=True)


@hookimpl
def ebt_register_settings(register: Callable[[str, type], None]) -> None:
    """Declare the table ``codex``."""
    register(AGENT, CodexSettings)


@hookimpl
def ebt_build_command(task: Task) -> Command | None:
    """Say what to execute for a task of the agent ``codex``."""
    return build_command(task) if task.agent == AGENT else None


@hookimpl
def ebt_check_agent(agent: str, settings: Settings) -> AgentHealth | None:
    """Say whether Codex can work: its program, its version, a login."""
    if agent != AGENT:
        return None
    from eventbus_tasks_codex.health import check

    return check(settings.table(CodexSettings))


# Last among the plugins, so that policies that somebody has *set* go first.
@hookimpl(trylast=True)
def ebt_termination_policy(task: Task) -> TerminationPolicy | None:
    """Say how Codex is stopped: SIGINT, again SIGINT, SIGTERM to the tree, then SIGKILL."""
    return POLICY if task.agent == AGENT else None

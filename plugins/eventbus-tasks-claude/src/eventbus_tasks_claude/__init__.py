"""Drives Claude Code: builds its command, understands its stream, judges its end.

The agent is ``claude``. Its prompt goes to standard input and never becomes an argument; its
output is the JSON lines of ``--output-format stream-json``; it has succeeded only if its last
``result`` says so.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from eventbus_tasks import Command, Step, TerminationPolicy, hookimpl
from eventbus_tasks_claude.command import AGENT, build_command, session_id_of
from eventbus_tasks_claude.interpreter import ClaudeInterpreter
from eventbus_tasks_claude.options import ClaudeSettings

if TYPE_CHECKING:
    from eventbus_tasks import Settings, Task
    from eventbus_tasks.agents import AgentHealth

__all__ = [
    "POLICY",
    "ClaudeInterpreter",
    "ClaudeSettings",
    "ebt_build_command",
    "ebt_check_agent",
    "ebt_register_agents",
    "ebt_register_settings",
    "ebt_termination_policy",
    "session_id_of",
]

# SIGINT to Claude alone is the one signal after which every version measured ends its tools,
# which live in sessions of their own, and says how far it came; it needs up to 1.9 s for that.
# SIGTERM to the tree ends the tools of versions that leave them running. Less than ten seconds in
# all, because that is when nothing may be left of a task whose host was killed.
POLICY: Final = TerminationPolicy(
    steps=(
        Step(signal=signal.SIGINT, scope="leader", grace=5.0),
        Step(signal=signal.SIGTERM, scope="tree", grace=3.0),
    )
)
"""How Claude is stopped, unless a setting or a request says otherwise."""


@hookimpl
def ebt_register_agents(register: Callable[..., None]) -> None:
    """Name the agent ``claude``."""
    register(AGENT, "Claude Code, headless", resumes=True)


@hookimpl
def ebt_register_settings(register: Callable[[str, type], None]) -> None:
    """Declare the table ``claude``."""
    register(AGENT, ClaudeSettings)


@hookimpl
def ebt_build_command(task: Task) -> Command | None:
    """Say what to execute for a task of the agent ``claude``."""
    return build_command(task) if task.agent == AGENT else None


@hookimpl
def ebt_check_agent(agent: str, settings: Settings) -> AgentHealth | None:
    """Say whether Claude Code can work: its program, its version, a login."""
    if agent != AGENT:
        return None
    from eventbus_tasks_claude.health import check

    return check(settings.table(ClaudeSettings))


# Last among the plugins, so that policies that somebody has *set* go first.
@hookimpl(trylast=True)
def ebt_termination_policy(task: Task) -> TerminationPolicy | None:
    """Say how Claude is stopped: SIGINT, then SIGTERM to the tree, then SIGKILL."""
    return POLICY if task.agent == AGENT else None

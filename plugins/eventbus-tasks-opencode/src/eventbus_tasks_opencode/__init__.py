"""Drives opencode: builds its command, understands its stream, judges its end.

The agent is ``opencode``. Its prompt goes to standard input and never becomes an argument; its
output is the JSON lines of ``opencode run --format json``; it has succeeded only if its last step
was the last one that the model wanted.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from eventbus_tasks import Command, Step, TerminationPolicy, hookimpl
from eventbus_tasks_opencode.command import (
    AGENT,
    OpencodeOptions,
    OpencodeSettings,
    build_command,
)
from eventbus_tasks_opencode.interpreter import OpencodeInterpreter

if TYPE_CHECKING:
    from eventbus_tasks import Settings, Task
    from eventbus_tasks.agents import AgentHealth

__all__ = [
    "POLICY",
    "OpencodeInterpreter",
    "OpencodeOptions",
    "OpencodeSettings",
    "ebt_build_command",
    "ebt_check_agent",
    "ebt_register_agents",
    "ebt_register_settings",
    "ebt_termination_policy",
]

# It ends at once on any signal and leaves its tools running after each of them, so the whole tree
# gets it, in whichever sessions it is.
POLICY: Final = TerminationPolicy(
    steps=(Step(signal=signal.SIGTERM, scope="tree", grace=5.0),),
)
"""How opencode is stopped, unless a setting or a request says otherwise."""


@hookimpl
def ebt_register_agents(register: Callable[..., None]) -> None:
    """Name the agent ``opencode``."""
    register(AGENT, "opencode, headless", resumes=True)


@hookimpl
def ebt_register_settings(register: Callable[[str, type], None]) -> None:
    """Declare the table ``opencode``."""
    register(AGENT, OpencodeSettings)


@hookimpl
def ebt_build_command(task: Task) -> Command | None:
    """Say what to execute for a task of the agent ``opencode``."""
    return build_command(task) if task.agent == AGENT else None


@hookimpl
def ebt_check_agent(agent: str, settings: Settings) -> AgentHealth | None:
    """Say whether opencode can work: its program, its version, a login."""
    if agent != AGENT:
        return None
    from eventbus_tasks_opencode.health import check

    return check(settings.table(OpencodeSettings))


# Last among the plugins, so that policies that somebody has *set* go first.
@hookimpl(trylast=True)
def ebt_termination_policy(task: Task) -> TerminationPolicy | None:
    """Say how opencode is stopped: SIGTERM to the tree, then SIGKILL."""
    return POLICY if task.agent == AGENT else None

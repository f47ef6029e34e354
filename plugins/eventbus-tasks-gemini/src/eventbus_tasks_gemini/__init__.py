"""Drives Gemini CLI: builds its command, understands its stream, judges its end.

The agent is ``gemini``. Its prompt goes to standard input and never becomes an argument; its
output is the JSON lines of ``--output-format stream-json``; it has succeeded only if its
``result`` says so, whatever its exit status is.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from eventbus_tasks import Command, Step, TerminationPolicy, hookimpl
from eventbus_tasks_gemini.command import AGENT, GeminiOptions, GeminiSettings, build_command
from eventbus_tasks_gemini.interpreter import GeminiInterpreter

if TYPE_CHECKING:
    from eventbus_tasks import Settings, Task
    from eventbus_tasks.agents import AgentHealth

__all__ = [
    "POLICY",
    "GeminiInterpreter",
    "GeminiOptions",
    "GeminiSettings",
    "ebt_build_command",
    "ebt_check_agent",
    "ebt_register_agents",
    "ebt_register_settings",
    "ebt_termination_policy",
]

# A launcher swallows what is sent to it alone, and a SIGTERM that comes 0.75 to 1.3 s after the
# start is ignored for ever; the second one works. Gemini never ends its tools, so the whole tree
# gets the signals. Less than ten seconds in all, because that is when nothing may be left of a
# task whose host was killed.
POLICY: Final = TerminationPolicy(
    steps=(
        Step(signal=signal.SIGTERM, scope="tree", grace=2.0),
        Step(signal=signal.SIGTERM, scope="tree", grace=5.0),
    )
)
"""How Gemini is stopped, unless a setting or a request says otherwise."""


@hookimpl
def ebt_register_agents(register: Callable[..., None]) -> None:
    """Name the agent ``gemini``."""
    register(AGENT, "Gemini CLI, headless", resumes=True)


@hookimpl
def ebt_register_settings(register: Callable[[str, type], None]) -> None:
    """Declare the table ``gemini``."""
    register(AGENT, GeminiSettings)


@hookimpl
def ebt_build_command(task: Task) -> Command | None:
    """Say what to execute for a task of the agent ``gemini``."""
    return build_command(task) if task.agent == AGENT else None


@hookimpl
def ebt_check_agent(agent: str, settings: Settings) -> AgentHealth | None:
    """Say whether Gemini CLI can work: its program, its version, a login."""
    if agent != AGENT:
        return None
    from eventbus_tasks_gemini.health import check

    return check(settings.table(GeminiSettings))


# Last among the plugins, so that policies that somebody has *set* go first.
@hookimpl(trylast=True)
def ebt_termination_policy(task: Task) -> TerminationPolicy | None:
    """Say how Gemini is stopped: SIGTERM to the tree, again SIGTERM, then SIGKILL."""
    return POLICY if task.agent == AGENT else None

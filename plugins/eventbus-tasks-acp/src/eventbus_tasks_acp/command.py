"""Building the command: which program speaks the protocol, and what its session is to be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from eventbus_tasks import Command, InvalidRequestError
from eventbus_tasks.agents import AgentOptions, child_environment, find_program, prompt_bytes
from eventbus_tasks_acp.interpreter import AcpInterpreter
from eventbus_tasks_acp.known import (
    AGENT,
    SESSION_VARIABLES,
    AcpAgent,
    AcpSettings,
    find_agent,
)
from eventbus_tasks_acp.session import SessionPlan

if TYPE_CHECKING:
    from eventbus_tasks import Task

__all__ = ["AcpOptions", "build_command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpOptions(AgentOptions):
    """The options of one request, checked.

    Attributes:
        command: With the agent ``acp``, and only with it: program and arguments.
        mode: The agent's own name for the mode it works in: what it may do without asking.
        model: The agent's own name for the model it uses.
        resume: The session to go on with.
        interactive: The agent stays after its answer, and takes more prompts (`Task.send`).
        args: More arguments for the program, as they are.
    """

    agent: ClassVar[str] = AGENT

    command: tuple[str, ...] = ()
    mode: str | None = None
    model: str | None = None
    resume: str | None = None
    interactive: bool = False
    args: tuple[str, ...] = ()


def build_command(task: Task) -> Command:
    """Return what to execute for a task.

    Raises:
        InvalidRequestError: The request, or a setting, cannot be used: says which and why.
    """
    request = task.request
    settings = task.settings.table(AcpSettings)
    options = AcpOptions.of(request.options)
    agent = _agent_of(task.agent, options, settings)
    prompt_bytes(request)  # refuses what no agent takes
    environment = child_environment(os.environ, request.env, SESSION_VARIABLES)
    name, *arguments = agent.command
    program = find_program(
        name,
        Path(name) if os.sep in name else None,
        environment.get("PATH"),
        setting=f"acp.agents.{task.agent}.command",
    )
    plan = SessionPlan(
        cwd=str(request.project_dir),
        prompt=request.prompt,
        stays=options.interactive,
        resume=options.resume or "",
        mode=options.mode or "",
        model=options.model or "",
        auth=agent.auth,
        patience=settings.start_deadline,
    )
    return Command(
        argv=(program, *arguments, *options.args),
        env=environment,
        stdin="open",
        # Not a file: agents written with asyncio refuse one. The programs that lose the end of what
        # they write to a pipe lose it when they exit, and here the last answer was read before.
        capture="pipe",
        # It is the protocol's place for logs.
        stderr="separate",
        interpreter=AcpInterpreter(plan),
    )


def _agent_of(name: str, options: AcpOptions, settings: AcpSettings) -> AcpAgent:
    if name != AGENT:
        if options.command:
            raise InvalidRequestError("options.command", f"is for the agent {AGENT!r} only")
        return find_agent(name, settings)
    if not options.command:
        problem = f"the agent {AGENT!r} needs one: the program that speaks the protocol"
        raise InvalidRequestError("options.command", problem)
    return AcpAgent(command=options.command)

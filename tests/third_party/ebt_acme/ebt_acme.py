"""A plugin as a stranger writes it: drives an agent, and has a way of its own to stop it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from eventbus_tasks import Command, Step, Task, TaskEvent, TerminationPolicy, hookimpl

_AGENT = """
import os, signal, sys

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
prompt = sys.stdin.read()
os.write(1, f"acme heard: {prompt}\\n".encode())
if prompt == "wait":
    signal.sigwait([signal.SIGUSR2])
    os.write(1, b"acme was asked in its own way\\n")
    sys.exit(5)
"""


@dataclass(frozen=True, kw_only=True)
class AcmeGreeting(TaskEvent):
    """An event of its own.

    Attributes:
        words: What was said.
    """

    name: ClassVar[str] = "acme.greeting"

    words: str


@hookimpl
def ebt_register_events(register: Callable[[type[TaskEvent]], None]) -> None:
    """Make the event known, so that journals with it can be read."""
    register(AcmeGreeting)


@hookimpl
def ebt_register_agents(register: Callable[[str, str], None]) -> None:
    """Name the agent."""
    register("acme", "the agent of a stranger")


@hookimpl
def ebt_build_command(task: Task) -> Command | None:
    """Run the agent with its prompt on standard input."""
    if task.agent != "acme":
        return None
    return Command(
        argv=(sys.executable, "-I", "-S", "-c", _AGENT),
        stdin=task.prompt.encode(),
        env={**os.environ, **task.request.env},
    )


@hookimpl
def ebt_termination_policy(task: Task) -> TerminationPolicy | None:
    """Stop it by the one signal that it knows."""
    if task.agent != "acme":
        return None
    return TerminationPolicy(steps=(Step(signal=signal.SIGUSR2, scope="leader", grace=30.0),))

"""Whether an agent that speaks the protocol can work on this machine: it is asked in person."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eventbus_tasks import InvalidRequestError
from eventbus_tasks.agents import (
    AgentHealth,
    child_environment,
    find_program,
    object_in,
    one_line,
    parse_object,
    text_in,
)
from eventbus_tasks_acp.known import SESSION_VARIABLES, AcpAgent, AcpSettings, find_agent
from eventbus_tasks_acp.session import AcpSession, SessionPlan

__all__ = ["check"]

_PATIENCE: Final = 25.0
"""Seconds for the first answer: the slowest one takes 4 s alone, and all are asked at once."""


def check(agent: str, settings: AcpSettings) -> AgentHealth:
    """Start an agent, ask who it is (``initialize``), and end it; asks no model.

    Blocks until it has answered, at most 25 s. Not every adapter has a ``--version``.
    """
    try:
        found = find_agent(agent, settings)
        environment = child_environment(os.environ, {}, SESSION_VARIABLES)
        name, *arguments = found.command
        wanted = Path(name) if os.sep in name else None
        program = find_program(name, wanted, environment.get("PATH"))
    except InvalidRequestError as error:
        return AgentHealth(agent=agent, problems=(str(error),))
    if not os.access(program, os.X_OK) or not os.path.isabs(program):
        return AgentHealth(agent=agent, problems=(f"there is no {program} in PATH",))
    version, problem = _ask((program, *arguments), environment)
    login = next((name for name in found.variables if environment.get(name)), "")
    return AgentHealth(
        agent=agent,
        program=program,
        version=version,
        logged_in=True if login else None,
        login=login,
        problems=(problem,) if problem else (),
        known_bugs=_bugs(found, version),
    )


def _bugs(found: AcpAgent, version: str) -> tuple[str, ...]:
    return tuple(bug.what for bug in found.known_bugs if bug.concerns(version))


def _ask(command: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the version, and why the agent cannot be used."""
    try:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return "", f"{command[0]} cannot be run: {error.strerror}"
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        question = AcpSession(SessionPlan(cwd="/", prompt="")).begin().data
        with contextlib.suppress(BrokenPipeError):  # why it has gone is told below
            os.write(process.stdin.fileno(), question)
        end = time.monotonic() + _PATIENCE
        result = _first_answer(process.stdout.fileno(), end)
        late = time.monotonic() >= end
    finally:
        # Launchers have children, which hold the pipe.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
    if result is None and late:
        return "", f"{command[0]} has not answered 'initialize' for {_PATIENCE:g} s"
    if result is None:
        return "", f"{command[0]} does not answer 'initialize': it does not speak the protocol"
    return one_line(text_in(object_in(result, "agentInfo"), "version")), ""


def _first_answer(descriptor: int, end: float) -> Mapping[str, Any] | None:
    """Return the result of the first answer that is read, or ``None`` if none comes until `end`."""
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while selector.select(max(0.0, end - time.monotonic())):
            piece = os.read(descriptor, 65536)
            if not piece:
                return None
            *lines, data = (data + piece).split(b"\n")
            for line in lines:
                answer = parse_object(line)
                if answer is not None and "id" in answer and "method" not in answer:
                    return answer["result"] if isinstance(answer.get("result"), dict) else None
    return None

"""Whether an agent that speaks the protocol can work on this machine: it is asked in person."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eventbus_tasks import InvalidRequestError
from eventbus_tasks.agents import (
    AgentHealth,
    check_program,
    child_environment,
    object_in,
    one_line,
    parse_object,
    started_program,
    text_in,
)
from eventbus_tasks_acp.known import SESSION_VARIABLES, AcpSettings, find_agent
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
    except InvalidRequestError as error:
        return AgentHealth(agent=agent, problems=(str(error),))
    name, *arguments = found.command
    return check_program(
        agent,
        name,
        wanted=Path(name) if os.sep in name else None,
        known_bugs=found.known_bugs,
        variables=found.variables,
        environment=child_environment(os.environ, {}, SESSION_VARIABLES),
        ask=lambda program, environment: _ask((program, *arguments), environment),
    )


def _ask(command: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the version, and why the agent cannot be used."""
    with started_program(command, environment, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        question = AcpSession(SessionPlan(cwd="/", prompt="")).begin().data
        with contextlib.suppress(BrokenPipeError):  # why it has gone is told below
            os.write(process.stdin.fileno(), question)
        end = time.monotonic() + _PATIENCE
        result = _first_answer(process.stdout.fileno(), end)
        late = time.monotonic() >= end
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

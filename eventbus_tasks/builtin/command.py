"""The agent ``command``: runs any program with arguments."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from eventbus_tasks.hookspecs import hookimpl
from eventbus_tasks.request import Command

if TYPE_CHECKING:
    from eventbus_tasks.task import Task


@hookimpl
def ebt_register_agents(register: Callable[[str, str], None]) -> None:
    """Name the agent ``command``."""
    register("command", "any program with its arguments")


@hookimpl
def ebt_build_command(task: Task) -> Command | None:
    """Run ``argv`` of the request, with its variables on top of the host's environment."""
    if task.agent != "command":
        return None
    request = task.request
    environ = {**os.environ, **request.env}
    if request.pty_size is None:
        return Command(argv=request.argv, env=environ, stdin=request.stdin)
    for name in ("COLUMNS", "LINES"):  # of another terminal
        environ.pop(name, None)
    return Command(
        argv=request.argv,
        env={**environ, **request.env},
        stdin=request.stdin,
        capture="pty",
        pty_size=request.pty_size,
    )

"""Building the command: which program, which arguments, what on standard input."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from eventbus_tasks import Command
from eventbus_tasks.agents import child_environment, find_program, prompt_bytes
from eventbus_tasks_claude.environment import SESSION_VARIABLES
from eventbus_tasks_claude.interpreter import ClaudeInterpreter
from eventbus_tasks_claude.options import ClaudeOptions, ClaudeSettings

if TYPE_CHECKING:
    from eventbus_tasks import Task

__all__ = ["AGENT", "build_command", "session_id_of"]

AGENT: Final = "claude"

# stream-json is refused without --verbose.
_HEADLESS: Final = ("-p", "--output-format", "stream-json", "--verbose")


def build_command(task: Task) -> Command:
    """Return what to execute for a task.

    Raises:
        InvalidRequestError: The request, or a setting, cannot be used: says which and why.
    """
    request = task.request
    settings = task.settings.table(ClaudeSettings)
    options = ClaudeOptions.of(request.options, settings)
    prompt = prompt_bytes(request)
    if not (options.resumes or options.names_session):
        # Known to everybody from the beginning, so the session of a task that was killed before
        # its first line can be resumed.
        options = replace(options, session_id=task.uid)
    environment = child_environment(os.environ, request.env, without=SESSION_VARIABLES)
    program = find_program(
        AGENT, settings.executable, environment.get("PATH"), setting="claude.executable"
    )
    return Command(
        argv=(program, *_HEADLESS, *options.arguments()),
        env=environment,
        # An interactive one gets its prompt as a message, as soon as it runs.
        stdin="open" if options.interactive else prompt,
        # Claude before 2.1.214 loses the end of its output on a pipe that is read slowly.
        capture="file",
        stderr="separate",
        interpreter=ClaudeInterpreter(resumed=options.resumes, prompt=request.prompt),
        session_id=options.session_id or options.resume or "",
    )


def session_id_of(argv: Iterable[str]) -> str | None:
    """Return the session that a command line of this plugin begins or resumes.

    For tasks that ended before Claude wrote anything: ``TaskStarted.argv`` has it. ``None``
    where the arguments do not say (``--continue``).
    """
    words = list(argv)
    for flag in ("--session-id", "--resume"):
        for word in words:
            if word.startswith(f"{flag}="):
                return word.removeprefix(f"{flag}=")
    return None

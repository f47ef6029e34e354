"""Building the command: which program, which arguments, what on standard input."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventbus_tasks import Command, InvalidRequestError
from eventbus_tasks_claude.environment import child_environment
from eventbus_tasks_claude.interpreter import ClaudeInterpreter
from eventbus_tasks_claude.options import ClaudeOptions, ClaudeSettings

if TYPE_CHECKING:
    from eventbus_tasks import Task, TaskRequest

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
    prompt = _prompt(request)
    if not (options.resumes or options.names_session):
        # Known to everybody from the beginning, so the session of a task that was killed before
        # its first line can be resumed.
        options = replace(options, session_id=task.uid)
    environment = child_environment(os.environ, request.env)
    program = _program(settings.executable, environment.get("PATH"))
    return Command(
        argv=(program, *_HEADLESS, *options.arguments()),
        env=environment,
        # An interactive one gets its prompt as a message, as soon as it runs.
        stdin="open" if options.interactive else prompt,
        # Claude before 2.1.214 loses the end of its output on a pipe that is read slowly.
        capture="file",
        stderr="separate",
        interpreter=ClaudeInterpreter(resumed=options.resumes),
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


def _program(wanted: Path | None, path: str | None) -> str:
    name = AGENT if wanted is None else str(wanted)
    if os.sep in name:
        if not os.path.isabs(name):
            # It would be looked for in the project, which must not choose what is run.
            raise InvalidRequestError(
                "settings claude.executable",
                f"must be an absolute path, or a name to be found in PATH, not {name!r}",
            )
        return name
    # A program that is not there is left to the engine: the task fails as `spawn_failed`.
    found = shutil.which(name, path=path)
    return name if found is None else os.path.abspath(found)


def _prompt(request: TaskRequest) -> bytes:
    if request.argv:
        raise InvalidRequestError("argv", "claude takes arguments as the option 'args'")
    if request.stdin:
        raise InvalidRequestError("stdin", "claude reads its prompt there; put the text into it")
    if not request.prompt.strip():
        raise InvalidRequestError("prompt", "must not be empty")
    try:
        # Bytes of an argument that were not UTF-8 arrive as they were.
        return request.prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequestError(
            "prompt", "holds a lone surrogate that cannot be encoded"
        ) from None

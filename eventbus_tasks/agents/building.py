"""What a command for an agent is made of: program, environment, prompt."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus_tasks.errors import InvalidRequestError
from eventbus_tasks.policies import OutputInterpreter
from eventbus_tasks.request import Command, TaskRequest

if TYPE_CHECKING:
    from eventbus_tasks.task import Task

__all__ = ["agent_command", "child_environment", "find_program", "prompt_bytes"]


def find_program(name: str, wanted: Path | None, path: str | None, *, setting: str = "") -> str:
    """Return the program to run: an absolute path, or a name for which there is none.

    A program that is not there is left to the engine: the task fails as ``spawn_failed``, and its
    event says what was missing.

    Args:
        name: What it is called in ``PATH``.
        wanted: What a user wants instead: an absolute path, or another name.
        path: The ``PATH`` of the task.
        setting: The setting that `wanted` comes from, for the message.

    Raises:
        InvalidRequestError: `wanted` is a relative path: it would be looked for in the project,
            which must not choose what is run.
    """
    word = name if wanted is None else str(wanted)
    if os.sep in word:
        if not os.path.isabs(word):
            raise InvalidRequestError(
                f"settings {setting or name}",
                f"must be an absolute path, or a name to be found in PATH, not {word!r}",
            )
        return word
    found = shutil.which(word, path=path)
    return word if found is None else os.path.abspath(found)


def child_environment(
    host: Mapping[str, str], extra: Mapping[str, str], without: Collection[str] = ()
) -> dict[str, str]:
    """Return the environment of an agent: the host's, less some variables, and the request's.

    Args:
        host: Usually ``os.environ``.
        extra: The request's own variables, which win: ``task.request.env``.
        without: Variables that belong to a session of the same agent around this program.
    """
    kept = {name: value for name, value in host.items() if name not in without}
    return {**kept, **extra}


def agent_command(
    task: Task,
    argv: Iterable[str],
    interpreter: OutputInterpreter,
    *,
    without: Collection[str] = (),
) -> Command:
    """Return the command of an agent that reads its prompt from standard input, and ends.

    Its output goes into the log directly, because agents that write to a pipe lose the end of it
    when it is read slowly; standard error is kept apart.

    Args:
        task: The task.
        argv: Program and arguments.
        interpreter: Understands the output; a new object.
        without: Variables that belong to a session of the same agent around this program.

    Raises:
        InvalidRequestError: There is no prompt, or something beside it.
    """
    return Command(
        argv=tuple(argv),
        env=child_environment(os.environ, task.request.env, without),
        stdin=prompt_bytes(task.request),
        capture="file",
        stderr="separate",
        interpreter=interpreter,
    )


def prompt_bytes(request: TaskRequest) -> bytes:
    """Return the prompt for standard input, where it may have any size and any beginning.

    Args:
        request: The request; of an agent, so it has neither arguments nor input of its own.

    Raises:
        InvalidRequestError: There is no prompt, or something beside it.
    """
    agent = request.agent
    if request.argv:
        raise InvalidRequestError("argv", f"{agent} takes arguments as the option 'args'")
    if request.stdin:
        raise InvalidRequestError("stdin", f"{agent} reads its prompt there; put the text into it")
    if not request.prompt.strip():
        raise InvalidRequestError("prompt", "must not be empty")
    try:
        # Bytes of an argument that were not UTF-8 arrive as they were.
        return request.prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        problem = "holds a lone surrogate that cannot be encoded"
        raise InvalidRequestError("prompt", problem) from None

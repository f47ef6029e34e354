"""Building the command: which program, which arguments, what on standard input."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from eventbus_tasks import Command, InvalidRequestError
from eventbus_tasks.agents import AgentOptions, child_environment, find_program, prompt_bytes
from eventbus_tasks_gemini.interpreter import GeminiInterpreter

if TYPE_CHECKING:
    from eventbus_tasks import Task

__all__ = ["AGENT", "SESSION_VARIABLES", "GeminiOptions", "GeminiSettings", "build_command"]

AGENT: Final = "gemini"

_USER_ONLY: Final = {"user_only": True}

_MODES: Final = ("default", "auto_edit", "yolo", "plan")

SESSION_VARIABLES: Final = frozenset(
    {
        # "You run inside Gemini CLI".
        "GEMINI_CLI",
        "GEMINI_CLI_NO_RELAUNCH",
        "GEMINI_SESSION_ID",
        "GEMINI_PROJECT_DIR",
        "GEMINI_CWD",
        "SANDBOX",
    }
)
"""Variables that belong to one running session. Keys and other ``GEMINI_…`` ones are a user's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiSettings:
    """The table ``gemini``. What could give Gemini more rights is honoured from users only.

    Attributes:
        executable: Program to run instead of the ``gemini`` found in ``PATH``: an absolute path,
            or a name that is searched in ``PATH``.
        model: Model, as ``--model`` takes it.
        approval_mode: ``default``, ``auto_edit``, ``yolo`` or ``plan``.
        trust: Work also in a directory that Gemini was not told to trust before.
    """

    executable: Path | None = field(default=None, metadata=_USER_ONLY)
    model: str | None = None
    approval_mode: str | None = field(default=None, metadata=_USER_ONLY)
    trust: bool = field(default=True, metadata=_USER_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiOptions(AgentOptions):
    """The options of one request, checked. Each one given replaces the setting of its name.

    Attributes:
        model: Model, as ``--model`` takes it.
        approval_mode: ``default`` (tools that change something are not offered), ``auto_edit``,
            ``yolo`` (everything is allowed) or ``plan``.
        trust: Work also in a directory that Gemini was not told to trust before.
        session_id: A UUID for a new session; by default the ``uid`` of the task.
        resume: The session to go on with: its UUID, its number, or ``latest``.
        args: More arguments for Gemini, as they are.
    """

    agent: ClassVar[str] = AGENT
    reserved: ClassVar[frozenset[str]] = frozenset(
        {"--output-format", "-o", "--prompt", "-p", "--prompt-interactive", "-i", "--acp", "--"}
    )

    model: str | None = None
    approval_mode: str | None = None
    trust: bool = True
    session_id: str | None = None
    resume: str | None = None
    args: tuple[str, ...] = ()

    def arguments(self, task_uid: str) -> tuple[str, ...]:
        """Return the options as arguments for Gemini; the prompt is on standard input.

        Args:
            task_uid: A new session gets it as its id: it is known then from the beginning, also
                when the task is killed before its first line.

        Raises:
            InvalidRequestError: A value is none that Gemini has.
        """
        if self.approval_mode is not None and self.approval_mode not in _MODES:
            problem = f"must be one of {', '.join(_MODES)}, not {self.approval_mode!r}"
            raise InvalidRequestError("options.approval_mode", problem)
        if self.resume is not None and self.session_id is not None:
            raise InvalidRequestError("options.session_id", "a resumed session keeps its id")
        # A value is glued to its flag, so that none can be taken for another flag.
        given = [f"--model={self.model}"] if self.model else []
        given += [f"--approval-mode={self.approval_mode}"] if self.approval_mode else []
        given += ["--skip-trust"] if self.trust else []
        if self.resume is not None:
            given.append(f"--resume={self.resume}")
        else:
            given.append(f"--session-id={_uuid(self.session_id or task_uid)}")
        return (*given, *self.args)


def build_command(task: Task) -> Command:
    """Return what to execute for a task.

    Raises:
        InvalidRequestError: The request, or a setting, cannot be used: says which and why.
    """
    request = task.request
    settings = task.settings.table(GeminiSettings)
    options = GeminiOptions.of(request.options, settings)
    environment = child_environment(os.environ, request.env, SESSION_VARIABLES)
    # Otherwise it starts itself again in a second process, and the first one swallows signals.
    environment.setdefault("GEMINI_CLI_NO_RELAUNCH", "true")
    program = find_program(
        AGENT, settings.executable, environment.get("PATH"), setting="gemini.executable"
    )
    return Command(
        argv=(program, "--output-format=stream-json", *options.arguments(task.uid)),
        env=environment,
        stdin=prompt_bytes(request),
        # Gemini loses the end of its output on a pipe that is read slowly.
        capture="file",
        # Stack traces and notes, on every run.
        stderr="separate",
        interpreter=GeminiInterpreter(),
    )


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise InvalidRequestError("options.session_id", f"must be a UUID, not {text!r}") from None

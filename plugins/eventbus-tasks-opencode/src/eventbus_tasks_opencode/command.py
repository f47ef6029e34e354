"""Building the command: which program, which arguments, what on standard input."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from eventbus_tasks import Command
from eventbus_tasks.agents import AgentOptions, child_environment, find_program, prompt_bytes
from eventbus_tasks_opencode.interpreter import OpencodeInterpreter

if TYPE_CHECKING:
    from eventbus_tasks import Task

__all__ = ["AGENT", "SESSION_VARIABLES", "OpencodeOptions", "OpencodeSettings", "build_command"]

AGENT: Final = "opencode"

_USER_ONLY: Final = {"user_only": True}

SESSION_VARIABLES: Final = frozenset(
    {
        # "You run inside opencode", and where its server is.
        "OPENCODE",
        "OPENCODE_PID",
        "OPENCODE_RUN_ID",
        "OPENCODE_SERVER_PASSWORD",
        "OPENCODE_SERVER_USERNAME",
    }
)
"""Variables that belong to one running session. Other ``OPENCODE_…`` ones are a user's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpencodeSettings:
    """The table ``opencode``. What could give opencode more rights is honoured from users only.

    Attributes:
        executable: Program to run instead of the ``opencode`` found in ``PATH``: an absolute
            path, or a name that is searched in ``PATH``.
        model: Provider and model, as ``--model`` takes them.
        auto: Allow what is not explicitly denied.
    """

    executable: Path | None = field(default=None, metadata=_USER_ONLY)
    model: str | None = None
    auto: bool = field(default=False, metadata=_USER_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpencodeOptions(AgentOptions):
    """The options of one request, checked. Each one given replaces the setting of its name.

    Attributes:
        model: Provider and model, as ``--model`` takes them: ``"anthropic/claude-x"``.
        variant: Variant of the model, such as its effort.
        mode: Which of opencode's own agents, as ``--agent`` takes it: ``"plan"``.
        auto: Allow what is not explicitly denied. Without it, what would have to be asked for
            is denied.
        thinking: Tell what the model thinks.
        resume: The session to go on with.
        args: More arguments for ``opencode run``, as they are.
    """

    agent: ClassVar[str] = AGENT
    reserved: ClassVar[frozenset[str]] = frozenset(
        {"--format", "--interactive", "-i", "--attach", "--"}
    )

    model: str | None = None
    variant: str | None = None
    mode: str | None = None
    auto: bool = False
    thinking: bool = False
    resume: str | None = None
    args: tuple[str, ...] = ()

    def arguments(self) -> tuple[str, ...]:
        """Return the options as arguments for ``opencode run``; the prompt is on standard input.

        A value is glued to its flag, so that none can be taken for another flag.
        """
        glued = {
            "--model": self.model,
            "--variant": self.variant,
            "--agent": self.mode,
            "--session": self.resume,
        }
        given = [f"{flag}={value}" for flag, value in glued.items() if value is not None]
        given += ["--auto"] if self.auto else []
        given += ["--thinking"] if self.thinking else []
        return (*given, *self.args)


def build_command(task: Task) -> Command:
    """Return what to execute for a task.

    Raises:
        InvalidRequestError: The request, or a setting, cannot be used: says which and why.
    """
    request = task.request
    settings = task.settings.table(OpencodeSettings)
    options = OpencodeOptions.of(request.options, settings)
    environment = child_environment(os.environ, request.env, SESSION_VARIABLES)
    program = find_program(
        AGENT, settings.executable, environment.get("PATH"), setting="opencode.executable"
    )
    return Command(
        argv=(program, "run", "--format=json", *options.arguments()),
        env=environment,
        stdin=prompt_bytes(request),
        # opencode loses the end of its output on a pipe that is read slowly.
        capture="file",
        stderr="separate",
        interpreter=OpencodeInterpreter(),
    )

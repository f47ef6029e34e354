"""Building the command: which program, which arguments, what on standard input."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from eventbus_tasks import Command, InvalidRequestError
from eventbus_tasks.agents import AgentOptions, child_environment, find_program, prompt_bytes
from eventbus_tasks_codex.interpreter import CodexInterpreter

if TYPE_CHECKING:
    from eventbus_tasks import Task

__all__ = ["AGENT", "SESSION_VARIABLES", "CodexOptions", "CodexSettings", "build_command"]

AGENT: Final = "codex"

_USER_ONLY: Final = {"user_only": True}

_SANDBOXES: Final = ("read-only", "workspace-write", "danger-full-access")

SESSION_VARIABLES: Final = frozenset(
    {
        # "You run inside Codex", and whose session that is.
        "CODEX_SANDBOX",
        "CODEX_SANDBOX_NETWORK_DISABLED",
        "CODEX_THREAD_ID",
        "CODEX_CI",
        "CODEX_INTERNAL_ORIGINATOR_OVERRIDE",
        # What its launchers tell the program that they start.
        "CODEX_MANAGED_BY_NPM",
        "CODEX_MANAGED_BY_BUN",
    }
)
"""Variables that belong to one running session. ``CODEX_HOME`` and keys are a user's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodexSettings:
    """The table ``codex``. What could give Codex more rights is honoured from users only.

    Attributes:
        executable: Program to run instead of the ``codex`` found in ``PATH``: an absolute path,
            or a name that is searched in ``PATH``.
        model: Model, as ``--model`` takes it.
        profile: A profile of the user's Codex configuration.
        sandbox: ``read-only`` (Codex's own default), ``workspace-write`` or
            ``danger-full-access``.
        full_access: No sandbox at all, and no questions; for machines that are one themselves.
    """

    executable: Path | None = field(default=None, metadata=_USER_ONLY)
    model: str | None = None
    profile: str | None = field(default=None, metadata=_USER_ONLY)
    sandbox: str | None = field(default=None, metadata=_USER_ONLY)
    full_access: bool = field(default=False, metadata=_USER_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodexOptions(AgentOptions):
    """The options of one request, checked. Each one given replaces the setting of its name.

    Attributes:
        model: Model, as ``--model`` takes it.
        profile: A profile of the user's Codex configuration.
        sandbox: ``read-only``, ``workspace-write`` or ``danger-full-access``.
        full_access: No sandbox at all, and no questions.
        resume: The session (Codex calls it a thread) to go on with.
        config: Values of Codex's own configuration: ``["model_reasoning_effort=high"]``.
        args: More arguments for ``codex exec``, as they are.
    """

    agent: ClassVar[str] = AGENT
    reserved: ClassVar[frozenset[str]] = frozenset({"--json", "--experimental-json", "--", "-"})

    model: str | None = None
    profile: str | None = None
    sandbox: str | None = None
    full_access: bool = False
    resume: str | None = None
    config: tuple[str, ...] = ()
    args: tuple[str, ...] = ()

    def arguments(self) -> tuple[str, ...]:
        """Return the options as arguments for ``codex exec``; the prompt is on standard input.

        Raises:
            InvalidRequestError: A value is none that Codex has.
        """
        if self.sandbox is not None and self.sandbox not in _SANDBOXES:
            problem = f"must be one of {', '.join(_SANDBOXES)}, not {self.sandbox!r}"
            raise InvalidRequestError("options.sandbox", problem)
        if self.resume is not None and self.resume.startswith("-"):
            raise InvalidRequestError("options.resume", f"is no session: {self.resume!r}")
        # A value is glued to its flag, so that none can be taken for another flag.
        given = [f"--model={self.model}"] if self.model else []
        given += [f"--profile={self.profile}"] if self.profile else []
        if self.full_access:
            given.append("--dangerously-bypass-approvals-and-sandbox")
        elif self.sandbox is not None:
            given.append(f"--sandbox={self.sandbox}")
        given += [f"--config={pair}" for pair in self.config]
        given += self.args
        given += ["resume", self.resume] if self.resume else []
        return (*given, "-")


def build_command(task: Task) -> Command:
    """Return what to execute for a task.

    Raises:
        InvalidRequestError: The request, or a setting, cannot be used: says which and why.
    """
    request = task.request
    settings = task.settings.table(CodexSettings)
    options = CodexOptions.of(request.options, settings)
    environment = child_environment(os.environ, request.env, SESSION_VARIABLES)
    program = find_program(
        AGENT, settings.executable, environment.get("PATH"), setting="codex.executable"
    )
    return Command(
        # Whether the directory is one to work in has been decided by whoever asks for the task.
        argv=(program, "exec", "--json", "--skip-git-repo-check", *options.arguments()),
        env=environment,
        stdin=prompt_bytes(request),
        capture="file",
        stderr="separate",
        interpreter=CodexInterpreter(resumed=options.resume is not None),
    )

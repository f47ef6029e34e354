"""What can be set for Claude: the table ``claude`` of the settings, and options of a request."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from eventbus_tasks import InvalidRequestError
from eventbus_tasks.agents import AgentOptions

__all__ = ["ClaudeOptions", "ClaudeSettings"]

_USER_ONLY: Final = {"user_only": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeSettings:
    """The table ``claude``. What could give Claude more rights is honoured from users only.

    Attributes:
        executable: Program to run instead of the ``claude`` found in ``PATH``: an absolute path,
            or a name that is searched in ``PATH``.
        model: Model, as ``--model`` takes it.
        permission_mode: As ``--permission-mode`` takes it.
        allowed_tools: Tools that need no permission, as ``--allowedTools`` takes them.
        max_turns: Turns after which Claude gives up.
    """

    executable: Path | None = field(default=None, metadata=_USER_ONLY)
    model: str | None = None
    permission_mode: str | None = field(default=None, metadata=_USER_ONLY)
    allowed_tools: tuple[str, ...] = field(default=(), metadata=_USER_ONLY)
    max_turns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeOptions(AgentOptions):
    """The options of one request, checked. Each one given replaces the setting of its name.

    Attributes:
        model: Model, as ``--model`` takes it.
        permission_mode: As ``--permission-mode`` takes it.
        allowed_tools: Tools that need no permission.
        disallowed_tools: Tools that are not to be used.
        max_turns: Turns after which Claude gives up.
        session_id: A UUID for a new session; by default the ``uid`` of the task.
        resume: The session to go on with.
        append_system_prompt: Added to the system prompt.
        interactive: Claude stays after its answer, takes more prompts (`Task.send`), can be
            interrupted, and asks for permissions (`Task.answer`), until `Task.close_input`.
        args: More arguments for Claude, as they are.
    """

    agent: ClassVar[str] = "claude"
    # They say what this plugin relies on.
    reserved: ClassVar[frozenset[str]] = frozenset(
        {"--print", "-p", "--output-format", "--input-format", "--"}
    )

    model: str | None = None
    permission_mode: str | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    max_turns: int | None = None
    session_id: str | None = None
    resume: str | None = None
    append_system_prompt: str | None = None
    interactive: bool = False
    args: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any], settings: object | None = None) -> Self:
        """Check the options of a request, on top of the settings; see `AgentOptions.of`.

        Raises:
            InvalidRequestError: An option is unknown, or its value cannot be used: says which
                and why.
        """
        # In this form, because a class with slots has lost what a bare `super()` looks for.
        made = super(ClaudeOptions, cls).of(options, settings)
        if made.session_id is None:
            return made
        if made.resume is not None and not made.forks:
            problem = 'a resumed session keeps its id, unless args has "--fork-session"'
            raise InvalidRequestError("options.session_id", problem)
        try:
            return replace(made, session_id=str(uuid.UUID(made.session_id)))
        except ValueError:
            problem = f"must be a UUID, not {made.session_id!r}"
            raise InvalidRequestError("options.session_id", problem) from None

    @property
    def forks(self) -> bool:
        """Whether the session that is resumed stays as it is, and a new one begins."""
        return "--fork-session" in self.args

    @property
    def resumes(self) -> bool:
        """Whether it goes on with an earlier session."""
        flags = ("--resume", "-r", "--continue", "-c")
        return self.resume is not None or any(_flag(word) in flags for word in self.args)

    @property
    def names_session(self) -> bool:
        """Whether a new session is named already."""
        named = any(_flag(word) == "--session-id" for word in self.args)
        return self.session_id is not None or named

    def arguments(self) -> tuple[str, ...]:
        """Return the options as arguments for Claude.

        A value is glued to its flag, so that none can be taken for another flag.
        """
        glued = {
            "--model": self.model,
            "--permission-mode": self.permission_mode,
            "--allowedTools": ",".join(self.allowed_tools) or None,
            "--disallowedTools": ",".join(self.disallowed_tools) or None,
            "--max-turns": self.max_turns,
            "--session-id": self.session_id,
            "--resume": self.resume,
            "--append-system-prompt": self.append_system_prompt,
        }
        given = (f"{flag}={value}" for flag, value in glued.items() if value is not None)
        talk = ("--input-format=stream-json", "--permission-prompt-tool=stdio")
        return (*given, *(talk if self.interactive else ()), *self.args)


def _flag(argument: str) -> str:
    return argument.split("=", 1)[0]

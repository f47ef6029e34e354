"""What can be set for Claude: the table ``claude`` of the settings, and options of a request."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from eventbus_tasks import InvalidRequestError

__all__ = ["ClaudeOptions", "ClaudeSettings"]

_USER_ONLY: Final = {"user_only": True}

# Options of Claude that say what this plugin relies on.
_OURS: Final = ("--print", "-p", "--output-format", "--input-format", "--")


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
        permission_deadline: Seconds after which a permission request that nobody has answered is
            denied.
    """

    executable: Path | None = field(default=None, metadata=_USER_ONLY)
    model: str | None = None
    permission_mode: str | None = field(default=None, metadata=_USER_ONLY)
    allowed_tools: tuple[str, ...] = field(default=(), metadata=_USER_ONLY)
    max_turns: int | None = None
    permission_deadline: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeOptions:
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
        interactive: Claude stays after its answer, takes more prompts, and asks for permissions:
            see `eventbus_tasks_claude.conversation`.
        args: More arguments for Claude, as they are.
    """

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
    def of(cls, options: Mapping[str, Any], settings: ClaudeSettings) -> Self:
        """Check the options of a request, on top of the settings.

        Raises:
            InvalidRequestError: An option is unknown, or its value cannot be used: says which
                and why.
        """
        known = [item.name for item in fields(cls)]
        values: dict[str, Any] = {
            name: getattr(settings, name)
            for name in ("model", "permission_mode", "allowed_tools", "max_turns")
        }
        for name, value in options.items():
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise InvalidRequestError(
                    f"options.{name}",
                    f"is not an option of claude; {hint}known: {', '.join(sorted(known))}",
                )
            if value is not None:
                values[name] = _READERS.get(name, _word)(f"options.{name}", value)
        made = cls(**values)
        if made.session_id is not None and made.resume is not None and not made.forks:
            problem = 'a resumed session keeps its id, unless args has "--fork-session"'
            raise InvalidRequestError("options.session_id", problem)
        return made

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


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(name, f"must be a string that is not empty, not {value!r}")
    return value


def _words(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray)):
        raise InvalidRequestError(name, f"must be a list of strings, not {value!r}")
    return tuple(_word(f"{name}[{position}]", word) for position, word in enumerate(value))


def _turns(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequestError(name, f"must be a number >= 1, not {value!r}")
    return value


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequestError(name, f"must be true or false, not {value!r}")
    return value


def _uuid(name: str, value: Any) -> str:
    try:
        return str(uuid.UUID(_word(name, value)))
    except ValueError:
        raise InvalidRequestError(name, f"must be a UUID, not {value!r}") from None


def _arguments(name: str, value: Any) -> tuple[str, ...]:
    words = _words(name, value)
    for word in words:
        if _flag(word) in _OURS:
            raise InvalidRequestError(name, f"{word!r} is decided by the plugin")
    return words


_READERS: Final = {
    "allowed_tools": _words,
    "disallowed_tools": _words,
    "max_turns": _turns,
    "session_id": _uuid,
    "interactive": _switch,
    "args": _arguments,
}

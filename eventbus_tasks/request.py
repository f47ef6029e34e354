"""What is asked for (`TaskRequest`), what will be executed (`Command`), and who a task is."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from eventbus_tasks.errors import InvalidRequestError
from eventbus_tasks.policies import (
    Capture,
    OnHostDeath,
    OutputInterpreter,
    StderrMode,
    Stdin,
    TerminationPolicy,
    WhenBusy,
)

__all__ = ["NO_TASK", "Command", "TaskRef", "TaskRequest"]

# Linux refuses a single argument or environment string of 128 KiB (MAX_ARG_STRLEN = 32 pages,
# fs/exec.c), the terminating zero included.
_MAX_STRING = 128 * 1024 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRef:
    """Who a task is: pure data, safe to keep, to send and to compare.

    Attributes:
        id: Its number in the engine; grows. Two engines may both have a task 1.
        uid: A UUID that never collides.
        name: The name it was given, for people.
        agent: The agent that does the work (``"command"`` for a plain command).
        project_dir: The absolute project directory.
    """

    id: int
    uid: str
    name: str
    agent: str
    project_dir: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "id": self.id,
            "uid": self.uid,
            "name": self.name,
            "agent": self.agent,
            "project_dir": self.project_dir,
        }


NO_TASK: Final = TaskRef(id=0, uid="", name="", agent="", project_dir="")
"""Stands in where something concerns no task (a hook that failed at the engine's start)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """One piece of work to be done in a project directory.

    Attributes:
        name: For people; need not be unique.
        project_dir: The directory to work in; must exist.
        agent: Which agent does it; ``"command"`` runs `argv`; empty for the one of the settings.
        prompt: What the agent is told; never becomes a command-line argument.
        argv: The command, for the agent ``"command"``.
        env: Variables on top of the host's environment. Never written to disk.
        stdin: Bytes for standard input of a plain command, of any size; ``"open"`` for
            `Task.send` and `Task.close_input`; nothing: ``/dev/null``.
        pty_size: Run a plain command at a terminal of its own, of so many columns and lines; see
            `Command.capture`.
        timeout: Seconds the task may run in all; overrides the policy's.
        policy: How to stop it; overrides what plugins say.
        when_busy: What to do when another task works in the directory: ``"reject"``,
            ``"queue"``, ``"share"``, or ``None`` for the setting.
        on_host_death: ``"kill"`` or ``"detach"``; overrides the policy's.
        resume: The session of the agent to go on with; empty for a new one.
        options: For the agent's plugin (``model``, ``allowed_tools`` …): JSON data. That of
            an agent which can go on with a session finds it there as ``resume``, too.
    """

    name: str
    project_dir: Path
    agent: str = "command"
    prompt: str = ""
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    stdin: Stdin = field(default=None, repr=False, compare=False)
    pty_size: tuple[int, int] | None = None
    timeout: float | None = None
    policy: TerminationPolicy | None = None
    when_busy: WhenBusy | None = None
    on_host_death: OnHostDeath | None = None
    resume: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def validate(self) -> TaskRequest:
        """Return the request with its directory made absolute, or refuse it.

        Raises:
            InvalidRequestError: A field is wrong; says which and why.
        """
        _check_text("name", self.name)
        if not self.name.strip():
            raise InvalidRequestError("name", "must not be empty")
        _check_text("agent", self.agent)
        if self.agent == "command" and not self.argv:
            raise InvalidRequestError("argv", "a command needs at least the program to run")
        if "\0" in self.prompt:
            raise InvalidRequestError("prompt", "must not contain a NUL character")
        if self.timeout is not None and not _is_duration(self.timeout):
            raise InvalidRequestError("timeout", "must be a finite number of seconds >= 0")
        _check_stdin(self.stdin)
        if self.pty_size is not None:
            _check_size(self.pty_size)
        if self.policy is not None and not isinstance(self.policy, TerminationPolicy):
            raise InvalidRequestError("policy", f"must be a TerminationPolicy, not {self.policy!r}")
        _check_choice("when_busy", self.when_busy, get_args(WhenBusy))
        _check_choice("on_host_death", self.on_host_death, get_args(OnHostDeath))
        _check_text("resume", self.resume)
        check_argv(self.argv)
        check_env(self.env)
        try:
            json.dumps(dict(self.options), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidRequestError("options", f"must be JSON data: {error}") from None
        directory = Path(os.path.abspath(self.project_dir))
        if not directory.is_dir():
            problem = "is not a directory" if directory.exists() else "does not exist"
            raise InvalidRequestError("project_dir", f"{str(directory)!r} {problem}")
        changed = {name: getattr(self, name) for name in self.__slots__}
        changed["project_dir"] = directory
        return TaskRequest(**changed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, without `env` and `stdin`, which may hold secrets."""
        return {
            "name": self.name,
            "project_dir": str(self.project_dir),
            "agent": self.agent,
            "prompt": self.prompt,
            "argv": list(self.argv),
            "pty_size": None if self.pty_size is None else list(self.pty_size),
            "timeout": self.timeout,
            "policy": None if self.policy is None else self.policy.to_dict(),
            "when_busy": self.when_busy,
            "on_host_death": self.on_host_death,
            "resume": self.resume,
            "options": dict(self.options),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskRequest:
        """Rebuild a request from `to_dict` (without `env` and `stdin`)."""
        policy, size = data.get("policy"), data.get("pty_size")
        return cls(
            name=data["name"],
            project_dir=Path(data["project_dir"]),
            agent=data.get("agent", "command"),
            prompt=data.get("prompt", ""),
            argv=tuple(data.get("argv", ())),
            pty_size=None if size is None else (size[0], size[1]),
            timeout=data.get("timeout"),
            policy=None if policy is None else TerminationPolicy.from_dict(policy),
            when_busy=data.get("when_busy"),
            on_host_death=data.get("on_host_death"),
            resume=data.get("resume", ""),
            options=dict(data.get("options", {})),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to execute for a task: the answer to ``ebt_build_command``.

    Attributes:
        argv: Program and arguments. A program without a slash is searched in `env`'s ``PATH``.
        cwd: The working directory, or ``None`` for the project directory.
        env: The whole environment, or ``None`` for the host's own.
        stdin: Bytes for standard input, of any size; ``"open"`` for `Task.send` and
            `Task.close_input`; or ``None`` for ``/dev/null``.
        capture: ``"pipe"``; ``"file"`` when the program loses output on pipes: then its
            standard output *is* the log file; or ``"pty"`` for a terminal of its own. What is
            sent is typed there then, and the end of input is a Ctrl-D; what the terminal shows
            is the output, echoes and ``\\r\\n`` included; ``TERM`` is set unless `env` has it.
        pty_size: Columns and lines of that terminal; `Task.resize` changes them.
        stderr: ``"merge"`` into standard output, or ``"separate"``.
        interpreter: Understands the output; one new object for each task. That of an agent that is
            talked to is a `ConversationInterpreter`.
        session_id: The session of the agent in which the command works, where that is known before
            it runs.
    """

    argv: tuple[str, ...]
    cwd: Path | None = None
    env: Mapping[str, str] | None = field(default=None, repr=False)
    stdin: Stdin = field(default=None, repr=False)
    capture: Capture = "pipe"
    pty_size: tuple[int, int] = (80, 24)
    stderr: StderrMode = "merge"
    interpreter: OutputInterpreter | None = None
    session_id: str = ""

    def validate(self) -> None:
        """Refuse what no kernel can execute.

        Raises:
            InvalidRequestError: A field is wrong; says which and why.
        """
        if isinstance(self.argv, (str, bytes)) or not self.argv:
            raise InvalidRequestError("argv", "must be a non-empty sequence of strings")
        check_argv(self.argv)
        if self.env is not None:
            check_env(self.env)
        for name, choices in (("capture", get_args(Capture)), ("stderr", get_args(StderrMode))):
            if getattr(self, name) is None:
                raise InvalidRequestError(name, "must not be None")
            _check_choice(name, getattr(self, name), choices)
        if self.capture == "pty" and self.stderr == "separate":
            raise InvalidRequestError("stderr", "a terminal has one stream: it must be 'merge'")
        _check_size(self.pty_size)
        _check_stdin(self.stdin)
        if self.cwd is not None and not isinstance(self.cwd, Path):
            raise InvalidRequestError("cwd", f"must be a Path, not {self.cwd!r}")
        if self.interpreter is not None and not isinstance(self.interpreter, OutputInterpreter):
            problem = f"must have interpret() and verdict(), not be {self.interpreter!r}"
            raise InvalidRequestError("interpreter", problem)


def _check_stdin(value: object) -> None:
    if value is not None and value != "open" and not isinstance(value, bytes):
        shown = repr(value) if isinstance(value, str) else type(value).__name__
        raise InvalidRequestError("stdin", f"must be bytes or 'open', not {shown}")


def _check_size(size: object) -> None:
    numbers = size if isinstance(size, tuple) else ()
    if len(numbers) != 2 or not all(isinstance(n, int) and 0 < n < 1 << 16 for n in numbers):
        raise InvalidRequestError("pty_size", f"must be (columns, lines), not {size!r}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        known = ", ".join(map(repr, choices))
        raise InvalidRequestError(name, f"must be one of {known}, not {value!r}")


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def check_argv(argv: tuple[str, ...]) -> None:
    """Refuse arguments that ``execve`` cannot take.

    Raises:
        InvalidRequestError: Names the argument by its position.
    """
    for position, argument in enumerate(argv):
        _check_text(f"argv[{position}]", argument)
    if argv and not argv[0]:
        raise InvalidRequestError("argv[0]", "the program must not be empty")


def check_env(env: Mapping[str, str]) -> None:
    """Refuse variables that ``execve`` cannot take.

    Raises:
        InvalidRequestError: Names the variable.
    """
    if _is_plain_env(env):
        return
    for name, value in env.items():
        _check_text(f"env[{name!r}]", name)
        if not name or "=" in name:
            raise InvalidRequestError(f"env[{name!r}]", "a name must not be empty or contain '='")
        _check_text(f"env[{name!r}]", value)
        if len(os.fsencode(name)) + 1 + len(os.fsencode(value)) > _MAX_STRING:
            problem = "Linux refuses variables of 128 KiB or more"
            raise InvalidRequestError(f"env[{name!r}]", problem)


def _is_plain_env(env: Mapping[str, str]) -> bool:
    """Whether one look at all variables together shows that none is wrong; there are dozens."""
    try:
        together = "\0".join((*env, *env.values()))
        size = len(os.fsencode(together))
    except (TypeError, UnicodeEncodeError):
        return False
    if size > _MAX_STRING or together.count("\0") > max(0, 2 * len(env) - 1):
        return False
    return "" not in env and "=" not in "".join(env)


def _check_text(field_name: str, value: str) -> None:
    if not isinstance(value, str):
        raise InvalidRequestError(field_name, f"must be a string, not {type(value).__name__}")
    if "\0" in value:
        raise InvalidRequestError(field_name, "must not contain a NUL character")
    try:
        size = len(os.fsencode(value))
    except UnicodeEncodeError:
        raise InvalidRequestError(
            field_name, "holds a lone surrogate that cannot be encoded"
        ) from None
    if size > _MAX_STRING:
        raise InvalidRequestError(
            field_name, "Linux refuses strings of 128 KiB or more; pass long text by stdin"
        )

"""Termination policies as data, and the small protocols that plugins implement.

A policy is data because it is carried out by another process: the guardian of the task. It
must work while the host's event loop is blocked, while the host is stopped, and after the
host has died, so no code of ours or of a plugin takes part in ending a task.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from eventbus_tasks.conversation import Send, Withdraw
    from eventbus_tasks.events import AgentActivity, TaskEvent
    from eventbus_tasks.outcome import Outcome, ProcessExit, Verdict

__all__ = [
    "AfterExit",
    "Capture",
    "DurableJournal",
    "Journal",
    "KeepOutput",
    "LogFiles",
    "OnHostDeath",
    "OutputInterpreter",
    "OutputStore",
    "ReadableJournal",
    "ReopenedJournal",
    "Scope",
    "StderrMode",
    "Stdin",
    "Step",
    "Stream",
    "TerminationPolicy",
    "WhenBusy",
]

Stream = Literal["stdout", "stderr"]
Capture = Literal["pipe", "file", "pty"]
StderrMode = Literal["merge", "separate"]
WhenBusy = Literal["reject", "queue", "share"]
Scope = Literal["leader", "group", "tree"]
AfterExit = Literal["kill", "leave"]
OnHostDeath = Literal["kill", "detach"]
KeepOutput = Literal["stop", "tail"]
Stdin = bytes | Literal["open"] | None


_MAX_STEPS = 1000
"""Rungs of a stop ladder; it has to reach the guardian in one packet."""


def _check_seconds(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number of seconds >= 0, not {value!r}")


def _check_bytes(value: int) -> None:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"max_output must be a whole number of bytes >= 0, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rung of a stop ladder: a signal, whom it goes to, and how long it may take.

    Attributes:
        signal: The number of the signal. ``SIGCONT`` follows it by itself, because a stopped
            process does not act on anything but ``SIGKILL``. 0 as the first rung is no signal, but
            an agent's own protocol: one that is talked to is interrupted, and gets `grace` to end.
        scope: ``"leader"`` (the process that was started), ``"group"`` (its process group) or
            ``"tree"`` (every descendant, whatever its session; the default).
        grace: Seconds until the next rung, cut short as soon as the whole family has ended.
    """

    signal: int
    scope: Scope = "tree"
    grace: float = 5.0

    def __post_init__(self) -> None:
        """Refuse a rung that cannot be carried out.

        Raises:
            ValueError: The signal does not exist, or the grace is not a finite number >= 0.
        """
        if self.signal != 0:
            signal.Signals(self.signal)
        if self.scope not in ("leader", "group", "tree"):
            raise ValueError(f"scope must be 'leader', 'group' or 'tree', not {self.scope!r}")
        _check_seconds("grace", self.grace)


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationPolicy:
    """How a task is stopped, what limits it has, and what happens to what it leaves behind.

    ``SIGKILL`` to every process of the family is always the last rung; it is not part of
    `steps` and cannot be left out.

    Attributes:
        steps: The rungs before ``SIGKILL``, in order, 1,000 at most. May be empty: then the first
            rung is ``SIGKILL``.
        kill_wait: Seconds to wait for processes to disappear after ``SIGKILL``. What is still
            there then (uninterruptible sleep) makes the outcome ``unkillable``.
        drain: Seconds to wait for the end of the output once the family has ended.
        exit_grace: Seconds that processes left behind by a *normal* exit get to end by
            themselves, before the ladder begins for them.
        after_exit: ``"kill"`` ends leftovers of a normal exit, ``"leave"`` names them in the
            outcome and keeps the project taken until they are gone.
        on_host_death: ``"kill"`` ends the task when its host has died, ``"detach"`` lets it run.
        timeout: Seconds the task may run in all, or ``None``.
        idle_timeout: Seconds the task may run without any output, or ``None``.
        max_output: Bytes the task may write, or ``None``.
        keep: What happens at `max_output`: ``"stop"`` ends the task, ``"tail"`` frees old bytes.
    """

    steps: tuple[Step, ...] = (Step(signal=signal.SIGTERM, scope="tree", grace=5.0),)
    kill_wait: float = 5.0
    drain: float = 0.3
    exit_grace: float = 0.2
    after_exit: AfterExit = "kill"
    on_host_death: OnHostDeath = "kill"
    timeout: float | None = None
    idle_timeout: float | None = None
    max_output: int | None = None
    keep: KeepOutput = "stop"

    def __post_init__(self) -> None:
        """Refuse a policy that cannot be carried out.

        Raises:
            TypeError: A rung is not a `Step`.
            ValueError: A number is negative or not finite, a word is not one of its choices, or
                there are too many steps.
        """
        object.__setattr__(self, "steps", tuple(self.steps))
        if len(self.steps) > _MAX_STEPS:
            raise ValueError(f"a policy has {_MAX_STEPS} steps at most, not {len(self.steps)}")
        for step in self.steps:
            if not isinstance(step, Step):
                raise TypeError(f"steps must hold Step objects, not {step!r}")
        for name in ("kill_wait", "drain", "exit_grace"):
            _check_seconds(name, getattr(self, name))
        for name in ("timeout", "idle_timeout"):
            value = getattr(self, name)
            if value is not None:
                _check_seconds(name, value)
        if self.max_output is not None:
            _check_bytes(self.max_output)
        choices: Mapping[str, tuple[str, ...]] = {
            "after_exit": ("kill", "leave"),
            "on_host_death": ("kill", "detach"),
            "keep": ("stop", "tail"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")

    def with_changes(self, **changes: Any) -> TerminationPolicy:
        """Return a policy with some fields changed (validated like a new one)."""
        return replace(self, **changes) if changes else self

    def to_dict(self) -> dict[str, Any]:
        """Return the policy as plain JSON data, as the guardian receives it."""
        data: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        data["steps"] = [
            {"signal": int(step.signal), "scope": step.scope, "grace": step.grace}
            for step in self.steps
        ]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TerminationPolicy:
        """Rebuild a policy from `to_dict`.

        Raises:
            TypeError: An unknown field.
            ValueError: A value that the constructor refuses.
        """
        fields = dict(data)
        if "steps" in fields:
            fields["steps"] = tuple(Step(**step) for step in fields["steps"])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFiles:
    """Open files for one task's bytes; the engine owns the descriptors from here on.

    Attributes:
        stdout: Descriptor, open for reading and writing, of the log of standard output (and of
            standard error, when merged).
        stderr: The same for standard error, or ``None`` when it is merged.
        end_record: Descriptor open for writing; the guardian writes the durable end record
            there, or ``None``.
        arrivals: Descriptor open for writing, of an empty file; the guardian writes there in which
            order output has arrived, and when (`eventbus_tasks.arrivals`), or ``None``.
        stdout_path: Path of the log, or ``None`` for an unnamed file.
        stderr_path: The same for standard error.
    """

    stdout: int
    stderr: int | None = None
    end_record: int | None = None
    arrivals: int | None = None
    stdout_path: str | None = None
    stderr_path: str | None = None


@runtime_checkable
class OutputStore(Protocol):
    """Where a task's bytes are kept: the answer to ``ebt_output_log``."""

    def open(self, *, separate_stderr: bool) -> LogFiles:
        """Open the files for one task, in a worker thread, under a deadline.

        Called once; again only if nobody could take what the first call returned.

        Raises:
            OSError: The files cannot be made; the engine keeps the bytes in an unnamed file
                instead and says so in ``Outcome.persist_error``.
        """


@runtime_checkable
class Journal(Protocol):
    """Durable record of a task's events: the answer to ``ebt_open_journal``."""

    def append(self, events: Sequence[TaskEvent]) -> None:
        """Write events, in order, before anybody is told.

        Called on the engine's loop: write to a file and return, never wait for anything.

        Raises:
            Exception: Becomes ``Outcome.persist_error``; no event is lost by it.
        """

    def finish(self, outcome: Outcome) -> None:
        """Make everything durable. Called once, before the terminal event is delivered.

        Called in a worker thread, under a deadline. The terminal event itself comes
        afterwards, by `append`, then `close`.
        """

    def close(self) -> None:
        """Release what is open. Called once, last, also after a failure."""


@runtime_checkable
class DurableJournal(Journal, Protocol):
    """A journal that makes its terminal event durable before anybody is told of the end."""

    def sync(self) -> None:
        """Make everything durable, the terminal event included.

        Called in a worker thread, under the deadline of `finish`, between the last `append` and
        the delivery of that event; may still run when `close` is called, if the deadline has
        passed.

        Raises:
            Exception: Becomes ``Outcome.persist_error`` of the outcome that is told, while the
                record of it says nothing about that.
        """


@runtime_checkable
class ReadableJournal(Journal, Protocol):
    """A journal that can be read again while its engine lives, for ``subscribe(after=…)``.

    The engine remembers the newest events of each task by itself. It remembers all of them where
    the journal is not of this kind.
    """

    def read_after(self, seq: int) -> Sequence[TaskEvent]:
        """Return the events whose number is greater than `seq`, in order.

        Called in a worker thread, also while `append` runs, and after `close`. May return
        events as they were read back: the engine connects them to the log again.

        Raises:
            Exception: What was asked for cannot be read; the subscriber gets it.
        """


@runtime_checkable
class ReopenedJournal(Journal, Protocol):
    """A journal that a later host goes on with: the answer to ``ebt_reopen_journal``."""

    def events(self) -> Iterable[Mapping[str, Any]]:
        """Return what is in it, in order, each event as ``TaskEvent.to_dict`` has made it.

        Called once, in a worker thread, before anything is appended; it may take its time. What
        is damaged is left out; the next event is appended behind the last whole one.
        """


@runtime_checkable
class OutputInterpreter(Protocol):
    """Understands the output of one agent: ``Command.interpreter``, one object per task."""

    def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity | Send | Withdraw]:
        """Return what one complete line means, as unstamped events (may be empty).

        Called on the engine's loop, in order, for every line of every stream, without its line
        ending. The engine stamps task, number and time, and keeps `line` beside each event.

        That of an agent that is talked to also returns what the line calls for: see
        `ConversationInterpreter`.
        """

    def verdict(self, exit: ProcessExit) -> Verdict | None:
        """Judge the finished run from everything seen, or ``None`` to let the exit code decide.

        Called once, after the last line, and not at all when the engine ended the task itself.
        """

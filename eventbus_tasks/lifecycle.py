"""The life of a task as a pure function, and the judgement over its end.

Nothing here does anything: `step` says which state follows which, `judge` says what a finished
run amounts to. The engine obeys, the property tests exercise.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from eventbus_tasks.outcome import Reason, TaskStatus, Verdict

__all__ = ["TRANSITIONS", "Facts", "Input", "LifeState", "judge", "step"]


class Input(StrEnum):
    """What can happen to a task."""

    LAUNCH = "launch"  # the command is known, its guardian is being asked for
    EXECUTED = "executed"  # the program runs
    STOP = "stop"  # somebody wants it to end, or a limit was passed
    LEADER_EXITED = "leader_exited"  # the program has ended, its family perhaps not
    ENDED = "ended"  # family gone, output complete: the reason is in `LifeState.reason`


@dataclass(frozen=True, slots=True)
class LifeState:
    """Where a task is.

    Attributes:
        status: Its status, as everybody sees it.
        stop_reason: The first cause for which it was stopped, if it was.
        leader_exited: Its program has ended: a later stop changes nothing.
        reason: Why it ended; set together with a terminal status, and never changed.
    """

    status: TaskStatus = TaskStatus.PENDING
    stop_reason: Reason | None = None
    leader_exited: bool = False
    reason: Reason | None = None


TRANSITIONS: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = MappingProxyType(
    {
        TaskStatus.PENDING: frozenset(
            {TaskStatus.STARTING, TaskStatus.CANCELLED, TaskStatus.FAILED}
        ),
        TaskStatus.STARTING: frozenset(
            {TaskStatus.RUNNING, TaskStatus.STOPPING, TaskStatus.CANCELLED, TaskStatus.FAILED}
        ),
        TaskStatus.RUNNING: frozenset(
            {TaskStatus.STOPPING, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}
        ),
        TaskStatus.STOPPING: frozenset({TaskStatus.CANCELLED, TaskStatus.FAILED}),
        TaskStatus.COMPLETED: frozenset(),
        TaskStatus.FAILED: frozenset(),
        TaskStatus.CANCELLED: frozenset(),
    }
)
"""Which status may follow which; `step` never leaves it."""


def step(state: LifeState, happened: Input, reason: Reason | None = None) -> LifeState:
    """Return the state that follows.

    Args:
        state: The state until now.
        happened: What happened.
        reason: With STOP, the cause; with ENDED, the reason of the outcome.

    What is not in the table does not happen: only a program that ran by itself can complete. An
    end absorbs everything; a stop after the program has exited changes nothing; the first
    cause of a stop stays the cause.
    """
    status, stop_reason, leader_exited = state.status, state.stop_reason, state.leader_exited
    if not (following := TRANSITIONS[status]):
        return state  # it has ended
    match happened:
        case Input.LEADER_EXITED:
            leader_exited = True
        case Input.ENDED if reason is not None and (end := reason.status) in following:
            return LifeState(end, stop_reason, leader_exited, reason)
        case Input.STOP if reason is not None and not leader_exited:
            stop_reason = stop_reason or reason
            if status is TaskStatus.RUNNING:
                status = TaskStatus.STOPPING
        case Input.EXECUTED if status is TaskStatus.STARTING:
            status = TaskStatus.RUNNING if stop_reason is None else TaskStatus.STOPPING
        case Input.LAUNCH if status is TaskStatus.PENDING:
            status = TaskStatus.STARTING
        case _:
            return state
    # Several times quicker than `dataclasses.replace`.
    return LifeState(status, stop_reason, leader_exited, state.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the judgement over a finished run is made from.

    Attributes:
        return_code: Exit status or negative signal number; ``None`` if unknown or never started.
        stop_reason: Why the guardian, or the engine before it, ended the run, if it did.
            `Reason.EXITED`: it did not react to what its interpreter had sent, which judges it.
        spawn_error: Why the program could not be executed, if so.
        plugin_error: Why no command could be built, if so.
        unkillable: Processes withstood SIGKILL.
        guardian_lost: The guardian ended without a report.
        verdict: What the agent's interpreter says, if it says something.
    """

    return_code: int | None = None
    stop_reason: Reason | None = None
    spawn_error: str | None = None
    plugin_error: str | None = None
    unkillable: bool = False
    guardian_lost: bool = False
    verdict: Verdict | None = None


def judge(facts: Facts) -> tuple[Reason, str]:
    """Return reason and message: our own stop first, then the agent's word, then the exit code.

    Fails closed: an agent's "success" counts only with exit status 0, and an unknown exit
    status is never a success.
    """
    if facts.unkillable:
        return Reason.UNKILLABLE, "processes withstood SIGKILL"
    if facts.guardian_lost:
        return Reason.GUARDIAN_LOST, "the guardian of the task was killed"
    let_go = facts.stop_reason is Reason.EXITED
    # A task that was ended because of an error has that as its reason, in its words.
    explained = facts.stop_reason is Reason.PLUGIN_ERROR and facts.plugin_error is not None
    if facts.stop_reason is not None and not let_go and not explained:
        return facts.stop_reason, _STOP_MESSAGES.get(facts.stop_reason, facts.stop_reason.value)
    if facts.plugin_error is not None:
        return Reason.PLUGIN_ERROR, facts.plugin_error
    if facts.spawn_error is not None:
        return Reason.SPAWN_FAILED, facts.spawn_error
    verdict, code = facts.verdict, facts.return_code
    if verdict is not None and verdict.reason is not Reason.EXITED:
        known = verdict.reason in _VERDICTS
        return (verdict.reason if known else Reason.AGENT_ERROR), verdict.message or "it failed"
    if verdict is not None and let_go:
        return Reason.EXITED, verdict.message
    if code is None:
        return Reason.GUARDIAN_LOST, "the exit status is unknown"
    if code < 0:
        return Reason.SIGNALLED, f"ended by {_signal_name(-code)}"
    if code > 0:
        return Reason.EXIT_CODE, f"exit status {code}"
    return Reason.EXITED, "" if verdict is None else verdict.message


# What an interpreter can know; whether a task was cancelled or its host died, it cannot.
_VERDICTS: Final = frozenset({Reason.AGENT_ERROR, Reason.NO_RESULT, Reason.PLUGIN_ERROR})

_STOP_MESSAGES: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.CANCELLED: "cancelled",
        Reason.ENGINE_CLOSED: "the engine was closed",
        Reason.TIMED_OUT: "ran longer than its timeout",
        Reason.IDLE: "wrote nothing for longer than its idle timeout",
        Reason.OUTPUT_LIMIT: "wrote more than its output limit",
        Reason.HOST_LOST: "its host process died",
    }
)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

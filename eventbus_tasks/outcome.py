"""How a task ended: status, reason, and everything that is fixed with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

__all__ = [
    "REASON_STATUS",
    "Outcome",
    "ProcessExit",
    "Reason",
    "Survivor",
    "TaskStatus",
    "Verdict",
]


class TaskStatus(StrEnum):
    """Where a task is in its life. Only the last three are ends."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self in _TERMINAL


_TERMINAL: Final = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class Reason(StrEnum):
    """Why a task ended. `REASON_STATUS` says what each means for the status."""

    EXITED = "exited"
    CANCELLED = "cancelled"
    ENGINE_CLOSED = "engine_closed"
    EXIT_CODE = "exit_code"
    SIGNALLED = "signalled"
    SPAWN_FAILED = "spawn_failed"
    TIMED_OUT = "timed_out"
    IDLE = "idle"
    OUTPUT_LIMIT = "output_limit"
    AGENT_ERROR = "agent_error"
    NO_RESULT = "no_result"
    PLUGIN_ERROR = "plugin_error"
    UNKILLABLE = "unkillable"
    GUARDIAN_LOST = "guardian_lost"
    HOST_LOST = "host_lost"

    @property
    def status(self) -> TaskStatus:
        """The status that a task with this reason has."""
        return REASON_STATUS[self]


REASON_STATUS: Final[Mapping[Reason, TaskStatus]] = MappingProxyType(
    {
        Reason.EXITED: TaskStatus.COMPLETED,
        Reason.CANCELLED: TaskStatus.CANCELLED,
        Reason.ENGINE_CLOSED: TaskStatus.CANCELLED,
        Reason.EXIT_CODE: TaskStatus.FAILED,
        Reason.SIGNALLED: TaskStatus.FAILED,
        Reason.SPAWN_FAILED: TaskStatus.FAILED,
        Reason.TIMED_OUT: TaskStatus.FAILED,
        Reason.IDLE: TaskStatus.FAILED,
        Reason.OUTPUT_LIMIT: TaskStatus.FAILED,
        Reason.AGENT_ERROR: TaskStatus.FAILED,
        Reason.NO_RESULT: TaskStatus.FAILED,
        Reason.PLUGIN_ERROR: TaskStatus.FAILED,
        Reason.UNKILLABLE: TaskStatus.FAILED,
        Reason.GUARDIAN_LOST: TaskStatus.FAILED,
        Reason.HOST_LOST: TaskStatus.FAILED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """A process that outlived its task, because a policy keeps it or nothing can end it.

    Attributes:
        pid: Its number; together with `start_time` it names one process for ever.
        start_time: Clock ticks between the start of the system and that of the process.
        command: Its command line, shortened.
    """

    pid: int
    start_time: int
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExit:
    """What the kernel said about the end of the process that was started.

    Attributes:
        return_code: Exit status, or the negative number of the signal that ended it.
    """

    return_code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an interpreter makes of a finished run, from the agent's own protocol.

    Attributes:
        reason: `Reason.EXITED` for success, or why it failed.
        message: One readable sentence for a failure.
        result: The agent's answer, where there is one.
    """

    reason: Reason
    message: str = ""
    result: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a task, fixed once.

    Attributes:
        reason: Why it ended.
        message: One readable sentence; empty for a plain success.
        return_code: Exit status of the process, or the negative number of the signal that ended
            it, or ``None`` where no process was started or its status is unknown.
        result: The agent's answer, where there is one.
        survivors: Processes of the task that are still alive.
        persist_error: What could not be written to disk, or ``None``.
        output_bytes: Bytes written to each stream, those lost included.
        lost_bytes: Bytes of each stream that could not be kept.
    """

    reason: Reason
    message: str = ""
    return_code: int | None = None
    result: str | None = None
    survivors: tuple[Survivor, ...] = ()
    persist_error: str | None = None
    output_bytes: Mapping[str, int] = field(default_factory=dict, hash=False)
    lost_bytes: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def status(self) -> TaskStatus:
        """COMPLETED, FAILED or CANCELLED, as `REASON_STATUS` says for the reason."""
        return REASON_STATUS[self.reason]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "status": self.status.value,
            "reason": self.reason.value,
            "message": self.message,
            "return_code": self.return_code,
            "result": self.result,
            "survivors": [
                {"pid": s.pid, "start_time": s.start_time, "command": s.command}
                for s in self.survivors
            ],
            "persist_error": self.persist_error,
            "output_bytes": dict(self.output_bytes),
            "lost_bytes": dict(self.lost_bytes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """Rebuild an outcome from `to_dict`.

        Raises:
            KeyError: The reason is missing.
            ValueError: The reason is unknown.
        """
        return cls(
            reason=Reason(data["reason"]),
            message=data.get("message", ""),
            return_code=data.get("return_code"),
            result=data.get("result"),
            survivors=tuple(Survivor(**item) for item in data.get("survivors", ())),
            persist_error=data.get("persist_error"),
            output_bytes=dict(data.get("output_bytes", {})),
            lost_bytes=dict(data.get("lost_bytes", {})),
        )

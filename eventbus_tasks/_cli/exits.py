"""Exit codes of ``ebt``: what each end of a task, and each refusal, becomes for a shell."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from eventbus_tasks import (
    EventbusTasksError,
    ProjectBusyError,
    Reason,
    ResourceError,
    SessionBusyError,
)

if TYPE_CHECKING:
    from eventbus_tasks import Outcome, Task

__all__ = [
    "BUSY",
    "FAILED",
    "INTERNAL",
    "OUTPUT_CLOSED",
    "OUTPUT_ERROR",
    "TABLE",
    "TIMED_OUT",
    "USAGE",
    "code_of_end",
    "code_of_error",
    "code_of_outcome",
    "names_missing_program",
]

FAILED: Final = 1
USAGE: Final = 2
INTERNAL: Final = 70  # EX_SOFTWARE
OUTPUT_ERROR: Final = 74  # EX_IOERR
BUSY: Final = 75  # EX_TEMPFAIL
TIMED_OUT: Final = 124  # as timeout(1) has it
NOT_CARRIED_OUT: Final = 125  # as env(1) and timeout(1) say that they themselves have failed
NOT_EXECUTABLE: Final = 126  # as shells have it
NOT_FOUND: Final = 127
OUTPUT_CLOSED: Final = 128 + signal.SIGPIPE

TABLE: Final = """\
exit status:
  N    what the command exited with; 128+N if signal N ended it
  1    the agent failed
  2    refused: wrong usage, request or settings; nothing was started
  74   its output could not be written (disk full)
  75   another task works in the directory or session, or the system has no room: try again later
  124  timeout, or idle for too long
  125  stopped by a limit, or by a failure of eventbus-tasks or a plugin
  126  the program cannot be executed, or the directory not entered
  127  the program was not found
  130  stopped by Ctrl-C (143: SIGTERM, 129: SIGHUP)
  141  whoever read the output has gone away (as in: ebt run -- yes | head)
"""

_SESSION_TAKEN: Final = "another task works in the session"
"""How the message of such a refusal begins: see `SessionBusyError`."""

_BY_REASON: Final[Mapping[Reason, int]] = MappingProxyType(
    {
        Reason.EXITED: 0,
        Reason.TIMED_OUT: TIMED_OUT,
        Reason.IDLE: TIMED_OUT,
        Reason.AGENT_ERROR: FAILED,
        Reason.NO_RESULT: FAILED,
        Reason.OUTPUT_LIMIT: NOT_CARRIED_OUT,
        Reason.PLUGIN_ERROR: NOT_CARRIED_OUT,
        Reason.UNKILLABLE: NOT_CARRIED_OUT,
        Reason.GUARDIAN_LOST: NOT_CARRIED_OUT,
        Reason.HOST_LOST: NOT_CARRIED_OUT,
    }
)


def code_of_outcome(task: Task, outcome: Outcome, *, stopped_by: int | None) -> int:
    """Return the exit code for the end of a task.

    Args:
        task: What has ended.
        outcome: How it ended.
        stopped_by: The signal on which the task was stopped, if so.
    """
    if outcome.reason is Reason.CANCELLED or outcome.reason is Reason.ENGINE_CLOSED:
        return 128 + (stopped_by or signal.SIGTERM)
    return code_of_end(task.agent, outcome)


def code_of_end(agent: str, outcome: Outcome) -> int:
    """Return the exit code for the end of a task that another program runs.

    Exit codes of agents say little (one of them exits with the HTTP status, modulo 256), so
    only those of plain commands are passed on.

    Args:
        agent: Its agent.
        outcome: How it ended.
    """
    match outcome.reason:
        case Reason.CANCELLED | Reason.ENGINE_CLOSED:
            return 128 + signal.SIGTERM
        case Reason.EXIT_CODE:
            return outcome.return_code or FAILED if agent == "command" else FAILED
        case Reason.SIGNALLED:
            return 128 + abs(outcome.return_code or 0)
        case Reason.SPAWN_FAILED if _is_busy(outcome):
            return BUSY
        case Reason.SPAWN_FAILED:
            return NOT_FOUND if names_missing_program(outcome) else NOT_EXECUTABLE
    return _BY_REASON[outcome.reason]


def names_missing_program(outcome: Outcome) -> bool:
    """Whether a task could not be started because there is no such program, by its message."""
    return outcome.reason is Reason.SPAWN_FAILED and "there is no program" in outcome.message


def _is_busy(outcome: Outcome) -> bool:
    """Whether a task found its session taken when its turn came: later it may not be."""
    return outcome.message.startswith(_SESSION_TAKEN)


def code_of_error(error: EventbusTasksError) -> int:
    """Return the exit code for a refusal."""
    busy = isinstance(error, (ProjectBusyError, ResourceError, SessionBusyError))
    return BUSY if busy else USAGE

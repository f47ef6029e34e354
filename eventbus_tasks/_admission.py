"""What an engine checks before it accepts anything, and a request on its way."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import anyio

from eventbus_tasks._threads import DeadlineExceededError
from eventbus_tasks.errors import (
    EventbusTasksError,
    InvalidRequestError,
    ResourceError,
    UnsupportedPlatformError,
)

if TYPE_CHECKING:
    from eventbus_tasks._runner import TaskRun
    from eventbus_tasks.request import TaskRequest
    from eventbus_tasks.task import Task

__all__ = ["Admission", "check_id", "check_platform", "refusal"]

_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))
"""What the kernel answers when nothing is left of what everybody needs."""


class Admission:
    """A request on its way to being accepted or refused."""

    def __init__(self, request: TaskRequest | None) -> None:
        self.request = request
        self.decided = anyio.Event()
        self.abandoned = False
        self.error: Exception | None = None
        self.run: TaskRun | None = None

    def task(self) -> Task:
        """Return the accepted task, once it is decided, or raise why there is none."""
        if self.error is not None:
            raise self.error
        assert self.run is not None
        return self.run.task


def refusal(error: Exception, request: TaskRequest | None) -> Exception:
    """Return the error of ours that says why a request was not accepted.

    Args:
        error: What was raised.
        request: What was asked for, if it was for a new task.
    """
    cause = error
    if isinstance(error, EventbusTasksError):
        reason = error.__cause__
        if not isinstance(reason, OSError) or reason.errno not in _EXHAUSTED:
            return error
        cause = reason  # no file of settings is wrong because there was no descriptor to read it
    made: EventbusTasksError
    if isinstance(cause, DeadlineExceededError):
        made = ResourceError(errno.ETIMEDOUT, f"a disk {cause}")
    elif isinstance(cause, MemoryError):
        made = ResourceError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    elif not isinstance(cause, OSError):
        return error
    elif request is not None and cause.filename == os.path.abspath(request.project_dir):
        made = InvalidRequestError("project_dir", f"cannot be used: {cause}")
    else:
        made = ResourceError(cause.errno or errno.EIO, str(cause))
    made.__cause__ = cause
    return made


def check_id(answer: Any) -> None:
    """Refuse what is no number of a task."""
    if not isinstance(answer, int) or isinstance(answer, bool) or answer < 1:
        raise InvalidRequestError("ebt_next_task_id", f"must return a number >= 1, not {answer!r}")


def check_platform() -> None:
    """Refuse a system that lacks what the promises stand on."""
    missing = [
        name
        for module, name in ((os, "pidfd_open"), (os, "eventfd"), (os, "splice"))
        if not hasattr(module, name)
    ]
    if sys.platform != "linux" or missing:
        raise UnsupportedPlatformError(
            "eventbus-tasks runs on Linux (5.3 or newer) only, until another system can keep "
            f"its promises; here: {sys.platform}, missing: {', '.join(missing) or 'nothing'}"
        )

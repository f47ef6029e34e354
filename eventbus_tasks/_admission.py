"""What an engine checks before it accepts anything, and a request on its way."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import anyio

from eventbus_tasks.errors import InvalidRequestError, UnsupportedPlatformError

if TYPE_CHECKING:
    from eventbus_tasks._runner import TaskRun
    from eventbus_tasks.request import TaskRequest

__all__ = ["Admission", "check_id", "check_platform"]


class Admission:
    """A request on its way to being accepted or refused."""

    def __init__(self, request: TaskRequest | None) -> None:
        self.request = request
        self.decided = anyio.Event()
        self.abandoned = False
        self.error: Exception | None = None
        self.run: TaskRun | None = None


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

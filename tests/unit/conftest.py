"""Buses without an engine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import anyio

from eventbus_tasks import TaskEvent, TaskRef

REF = TaskRef(id=1, uid="u-1", name="one", agent="command", project_dir="/p")
OTHER = TaskRef(id=2, uid="u-2", name="two", agent="command", project_dir="/q")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

GUARD = 10.0
"""Seconds after which a test is taken for stuck; nothing is ever measured by it."""

E = TypeVar("E", bound=TaskEvent)


def stamped(event: E, seq: int = 1, task: TaskRef = REF) -> E:
    """Return an event that belongs to a task."""
    return event.stamp(task, seq, NOW)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true that no event tells."""
    with anyio.fail_after(GUARD):
        while True:
            if condition():
                return
            await anyio.sleep(0.002)

"""One short sentence for each end of a task, for ears and notifications."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus_tasks.events import (
    AgentInputRequired,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
)
from eventbus_tasks.hookspecs import hookimpl

if TYPE_CHECKING:
    from eventbus_tasks.events import TaskEvent


@hookimpl(trylast=True)
def ebt_describe(event: TaskEvent) -> str | None:
    """Name the task and what became of it; never a number or a path."""
    name = event.task.name
    match event:
        case TaskStarted():
            return f"{name} has started"
        case TaskCompleted():
            return f"{name} is done"
        case TaskCancelled():
            return f"{name} was cancelled"
        case TaskFailed():
            message = event.outcome.message.splitlines()
            return f"{name} failed: {message[0]}" if message else f"{name} failed"
        case AgentInputRequired():
            return f"{name} needs you"
    return None

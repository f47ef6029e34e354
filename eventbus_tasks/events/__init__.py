"""Every event: typed, frozen, serialisable; and the registry of their wire names.

An event tells what has happened. It carries no live object, so it can be kept, compared, sent
elsewhere and read back: ``event_from_dict(event.to_dict()) == event``.
"""

from __future__ import annotations

from eventbus_tasks.events.agent import (
    AgentActivity,
    AgentEventUnknown,
    AgentInputAnswered,
    AgentInputRequired,
    AgentMessage,
    AgentOption,
    AgentResult,
    AgentRetry,
    AgentSession,
    AgentToolFinished,
    AgentToolStarted,
    AgentUsage,
)
from eventbus_tasks.events.base import (
    EVENT_TYPES,
    OutputSource,
    TaskEvent,
    event_from_dict,
    register_event,
)
from eventbus_tasks.events.life import (
    HandlerFailed,
    OutputDropped,
    OutputLine,
    OutputReceived,
    SignalSent,
    TaskAccepted,
    TaskCancelled,
    TaskCompleted,
    TaskEnded,
    TaskFailed,
    TaskQueued,
    TaskReattached,
    TaskRemoved,
    TaskStarted,
    TaskStopping,
)

__all__ = [
    "EVENT_TYPES",
    "AgentActivity",
    "AgentEventUnknown",
    "AgentInputAnswered",
    "AgentInputRequired",
    "AgentMessage",
    "AgentOption",
    "AgentResult",
    "AgentRetry",
    "AgentSession",
    "AgentToolFinished",
    "AgentToolStarted",
    "AgentUsage",
    "HandlerFailed",
    "OutputDropped",
    "OutputLine",
    "OutputReceived",
    "OutputSource",
    "SignalSent",
    "TaskAccepted",
    "TaskCancelled",
    "TaskCompleted",
    "TaskEnded",
    "TaskEvent",
    "TaskFailed",
    "TaskQueued",
    "TaskReattached",
    "TaskRemoved",
    "TaskStarted",
    "TaskStopping",
    "event_from_dict",
    "register_event",
]

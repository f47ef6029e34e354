"""Run coding agents and other long work in the background, and trust their end.

The face of the package: everything here is public and documented; everything else may change.
"""

from __future__ import annotations

from eventbus_tasks.engine import TaskEngine
from eventbus_tasks.errors import (
    EngineClosedError,
    EventbusTasksError,
    InvalidRequestError,
    OutputUnavailableError,
    PluginError,
    ProjectBusyError,
    SettingsError,
    TaskActiveError,
    TaskNotFoundError,
    UnknownAgentError,
    UnsupportedPlatformError,
)
from eventbus_tasks.events import (
    EVENT_TYPES,
    AgentActivity,
    AgentEventUnknown,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    AgentRetry,
    AgentSession,
    AgentToolFinished,
    AgentToolStarted,
    AgentUsage,
    HandlerFailed,
    OutputDropped,
    OutputLine,
    OutputReceived,
    OutputSource,
    SignalSent,
    TaskAccepted,
    TaskCancelled,
    TaskCompleted,
    TaskEnded,
    TaskEvent,
    TaskFailed,
    TaskRemoved,
    TaskStarted,
    TaskStopping,
    event_from_dict,
    register_event,
)
from eventbus_tasks.hookspecs import hookimpl
from eventbus_tasks.lines import LineSplitter, decode_line
from eventbus_tasks.manager import ClaudeTask, TaskManager
from eventbus_tasks.outcome import (
    REASON_STATUS,
    Outcome,
    ProcessExit,
    Reason,
    Survivor,
    TaskStatus,
    Verdict,
)
from eventbus_tasks.output import TaskOutput
from eventbus_tasks.plugins import CommandContribution, PluginHost, PluginReport
from eventbus_tasks.policies import (
    DurableJournal,
    Journal,
    LogFiles,
    OutputInterpreter,
    OutputStore,
    Step,
    Stream,
    TerminationPolicy,
)
from eventbus_tasks.request import Command, TaskRef, TaskRequest
from eventbus_tasks.running import RunningTask, TaskRecord, find_running_tasks
from eventbus_tasks.settings import Settings
from eventbus_tasks.signals import EventSignal, EventStream, Subscription, TaskSignals
from eventbus_tasks.task import Task
from eventbus_tasks.text import terminal_safe

__version__ = "0.1.0"

__all__ = [
    "EVENT_TYPES",
    "REASON_STATUS",
    "AgentActivity",
    "AgentEventUnknown",
    "AgentInputRequired",
    "AgentMessage",
    "AgentResult",
    "AgentRetry",
    "AgentSession",
    "AgentToolFinished",
    "AgentToolStarted",
    "AgentUsage",
    "ClaudeTask",
    "Command",
    "CommandContribution",
    "DurableJournal",
    "EngineClosedError",
    "EventSignal",
    "EventStream",
    "EventbusTasksError",
    "HandlerFailed",
    "InvalidRequestError",
    "Journal",
    "LineSplitter",
    "LogFiles",
    "Outcome",
    "OutputDropped",
    "OutputInterpreter",
    "OutputLine",
    "OutputReceived",
    "OutputSource",
    "OutputStore",
    "OutputUnavailableError",
    "PluginError",
    "PluginHost",
    "PluginReport",
    "ProcessExit",
    "ProjectBusyError",
    "Reason",
    "RunningTask",
    "Settings",
    "SettingsError",
    "SignalSent",
    "Step",
    "Stream",
    "Subscription",
    "Survivor",
    "Task",
    "TaskAccepted",
    "TaskActiveError",
    "TaskCancelled",
    "TaskCompleted",
    "TaskEnded",
    "TaskEngine",
    "TaskEvent",
    "TaskFailed",
    "TaskManager",
    "TaskNotFoundError",
    "TaskOutput",
    "TaskRecord",
    "TaskRef",
    "TaskRemoved",
    "TaskRequest",
    "TaskSignals",
    "TaskStarted",
    "TaskStatus",
    "TaskStopping",
    "TerminationPolicy",
    "UnknownAgentError",
    "UnsupportedPlatformError",
    "Verdict",
    "decode_line",
    "event_from_dict",
    "find_running_tasks",
    "hookimpl",
    "register_event",
    "terminal_safe",
]

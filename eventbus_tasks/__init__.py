"""Run coding agents and other long work in the background, and trust their end.

The face of the package: everything here is public and documented; everything else may change.
"""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from eventbus_tasks.conversation import (
        AgentAnswer,
        Allow,
        Answer,
        ConversationInterpreter,
        Deny,
        Send,
        Withdraw,
    )
    from eventbus_tasks.doctor import (
        Finding,
        FindingState,
        Leftover,
        diagnose,
        end_leftovers,
        find_leftovers,
    )
    from eventbus_tasks.engine import TaskEngine
    from eventbus_tasks.errors import (
        EngineClosedError,
        EventbusTasksError,
        HistoryUnavailableError,
        InputClosedError,
        InvalidRequestError,
        OutputUnavailableError,
        PluginError,
        ProjectBusyError,
        ReattachError,
        RequestClosedError,
        ResourceError,
        SessionBusyError,
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
        TaskQueued,
        TaskReattached,
        TaskRemoved,
        TaskStarted,
        TaskStopping,
        event_from_dict,
        register_event,
    )
    from eventbus_tasks.hookspecs import hookimpl
    from eventbus_tasks.lines import LineSplitter, LogLine, decode_line
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
        ReadableJournal,
        ReopenedJournal,
        Step,
        Stream,
        TerminationPolicy,
        WhenBusy,
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
    "AgentAnswer",
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
    "Allow",
    "Answer",
    "ClaudeTask",
    "Command",
    "CommandContribution",
    "ConversationInterpreter",
    "Deny",
    "DurableJournal",
    "EngineClosedError",
    "EventSignal",
    "EventStream",
    "EventbusTasksError",
    "Finding",
    "FindingState",
    "HandlerFailed",
    "HistoryUnavailableError",
    "InputClosedError",
    "InvalidRequestError",
    "Journal",
    "Leftover",
    "LineSplitter",
    "LogFiles",
    "LogLine",
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
    "ReadableJournal",
    "Reason",
    "ReattachError",
    "ReopenedJournal",
    "RequestClosedError",
    "ResourceError",
    "RunningTask",
    "Send",
    "SessionBusyError",
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
    "TaskQueued",
    "TaskReattached",
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
    "WhenBusy",
    "Withdraw",
    "decode_line",
    "diagnose",
    "end_leftovers",
    "event_from_dict",
    "find_leftovers",
    "find_running_tasks",
    "hookimpl",
    "register_event",
    "terminal_safe",
]

# What a name needs is imported when the name is used for the first time: a command that only
# reads files should not wait for an event loop to be imported.
_MODULES: typing.Final[dict[str, tuple[str, ...]]] = {
    "conversation": (
        "AgentAnswer",
        "Allow",
        "Answer",
        "ConversationInterpreter",
        "Deny",
        "Send",
        "Withdraw",
    ),
    "doctor": (
        "Finding",
        "FindingState",
        "Leftover",
        "diagnose",
        "end_leftovers",
        "find_leftovers",
    ),
    "engine": ("TaskEngine",),
    "errors": (
        "EngineClosedError",
        "EventbusTasksError",
        "HistoryUnavailableError",
        "InputClosedError",
        "InvalidRequestError",
        "OutputUnavailableError",
        "PluginError",
        "ProjectBusyError",
        "ReattachError",
        "RequestClosedError",
        "ResourceError",
        "SessionBusyError",
        "SettingsError",
        "TaskActiveError",
        "TaskNotFoundError",
        "UnknownAgentError",
        "UnsupportedPlatformError",
    ),
    "events": (
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
    ),
    "hookspecs": ("hookimpl",),
    "lines": (
        "LineSplitter",
        "LogLine",
        "decode_line",
    ),
    "manager": (
        "ClaudeTask",
        "TaskManager",
    ),
    "outcome": (
        "REASON_STATUS",
        "Outcome",
        "ProcessExit",
        "Reason",
        "Survivor",
        "TaskStatus",
        "Verdict",
    ),
    "output": ("TaskOutput",),
    "plugins": (
        "CommandContribution",
        "PluginHost",
        "PluginReport",
    ),
    "policies": (
        "DurableJournal",
        "Journal",
        "LogFiles",
        "OutputInterpreter",
        "OutputStore",
        "ReadableJournal",
        "ReopenedJournal",
        "Step",
        "Stream",
        "TerminationPolicy",
        "WhenBusy",
    ),
    "request": (
        "Command",
        "TaskRef",
        "TaskRequest",
    ),
    "running": (
        "RunningTask",
        "TaskRecord",
        "find_running_tasks",
    ),
    "settings": ("Settings",),
    "signals": (
        "EventSignal",
        "EventStream",
        "Subscription",
        "TaskSignals",
    ),
    "task": ("Task",),
    "text": ("terminal_safe",),
}
_HOMES: typing.Final[dict[str, str]] = {
    name: module for module, names in _MODULES.items() for name in names
}


def __getattr__(name: str) -> typing.Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

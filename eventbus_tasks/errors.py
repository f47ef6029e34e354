"""Every exception of eventbus-tasks.

The tree::

    EventbusTasksError
    ├── InvalidRequestError (ValueError)        what was asked cannot be carried out
    ├── UnknownAgentError (LookupError)         no installed plugin drives this agent
    ├── ProjectBusyError                        another task works in that directory
    ├── EngineClosedError (RuntimeError)        the engine is not running (any more)
    ├── TaskNotFoundError (LookupError)         no such task
    ├── TaskActiveError                         the task must have ended first
    ├── HistoryUnavailableError                 earlier events cannot be read
    ├── InputClosedError                        the standard input of a task takes nothing
    ├── RequestClosedError                      a request of an agent cannot be answered (any more)
    ├── SessionBusyError                        another task works in that session of an agent
    ├── ReattachError                           the task has a host, or cannot be taken over
    ├── OutputUnavailableError                  the bytes are not within reach
    ├── SettingsError (ValueError)              a settings file, variable or argument is wrong
    ├── ResourceError                           the system has no descriptors, memory, … left
    ├── UnsupportedPlatformError                this operating system is not supported
    └── PluginError                             a plugin is broken

All of them are raised *before* a task is accepted, or by look-ups. After acceptance nothing
raises: what goes wrong is the reason in the task's outcome.

Each error keeps its facts as attributes and survives pickling.
"""

from __future__ import annotations

from typing import Any

__all__ = [
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
]


class EventbusTasksError(Exception):
    """Base of every exception that this package raises on purpose."""


class InvalidRequestError(EventbusTasksError, ValueError):
    """The request cannot be carried out as it is; nothing was started.

    Attributes:
        field: The field of the request that is wrong.
        problem: What is wrong with it, and what to do.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class InputClosedError(EventbusTasksError):
    """The standard input of a task takes nothing (any more); what was sent before may be unread.

    Attributes:
        why: Why not.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the standard input of the task is not open: {self.why}"


class SessionBusyError(EventbusTasksError):
    """Another task, of any program of this user, works in the session of an agent.

    Attributes:
        agent: The agent.
        session_id: The session that was asked for.
        holder: What is known about the task that works in it (``task``, ``uid``, ``name``,
            ``project_dir``, ``host_pid``); may be empty.
    """

    def __init__(self, agent: str, session_id: str, holder: dict[str, Any] | None = None) -> None:
        super().__init__(agent, session_id, holder)
        self.agent = agent
        self.session_id = session_id
        self.holder: dict[str, Any] = dict(holder or {})

    def __str__(self) -> str:
        text = f"another task works in the session {self.session_id!r} of {self.agent}"
        if self.holder:
            name, number = self.holder.get("name"), self.holder.get("task")
            text += f": task {number} {name!r} of process {self.holder.get('host_pid')}"
        return text + "; wait for it, cancel it, or give it its next prompt"


class RequestClosedError(EventbusTasksError):
    """What an agent has asked cannot be answered (any more); the agent was told nothing.

    Attributes:
        request_id: The agent's name for the request.
        why: Why not.
    """

    def __init__(self, request_id: str, why: str) -> None:
        super().__init__(request_id, why)
        self.request_id = request_id
        self.why = why

    def __str__(self) -> str:
        return f"the request {self.request_id!r} is not open: {self.why}"


class UnknownAgentError(EventbusTasksError, LookupError):
    """No installed plugin knows how to drive the agent.

    Attributes:
        agent: The name that was asked for.
        known: The names that are known, sorted.
    """

    def __init__(self, agent: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(agent, known)
        self.agent = agent
        self.known = known

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return (
            f"no plugin drives the agent {self.agent!r} (known: {known}); "
            f"install one, for example: ebt plugins install eventbus-tasks-{self.agent}"
        )


class ProjectBusyError(EventbusTasksError):
    """Another task already works in the project directory; nothing was started.

    Attributes:
        project_dir: The directory that was asked for.
        holder: What is known about the task that holds it (``task``, ``name``, ``pid`` …); may
            be empty, because the holder is named by an advisory file.
    """

    def __init__(self, project_dir: str, holder: dict[str, Any] | None = None) -> None:
        super().__init__(project_dir, holder)
        self.project_dir = project_dir
        self.holder: dict[str, Any] = dict(holder or {})

    def __str__(self) -> str:
        text = f"another task works in {self.project_dir!r}"
        if self.holder:
            name, number = self.holder.get("name"), self.holder.get("task")
            text += f": task {number} {name!r} of process {self.holder.get('host_pid')}"
        return text + "; wait for it or cancel it"


class EngineClosedError(EventbusTasksError, RuntimeError):
    """The engine is not running: it was not entered yet, is closing, or has closed."""

    def __init__(self, problem: str = "the engine is not running") -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class TaskNotFoundError(EventbusTasksError, LookupError):
    """There is no task with that number.

    Attributes:
        task_id: The number that was asked for.
    """

    def __init__(self, task_id: int | str) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return f"there is no task {self.task_id!r}"


class TaskActiveError(EventbusTasksError):
    """The task has not ended, and what was asked needs an ended one.

    Attributes:
        task_id: The number of the task.
        status: Its status at that time.
    """

    def __init__(self, task_id: int, status: str) -> None:
        super().__init__(task_id, status)
        self.task_id = task_id
        self.status = status

    def __str__(self) -> str:
        return f"task {self.task_id} is {self.status}; cancel it or wait for its end first"


class HistoryUnavailableError(EventbusTasksError):
    """Earlier events of a task are neither remembered nor in a journal that can be read.

    Attributes:
        problem: Why not.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class ReattachError(EventbusTasksError):
    """A task that runs cannot be taken over.

    Attributes:
        uid: Its UUID.
        problem: Why not: most of all, because its host lives.
    """

    def __init__(self, uid: str, problem: str) -> None:
        super().__init__(uid, problem)
        self.uid = uid
        self.problem = problem

    def __str__(self) -> str:
        return f"the task {self.uid} cannot be taken over: {self.problem}"


class OutputUnavailableError(EventbusTasksError):
    """The output of an event or task is not within reach (any more).

    Attributes:
        problem: Why not.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class SettingsError(EventbusTasksError, ValueError):
    """A setting is wrong.

    Attributes:
        source: The file, environment variable or argument that it came from.
        key: The key, dotted.
        problem: What is wrong with it, and what to do.
    """

    def __init__(self, source: str, key: str, problem: str) -> None:
        super().__init__(source, key, problem)
        self.source = source
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.source}: {self.key}: {self.problem}"


class ResourceError(EventbusTasksError):
    """The system refuses what is needed to accept a task: descriptors, threads, memory, a disk.

    Nothing was started and nothing is left; the same request can succeed later.

    Attributes:
        errno: The number of the error, such as ``errno.EMFILE``; ``errno.ETIMEDOUT`` when a disk
            did not answer in time.
        problem: What was refused, in words.
    """

    def __init__(self, errno: int, problem: str) -> None:
        super().__init__(errno, problem)
        self.errno = errno
        self.problem = problem

    def __str__(self) -> str:
        return f"no task can be accepted: {self.problem}"


class UnsupportedPlatformError(EventbusTasksError):
    """This operating system lacks what the promises stand on.

    Attributes:
        problem: What is missing.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class PluginError(EventbusTasksError):
    """A plugin is broken.

    Attributes:
        plugin: Its name (of the entry point, or given at registration).
        problem: What is wrong with it.
    """

    def __init__(self, plugin: str, problem: str) -> None:
        super().__init__(plugin, problem)
        self.plugin = plugin
        self.problem = problem

    def __str__(self) -> str:
        return f"plugin {self.plugin!r}: {self.problem}"

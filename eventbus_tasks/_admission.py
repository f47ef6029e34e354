"""What an engine checks before it accepts anything, and a request on its way."""

from __future__ import annotations

import errno
import functools
import os
import sys
import uuid
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import anyio

from eventbus_tasks._process.lock import Busy, ProjectLock
from eventbus_tasks._process.queue import Ticket, enter_or_queue, enter_or_refuse
from eventbus_tasks._threads import DeadlineExceededError
from eventbus_tasks._turns import close_entry
from eventbus_tasks.errors import (
    EventbusTasksError,
    InvalidRequestError,
    ProjectBusyError,
    ResourceError,
    UnknownAgentError,
    UnsupportedPlatformError,
)
from eventbus_tasks.request import TaskRef
from eventbus_tasks.settings import Settings

if TYPE_CHECKING:
    from eventbus_tasks._runner import TaskRun
    from eventbus_tasks.plugins import Failure, PluginHost
    from eventbus_tasks.request import TaskRequest
    from eventbus_tasks.task import Task

__all__ = [
    "Admission",
    "Entrance",
    "check_id",
    "check_platform",
    "enter",
    "examine",
    "refusal",
    "session_to_resume",
]

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


def session_to_resume(resume: Task | str | None, agent: str | None) -> tuple[str | None, str]:
    """Return the agent, and its session to go on with; ``""`` for a new one.

    Raises:
        InvalidRequestError: The task is another agent's, or has no session yet.
    """
    if resume is None or isinstance(resume, str):
        return agent, resume or ""
    if agent not in (None, resume.agent):
        problem = f"task {resume.id} has worked with the agent {resume.agent!r}, not {agent!r}"
        raise InvalidRequestError("resume", problem)
    if not resume.session_id:
        raise InvalidRequestError("resume", f"task {resume.id} has told no session")
    return resume.agent, resume.session_id


def examine(
    request: TaskRequest, plugins: PluginHost, settings: Settings
) -> tuple[TaskRequest, Settings]:
    """Check a request and read its project's settings; in a worker thread, for it reads files.

    Args:
        request: What was asked for.
        plugins: The plugins of the engine.
        settings: The settings of the engine: what they decide stays decided.

    Raises:
        InvalidRequestError: It cannot be carried out.
        SettingsError: The project's own settings are wrong.
        UnknownAgentError: No plugin drives the agent.
    """
    request = request.validate()
    project = Settings.load(request.project_dir, tables=plugins.tables)
    if not request.agent:
        request = replace(request, agent=project.agent).validate()
    if request.agent not in plugins.agents:
        raise UnknownAgentError(request.agent, tuple(sorted(plugins.agents)))
    return _with_session(request, plugins.resuming), project.pinned(settings)


def _with_session(request: TaskRequest, resuming: Container[str]) -> TaskRequest:
    """Have the session to go on with in the request, and in the options of the plugin."""
    if request.agent not in resuming:
        if request.resume:
            problem = f"the agent {request.agent!r} cannot go on with a session"
            raise InvalidRequestError("resume", problem)
        return request
    option = request.options.get("resume")
    if request.resume and option not in (None, request.resume):
        raise InvalidRequestError("resume", f"options name another session: {option!r}")
    session = request.resume or option
    if not session or not isinstance(session, str):
        return request  # what is wrong with an option, its plugin says
    return replace(request, resume=session, options={**request.options, "resume": session})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """A request that was accepted, and what it has of its project.

    Attributes:
        ref: Who the task is.
        request: What was asked for, complete.
        settings: Those of its project.
        entry: The lock of the project, a ticket for it, or ``None`` for a task that shares it.
    """

    ref: TaskRef
    request: TaskRequest
    settings: Settings
    entry: ProjectLock | Ticket | None

    def close(self) -> None:
        """Give everything back."""
        close_entry(self.entry)


async def enter(
    request: TaskRequest,
    plugins: PluginHost,
    settings: Settings,
    number: Callable[[int | None], int],
    *,
    failed: Failure,
) -> Entrance:
    """Check a request and take its project, or a ticket for it.

    All of it in one call into a thread, unless a plugin gives out the numbers: that has to be asked
    in between, for nothing that is refused gets a number.

    Args:
        request: What was asked for.
        plugins: The plugins of the engine.
        settings: The settings of the engine.
        number: Makes the number of the task of what a plugin says, or of ``None``; called in any
            thread.
        failed: Gets ``(where, what, overran)`` of a plugin that fails.

    Raises:
        InvalidRequestError: It cannot be carried out.
        SettingsError: The project's own settings are wrong.
        UnknownAgentError: No plugin drives the agent.
        ProjectBusyError: Another task has the project.
        OSError: The project cannot be locked.
    """
    run = functools.partial(plugins.run, deadline=settings.hook_deadline, brief=True)
    check = functools.partial(examine, request, plugins, settings)
    found: Entrance
    if plugins.answers("ebt_next_task_id"):
        request, project = await run(check)
        wanted = await plugins.ask("ebt_next_task_id", {}, failed=failed, check=check_id)
        take = functools.partial(_enter, request, project, settings, number(wanted))
        found = await run(take, undo=Entrance.close)
    else:
        found = await run(lambda: _enter(*check(), settings, number(None)), undo=Entrance.close)
    return found


def _enter(request: TaskRequest, project: Settings, settings: Settings, number: int) -> Entrance:
    ref = TaskRef(
        id=number,
        uid=str(uuid.uuid4()),
        name=request.name,
        agent=request.agent,
        project_dir=str(request.project_dir),
    )
    entry = _enter_project(request, ref, settings)
    return Entrance(ref=ref, request=request, settings=project, entry=entry)


def _enter_project(
    request: TaskRequest, ref: TaskRef, settings: Settings
) -> ProjectLock | Ticket | None:
    when_busy = request.when_busy or settings.when_busy
    if when_busy == "share":
        return None
    holder = {
        "task": ref.id,
        "uid": ref.uid,
        "name": ref.name,
        "agent": ref.agent,
        "host_pid": os.getpid(),
    }
    enter = enter_or_queue if when_busy == "queue" else enter_or_refuse
    entry = enter(request.project_dir, settings.state_dir, holder)
    if isinstance(entry, Busy):
        raise ProjectBusyError(str(request.project_dir), dict(entry.holder or {}))
    return entry

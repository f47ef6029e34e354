"""Every hook. Hooks ask, events tell: there is no hook that is only a notification.

A plugin is a module, or an object, with functions of these names marked by `hookimpl`; it is
found by an entry point of the group ``eventbus_tasks``. All hooks are synchronous: what is
asynchronous lives in the objects that they return. Arguments may be left out.

Hooks that are asked for a task run in a worker thread, under a deadline. One that raises or
overruns is named in a `HandlerFailed` event, and the next plugin is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    import argparse

    from eventbus_tasks.agents import AgentHealth
    from eventbus_tasks.conversation import AgentAnswer
    from eventbus_tasks.engine import TaskEngine
    from eventbus_tasks.events import AgentInputRequired, TaskEvent
    from eventbus_tasks.policies import Journal, OutputStore, ReopenedJournal, TerminationPolicy
    from eventbus_tasks.request import Command
    from eventbus_tasks.running import TaskRecord
    from eventbus_tasks.settings import Settings
    from eventbus_tasks.task import Task

__all__ = ["PROJECT", "hookimpl"]

PROJECT: Final = "eventbus_tasks"
"""Name of the pluggy project and of the entry-point group."""

hookspec: Final[pluggy.HookspecMarker] = pluggy.HookspecMarker(PROJECT)
hookimpl: Final[pluggy.HookimplMarker] = pluggy.HookimplMarker(PROJECT)
"""Marks a function as an implementation of the hook of the same name."""


@hookspec(firstresult=True)
def ebt_build_command(task: Task) -> Command | None:
    """Say what to execute for a task, or ``None`` if its agent is not yours.

    Asked once, while the task is PENDING, in a worker thread. If every builder declines or
    fails, the task fails with the reason ``plugin_error``.
    """


@hookspec(firstresult=True)
def ebt_termination_policy(task: Task) -> TerminationPolicy | None:
    """Say how a task is to be stopped and limited, or ``None`` to leave it to others.

    Asked once, after the command was built, in a worker thread.
    """


@hookspec(firstresult=True)
def ebt_output_log(task: Task) -> OutputStore | None:
    """Say where the bytes of a task are kept, or ``None`` to leave it to others.

    Asked once, before the task starts, in a worker thread. Without an answer the bytes are in
    an unnamed file that vanishes with the task.
    """


@hookspec(firstresult=True)
def ebt_open_journal(task: Task) -> Journal | None:
    """Open the durable record of a task's events, or ``None`` to leave it to others.

    Asked once, before the first event of the task, in a worker thread.
    """


@hookspec(firstresult=True)
def ebt_reopen_journal(task: Task) -> ReopenedJournal | None:
    """Open the record of a task whose host has died, to go on with it, or ``None``.

    Asked when an engine re-attaches to a task, once, in a worker thread. Without an answer the
    story of the task begins anew, with ``ebt_open_journal``; if it fails, nothing is recorded.
    """


@hookspec(firstresult=True)
def ebt_next_task_id() -> int | None:
    """Give out the next task number, larger than all before, or ``None``.

    Asked for each request, in a worker thread. Without an answer the engine counts from 1.
    """


@hookspec(firstresult=True)
def ebt_describe(event: TaskEvent) -> str | None:
    """Say an event in one short sentence, for ears and notifications, or ``None``.

    Asked whenever somebody wants to say it, in the thread of whoever asks: answer from the
    event alone, without waiting for anything.
    """


@hookspec(firstresult=True)
def ebt_answer_agent(task: Task, request: AgentInputRequired) -> AgentAnswer | None:
    """Answer what an agent has asked, by a rule, or ``None`` to leave it to others and to people.

    Asked once for each request of an agent that is talked to, in a worker thread, when everybody
    was told of the request. Whoever is quicker answers: a policy, a program, or the deadline
    (``answer_deadline``) with a denial. ``request.tool`` says what it wants to use, and
    ``request.raw`` has everything that it has said.
    """


@hookspec
def ebt_task_records() -> Iterable[TaskRecord] | None:
    """Say what is known about tasks, ended ones above all, the latest first; any may be left out.

    Asked by commands of ``ebt`` that are given a task which does not run any more. They stop
    reading as soon as they know enough, so yield instead of collecting.
    """


@hookspec(firstresult=True)
def ebt_check_agent(agent: str, settings: Settings) -> AgentHealth | None:
    """Say whether an agent can work on this machine, or ``None`` if it is not yours.

    Asked by ``ebt agents`` and the like, in a thread of its own, at most 30 s. Look for the
    program, its version and a login; never ask a model, which could cost money. See
    `eventbus_tasks.agents.check_program`.
    """


@hookspec
def ebt_engine_started(engine: TaskEngine) -> None:
    """Connect to the signals of an engine, and open what you need.

    Called once for each engine, before its first task, in its thread, on its loop.
    """


@hookspec
def ebt_engine_stopping(engine: TaskEngine) -> None:
    """Close what `ebt_engine_started` opened.

    Called once for each engine, after its last task has ended, in its thread, on its loop.
    """


@hookspec
def ebt_register_agents(register: Callable[..., None]) -> None:
    """Name the agents that your builder drives: ``register(name, description, resumes=False)``.

    With ``resumes=True`` requests may ask to go on with a session: ``request.resume``, which is
    also the option ``resume``. For all others that is refused before a task is accepted.

    Called once for each plugin, when it is loaded. A request for an agent that nobody has
    named is refused.
    """


@hookspec
def ebt_register_commands(
    register: Callable[[str, str, Callable[[argparse.ArgumentParser], Any]], None],
) -> None:
    """Add commands to ``ebt``: ``register(name, help, configure)``.

    ``configure(parser)`` adds arguments and calls ``parser.set_defaults(run=function)``;
    ``function(arguments)`` returns the exit code. Called when the command line is built.

    A command whose distribution also names ``configure`` as an entry point of the group
    ``eventbus_tasks.commands``, under the name of the command, starts faster: then it runs
    without any other plugin being loaded.
    """


@hookspec
def ebt_register_events(register: Callable[[type[TaskEvent]], None]) -> None:
    """Make event classes of your own known, so that they can be read back: ``register(cls)``.

    Called once for each plugin, when it is loaded.
    """


@hookspec
def ebt_register_settings(register: Callable[[str, type], None]) -> None:
    """Declare a table of settings: ``register(table, dataclass)``.

    The fields of the dataclass are the keys, their types are checked, their defaults apply; a
    field with ``metadata={"user_only": True}`` is not honoured in a project's own file. Read
    them with ``task.settings.table(dataclass)``. Called once for each plugin, when it is loaded.
    """

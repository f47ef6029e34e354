"""``ebt run --detach``: a process of its own that stays with the task.

It is forked before anything is loaded, and becomes the host of the task in a session of its own,
without a terminal. So the task has everything that one in the foreground has: its journal, its
readable output, an agent whose answer is understood, receivers of plugins. Its policy is to be
detached should that host die: then it goes on by itself.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio

from eventbus_tasks import (
    EventbusTasksError,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskQueued,
    TaskStarted,
)
from eventbus_tasks._cli.asking import end_after_answer
from eventbus_tasks._cli.exits import INTERNAL, USAGE, code_of_error, code_of_outcome
from eventbus_tasks._cli.messages import say

if TYPE_CHECKING:
    from eventbus_tasks import EventStream, PluginReport, Task
    from eventbus_tasks._cli.run import RunOptions

__all__ = ["run_in_background"]

_KEEPERS: Final = frozenset(("ebt_output_log", "ebt_open_journal"))
"""Hooks of a plugin that keeps what a task writes, and what becomes of it."""

_NOBODY_KEEPS: Final = (
    "--detach needs a plugin that keeps what a task writes, for nobody else reads it: "
    "ebt plugins install eventbus-tasks-disk"
)


def run_in_background(options: RunOptions) -> int:
    """Start a task in a process of its own, and return once it runs; see `RunOptions.detach`.

    Returns:
        0 once it runs, or waits for its turn; otherwise the code of its refusal or failure.
    """
    ours, theirs = os.pipe()
    if not os.fork():
        os.close(ours)
        _be_host(options, theirs)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        data = pipe.read()
    if not data:
        say("the background process has died")
        return INTERNAL
    report = json.loads(data)
    for line in report["messages"]:
        say(line)
    task = report["task"]
    if task is not None:
        print(json.dumps(task, indent=2) if options.json else task["id"])
    return int(report["code"])


def _be_host(options: RunOptions, pipe: int) -> NoReturn:
    """Be the host of the task, in the forked process."""
    code = INTERNAL
    try:
        _leave_terminal(pipe)
        host = _Host(options, pipe)
        anyio.run(host.main, backend=options.backend)
        code = 0
    finally:
        # Nothing that the other process has still to do at its exit may be done twice.
        os._exit(code)


def _leave_terminal(pipe: int) -> None:
    """Let go of everything that belongs to whoever has called us, but for the pipe."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    empty = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(empty, number)
    # A shell waits for the end of $(ebt run --detach …) for as long as somebody has its pipe.
    os.closerange(3, pipe)
    os.closerange(pipe + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)


class _Host:
    """One task, and the pipe to whoever waits for its number."""

    def __init__(self, options: RunOptions, pipe: int) -> None:
        self._options = options
        self._pipe = pipe
        self._told = False

    async def main(self) -> None:
        """Run the task to its end, or until a signal says that it shall end."""
        try:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
                async with anyio.create_task_group() as group:
                    await self._run(received, group)
                    group.cancel_scope.cancel()
        except BaseException as error:
            found = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            refused = isinstance(found, EventbusTasksError)
            self._tell(
                code_of_error(found) if isinstance(found, EventbusTasksError) else INTERNAL,
                *str(found if refused else f"{type(found).__name__}: {found}").split("\n"),
            )
            raise

    async def _run(
        self, received: AsyncIterator[signal.Signals], group: anyio.abc.TaskGroup
    ) -> None:
        options = self._options
        async with TaskEngine() as engine:
            if not any(map(_keeps, engine.plugin_reports())):
                self._tell(USAGE, _NOBODY_KEEPS)
                return
            end_after_answer(engine)
            with engine.subscribe(TaskEvent) as stream:
                task = await engine.spawn_task(
                    options.name,
                    options.prompt,
                    options.directory,
                    agent=options.agent,
                    argv=options.argv,
                    pty_size=options.pty_size,
                    timeout=options.timeout,
                    when_busy=options.when_busy,
                    resume=options.resume,
                    on_host_death="detach",
                    options=options.options,
                )
                group.start_soon(_stop_on_signal, received, task)
                await self._tell_beginning(stream, task)
            await task.wait()

    async def _tell_beginning(self, stream: EventStream[TaskEvent], task: Task) -> None:
        """Tell how it has begun: it runs, it waits, or it could not be started."""
        async for event in stream:
            if event.task.uid != task.uid:
                continue
            if isinstance(event, TaskEnded):  # it never ran
                outcome = event.outcome
                code = code_of_outcome(task, outcome, stopped_by=None)
                self._tell(code, outcome.message or outcome.reason)
                return
            if isinstance(event, (TaskStarted, TaskQueued)):
                kept = task.output.path("stdout")
                notes = [f"{task.name}: runs in the background, as task {task.id}"]
                if isinstance(event, TaskQueued):
                    notes = [f"{task.name}: waits in the background, as task {task.id}"]
                elif kept is None:
                    notes.append("its output is not kept: see ebt show")
                if not self._tell(0, *notes, task=task):
                    # Whoever wanted it has gone before they could learn its number.
                    task.cancel_nowait()
                return

    def _tell(self, code: int, *messages: str, task: Task | None = None) -> bool:
        """Tell whoever waits, once; return whether they heard it."""
        if self._told:
            return True
        self._told = True
        about: dict[str, Any] | None = None
        if task is not None:
            logs = {stream: task.output.path(stream) for stream in task.output.streams}
            about = {**task.ref.to_dict(), "host_pid": os.getpid(), "logs": logs}
        report = {"code": code, "messages": messages, "task": about}
        try:
            with open(self._pipe, "wb") as pipe:
                pipe.write(json.dumps(report).encode())
        except BrokenPipeError:
            return False
        return True


def _keeps(report: PluginReport) -> bool:
    active = report.state == "active" and not report.builtin
    return active and _KEEPERS.issubset(report.hooks)


async def _stop_on_signal(received: AsyncIterator[signal.Signals], task: Task) -> None:
    """End the task politely on the first signal, and at once on the second."""
    now = False
    async for _ in received:
        task.cancel_nowait(now=now)
        now = True

"""Runs the task of one ``ebt run`` and follows it to its end, whatever comes in between."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from eventbus_tasks import (
    EventbusTasksError,
    OutputDropped,
    OutputLine,
    OutputUnavailableError,
    Reason,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskQueued,
    TaskStarted,
    TaskStatus,
)
from eventbus_tasks._cli.asking import Asker, can_ask, end_after_answer
from eventbus_tasks._cli.exits import (
    OUTPUT_CLOSED,
    OUTPUT_ERROR,
    code_of_outcome,
    names_missing_program,
)
from eventbus_tasks._cli.keyboard import Keyboard
from eventbus_tasks._cli.messages import said_by, say
from eventbus_tasks._cli.outlet import Outlet, OutletError
from eventbus_tasks._cli.status import Meter, StatusLine
from eventbus_tasks._cli.terminal import is_styled
from eventbus_tasks._cli.views import AgentView, CommandView, JsonView, View

if TYPE_CHECKING:
    from eventbus_tasks import EventStream, Outcome, Task
    from eventbus_tasks._cli.run import RunOptions

__all__ = ["run_task"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_LAST_WORDS: Final = 1.0
"""Seconds for a reader to take the rest of the output, once the program was told to end."""


def run_task(options: RunOptions) -> int:
    """Run a task until nothing of it is left, and return the exit code.

    Raises:
        EventbusTasksError: The request was refused; nothing was started.
    """
    run = _Run(options)
    try:
        anyio.run(run.main, backend=options.backend)
    except BaseExceptionGroup as group:
        # What went wrong in one of our own tasks; there is no second one to report.
        raise group.exceptions[0] from None
    if run.error is not None:
        raise run.error
    return run.exit_code()


class _Run:
    """One task, its view, and the signals that end it."""

    def __init__(self, options: RunOptions) -> None:
        self.error: EventbusTasksError | None = None
        self._options = options
        self._terminal = os.isatty(1)
        self._signals: list[int] = []
        self._output_error: OSError | None = None
        self._task: Task | None = None
        self._keyboard: Keyboard | None = None
        self._outcome: Outcome | None = None
        self._status: StatusLine | None = None  # of an agent, at a terminal
        self._asker: Asker | None = None

    async def main(self) -> None:
        """Run the task. What is refused is in `error` afterwards."""
        # Signals that were ignored when we were started stay ignored (nohup, a shell's `&`).
        wanted = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._starting = anyio.CancelScope()
        self._showing = anyio.CancelScope()
        self._saying = anyio.CancelScope()
        outlet, errors = Outlet(1), Outlet(2)
        with anyio.open_signal_receiver(*wanted) as received, said_by(errors):
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(self._watch_signals, received, group)
                group.start_soon(self._watch_outlet, outlet)
                try:
                    await self._run(outlet)
                except EventbusTasksError as error:
                    self.error = error
                with self._saying, suppress(OutletError):
                    await errors.flush()
                group.cancel_scope.cancel()
        outlet.close()
        errors.close()

    def exit_code(self) -> int:
        """Return the exit code, once all is over."""
        stopped_by = self._signals[0] if self._signals else None
        if self._output_error is not None:
            broken = self._output_error.errno in (errno.EPIPE, errno.EIO) and stopped_by is None
            if broken:
                return OUTPUT_CLOSED
            if stopped_by is None:
                return OUTPUT_ERROR
        if self._outcome is None or self._task is None:
            return 128 + (stopped_by or signal.SIGINT)
        return code_of_outcome(self._task, self._outcome, stopped_by=stopped_by)

    # -- the task -----------------------------------------------------------------------------

    async def _run(self, outlet: Outlet) -> None:
        options = self._options
        with self._starting:
            async with TaskEngine() as engine:
                end_after_answer(engine)
                with self._subscribe(engine) as stream:
                    task = self._task = await engine.spawn_task(
                        options.name,
                        options.prompt,
                        options.directory,
                        agent=options.agent,
                        argv=options.argv,
                        stdin="open" if options.interactive else None,
                        pty_size=options.pty_size,
                        timeout=options.timeout,
                        when_busy=options.when_busy,
                        resume=options.resume,
                        options=options.options,
                    )
                    view = self._make_view(outlet, task)
                    if self._status is not None:
                        self._group.start_soon(self._status.serve)
                    if self._asker is not None:
                        self._group.start_soon(self._asker.serve)
                    at_keyboard = Keyboard(task) if options.interactive else nullcontext()
                    async with at_keyboard as self._keyboard:
                        with self._showing:
                            try:
                                await self._show(stream, view, task)
                                await outlet.flush()
                            except OutletError:
                                pass  # whoever watches the outlet deals with it
                    self._outcome = await task.wait()
                    self._report(task, self._outcome)

    def _subscribe(self, engine: TaskEngine) -> EventStream[TaskEvent]:
        if self._options.json:
            return engine.subscribe(TaskEvent, OutputLine)
        return engine.subscribe(TaskEvent)

    def _make_view(self, outlet: Outlet, task: Task) -> View:
        if self._options.json:
            return JsonView(outlet)
        if task.agent == "command" or self._options.raw:
            exactly = self._options.interactive or not self._terminal
            return CommandView(outlet, terminal=not exactly)
        meter = Meter()
        if not is_styled():
            return AgentView(outlet, terminal=self._terminal, meter=meter)
        self._status = StatusLine(outlet, meter)
        if can_ask() and not self._options.interactive:
            self._asker = Asker(task, self._status)
        return AgentView(self._status, terminal=True, meter=meter)

    async def _show(self, stream: EventStream[TaskEvent], view: View, task: Task) -> None:
        async for event in stream:
            if isinstance(event, TaskStarted) and self._keyboard is not None:
                self._keyboard.begin()
            if self._status is not None:
                self._status.take(event)
            if self._asker is not None:
                self._asker.take(event)
            if self._status is not None and isinstance(event, TaskEnded):
                await self._status.close()
            try:
                await view.show(event)
            except OutputUnavailableError as error:
                say(f"some output cannot be shown: {error}")
            if isinstance(event, TaskQueued) and not self._options.json:
                say(_waiting_for(event))
            if isinstance(event, OutputDropped):
                say(f"{event.end - event.start} bytes of its output were lost ({event.why})")
            if isinstance(event, TaskEnded) and event.task.uid == task.uid:
                await view.finish(event.outcome)
                return

    # -- what happens meanwhile ---------------------------------------------------------------

    async def _watch_signals(
        self, received: AsyncIterator[signal.Signals], group: anyio.abc.TaskGroup
    ) -> None:
        async for number in received:
            first = not self._signals
            self._signals.append(number)
            task = self._task
            if task is None:
                self._starting.cancel()
                group.start_soon(self._stop_saying)
            elif task.outcome is not None:
                group.start_soon(self._stop_showing, task)
            elif first:
                task.cancel_nowait()
                again = " (Ctrl-C again to kill)" if number == signal.SIGINT else ""
                say(f"stopping…{again}")
                if number != signal.SIGINT:
                    group.start_soon(self._stop_showing, task)
            else:
                task.cancel_nowait(now=True)
                say("killing…")
                group.start_soon(self._stop_showing, task)

    async def _stop_showing(self, task: Task) -> None:
        """Do not wait for a reader who does not read: we were told to end."""
        await task.wait()
        await anyio.sleep(_LAST_WORDS)
        self._showing.cancel()
        await self._stop_saying()

    async def _stop_saying(self) -> None:
        """Do not wait for a reader of what we say, either."""
        await anyio.sleep(_LAST_WORDS)
        self._saying.cancel()

    async def _watch_outlet(self, outlet: Outlet) -> None:
        error = self._output_error = await outlet.wait_broken()
        if error.errno not in (errno.EPIPE, errno.EIO):
            say(f"the output cannot be written: {error.strerror}")
        if self._task is not None:
            self._task.cancel_nowait()

    # -- the end ------------------------------------------------------------------------------

    def _report(self, task: Task, outcome: Outcome) -> None:
        """Say how it ended: to a watcher always, to a script what its exit code cannot say."""
        seconds = _seconds_of(task)
        watched = self._terminal and not self._options.json
        told_by_code = outcome.reason in (Reason.EXIT_CODE, Reason.SIGNALLED)
        if outcome.status is TaskStatus.COMPLETED:
            if watched:
                say(f"{task.name}: done{seconds}")
        elif outcome.status is TaskStatus.CANCELLED:
            if watched or self._signals:
                say(f"{task.name}: stopped{seconds}")
        elif watched or task.agent != "command" or not told_by_code:
            # A command that never started is named by the message itself.
            started = task.started_at is not None or task.agent != "command"
            prefix = f"{task.name}: " if started else ""
            advice = ""
            if task.agent != "command" and names_missing_program(outcome):
                # Often the prompt was meant as a command.
                advice = (
                    f"; see: ebt agents {task.agent}; for a command put -- before it: "
                    "ebt run -- COMMAND …"
                )
            say(f"{prefix}{outcome.message or outcome.reason}{advice}{seconds}")
        if outcome.survivors:
            kept = ", ".join(f"{item.pid} {item.command}" for item in outcome.survivors)
            say(f"still running: {kept}")
        if outcome.persist_error:
            say(f"not everything could be kept: {outcome.persist_error}")


def _waiting_for(event: TaskQueued) -> str:
    """Say what a queued task waits for."""
    if event.why != "project":
        return "waiting for a place: as many tasks run as may"
    others = f", behind {event.ahead} other" + "s" * (event.ahead > 1) if event.ahead else ""
    if not event.holder:
        return f"waiting for the project: another task works in it{others}"
    number, name = event.holder.get("task"), event.holder.get("name")
    who = f"task {number} {name!r} of process {event.holder.get('host_pid')}"
    return f"waiting for the project: {who} works in it{others}"


def _seconds_of(task: Task) -> str:
    if task.started_at is None or task.completed_at is None:
        return ""
    seconds = (task.completed_at - task.started_at).total_seconds()
    return f" ({seconds:.1f} s)" if seconds < 100 else f" ({seconds / 60:.1f} min)"

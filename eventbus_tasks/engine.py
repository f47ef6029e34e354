"""`TaskEngine`: accepts tasks, owns their life, emits their events."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.abc

from eventbus_tasks._admission import (
    Admission,
    check_platform,
    enter,
    refusal,
    session_to_resume,
)
from eventbus_tasks._adoption import Adoption
from eventbus_tasks._bus import Bus
from eventbus_tasks._native import absorb, endure, undisturbed
from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.handle import WardenClient
from eventbus_tasks._process.queue import Ticket
from eventbus_tasks._process.slices import ShortTimeSlices
from eventbus_tasks._runner import TaskRun
from eventbus_tasks._services import Services
from eventbus_tasks._turns import Admittance, Lines, Places
from eventbus_tasks.errors import (
    EngineClosedError,
    TaskActiveError,
    TaskNotFoundError,
)
from eventbus_tasks.events import TaskEvent
from eventbus_tasks.outcome import Outcome, Reason
from eventbus_tasks.plugins import PluginHost, PluginReport
from eventbus_tasks.policies import OnHostDeath, Stdin, TerminationPolicy, WhenBusy
from eventbus_tasks.request import NO_TASK, TaskRef, TaskRequest
from eventbus_tasks.running import RunningTask, find_running_tasks
from eventbus_tasks.settings import Settings
from eventbus_tasks.signals import EventStream, TaskSignals
from eventbus_tasks.task import Task

__all__ = ["TaskEngine"]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")

E = TypeVar("E", bound=TaskEvent)

# Seconds for the warden to end after the last task; it has nothing left to do by then.
_WARDEN_EXIT = 5.0

# Bytes of an unnamed log that move into memory when the engine closes; larger ones stay open for
# as long as somebody holds their task.
_KEEP_AT_CLOSE = 1024 * 1024


class TaskEngine:
    """Runs tasks in the background and tells what happens to them.

    Use it as an async context manager, on asyncio (uvloop included) or trio::

        async with TaskEngine() as engine:
            task = await engine.spawn_task("tests", argv=["pytest", "-q"], project_dir=".")
            outcome = await task.wait()

    Leaving the block ends every task that still runs (reason ``engine_closed``) and waits until
    nothing is left of any of them, also when the block is left by an exception or by
    cancellation. Any number of engines may live in one process; each belongs to one event loop,
    and its methods are called from there.

    Args:
        settings: Everything that can be set; read from the usual sources when left out.
        plugins: Plugin objects, by name, which are asked before the installed ones.
        load_installed: Whether to load the plugins that are installed as distributions.

    Attributes:
        signals: The signals of its events; receivers may connect before it is entered.
        plugins: The host of its plugins.
        settings: The settings in force.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        plugins: Mapping[str, object] | None = None,
        load_installed: bool = True,
    ) -> None:
        self.settings: Settings = settings if settings is not None else Settings.load()
        self.plugins: PluginHost = PluginHost(self.settings)
        self._extra_plugins = dict(plugins or {})
        self._load_installed = load_installed
        self._bus = Bus(overrun_after=self.settings.overrun_after)
        self.signals: TaskSignals = TaskSignals(self._bus)
        self._runs: dict[int, TaskRun] = {}
        self._ids = itertools.count(1)
        self._accepted = itertools.count()
        self._places = Places(self.settings.max_running)
        self._lines = Lines(
            functools.partial(self.plugins.run, deadline=self.settings.hook_deadline, brief=True)
        )
        self._group: anyio.abc.TaskGroup | None = None
        self._workers: list[anyio.CancelScope] = []
        self._worker_count = 0
        self._warden: WardenClient | None = None
        self._warden_lock: anyio.Lock | None = None
        self._services: Services | None = None
        self._slices: ShortTimeSlices | None = None
        self._accepting = False
        self._entered = False
        self._idle: anyio.Event | None = None
        self._active = 0

    # -- life ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start the engine.

        Raises:
            UnsupportedPlatformError: This system lacks what the promises stand on.
            EngineClosedError: It was entered before; make a new one.
            PluginError: A plugin object that was given is broken.
            OSError: The warden could not be started.
        """
        if self._entered:
            raise EngineClosedError("an engine can be entered only once; make a new one")
        check_platform()
        self._entered = True
        try:
            # Each import has a deadline of its own.
            await self.plugins.run(self._load_plugins, deadline=float(3600))
        except BaseException:
            self.plugins.close()
            raise
        self._warden_lock = anyio.Lock()
        self._services = Services(
            bus=self._bus,
            plugins=self.plugins,
            settings=self.settings,
            warden=self._living_warden,
        )
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        try:
            group.start_soon(undisturbed(self._serve_pump), self._services)
            self._bus.start_worker = self._start_worker
            for subscription in tuple(self._bus._subscriptions.values()):
                if subscription.mailbox is not None:  # filled before there was a worker
                    self._start_worker(functools.partial(self._bus._work, subscription))
            await self._living_warden()
            self._accepting = True
            self.plugins.tell("ebt_engine_started", {"engine": self}, failed=self._hook_failed)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every task, wait until nothing is left, and stop.

        Cancellation: delays nothing and skips nothing; it is raised once everything has ended.
        """
        group = self._group
        if group is None:
            return
        self._accepting = False
        for run in tuple(self._runs.values()):
            run.request_stop(Reason.ENGINE_CLOSED, now=False)
        # The rest happens in a task of the group, shielded, so that a cancellation of this one,
        # even a native one that no shield holds back, only waits like everybody else.
        group.start_soon(undisturbed(self._shut_down))
        try:
            await group.__aexit__(None, None, None)
        finally:
            self._group = None

    async def _shut_down(self) -> None:
        with anyio.CancelScope(shield=True):
            while self._active:
                self._idle = anyio.Event()
                await endure(self._idle.wait)
            self.plugins.tell("ebt_engine_stopping", {"engine": self}, failed=self._hook_failed)
            self._bus.close()
            with anyio.move_on_after(self.settings.receiver_deadline):
                while self._worker_count:
                    self._idle = anyio.Event()
                    await self._idle.wait()
            for scope in self._workers:
                scope.cancel()
            for run in self._runs.values():
                run.task.output.end(_KEEP_AT_CLOSE)
            if self._services is not None:
                self._services.pump.close()
            warden, self._warden = self._warden, None
            if warden is not None:
                warden.close()
                try:
                    await self.plugins.run(
                        functools.partial(self._reap, warden),
                        deadline=2 * _WARDEN_EXIT,
                        endures=True,
                    )
                except Exception:
                    logger.exception("the warden could not be reaped")
            self.plugins.close()

    def _reap(self, warden: WardenClient) -> None:
        """Wait for the end of the warden; one that stays for leftovers is left to a thread."""
        kept = any(
            (found := read_process(one.pid)) and found.start_time == one.start_time
            for run in self._runs.values()
            for one in (run.task.outcome.survivors if run.task.outcome else ())
        )
        if not warden.reap(0.0 if kept else _WARDEN_EXIT):
            threading.Thread(target=warden.reap, name="eventbus-tasks warden", daemon=True).start()

    def abandon(self) -> None:
        """Give up an engine whose event loop has ended under it.

        No event can be delivered any more; guardians end what still runs, and every task counts
        as ``engine_closed``. Does nothing to an engine that was left in the regular way.
        """
        self._accepting = False
        for run in self._runs.values():
            run.abandon()
        if self._services is not None:
            self._services.pump.close(loop_is_gone=True)
        self._let_slices_go()
        warden, self._warden = self._warden, None
        if warden is not None:
            warden.abandon()
            warden.reap(_WARDEN_EXIT)
        self.plugins.close()

    def _load_plugins(self) -> None:
        with contextlib.suppress(OSError):  # whoever needs it, says so then
            self.settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.plugins.load_builtins()
        if self._load_installed:
            self.plugins.load_installed()
        for name, plugin in self._extra_plugins.items():
            self.plugins.register(plugin, name)

    async def _living_warden(self) -> WardenClient:
        """Return the warden; start one if there is none, or if it has died.

        Raises:
            OSError: It could not be started.
        """
        assert self._warden_lock is not None
        assert self._group is not None
        async with self._warden_lock:
            if self._warden is None or self._warden.lost or self._warden.ending:
                old = self._warden
                python = None if self.settings.python is None else str(self.settings.python)
                self._warden = await self.plugins.run(
                    functools.partial(WardenClient.start, python, self.settings.cgroup),
                    deadline=30.0,
                    undo=_dismiss,
                )
                self._group.start_soon(undisturbed(self._serve_warden), self._warden)
                if old is not None:
                    old.close()
                    await self.plugins.run(functools.partial(old.reap, 0.5), deadline=5.0)
            return self._warden

    async def _serve_pump(self, services: Services) -> None:
        if self.settings.prompt_loop:
            self._slices = ShortTimeSlices()
        try:
            with anyio.CancelScope(shield=True):
                await services.pump.run()
        finally:
            self._let_slices_go()

    def _let_slices_go(self) -> None:
        if self._slices is not None:
            self._slices.close()

    async def _serve_warden(self, warden: WardenClient) -> None:
        with anyio.CancelScope(shield=True):
            await endure(functools.partial(warden.serve, undisturbed))

    def _start_worker(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._group is not None:
            self._worker_count += 1
            self._group.start_soon(undisturbed(self._run_worker), work)

    async def _run_worker(self, work: Callable[[], Awaitable[None]]) -> None:
        scope = anyio.CancelScope(shield=True)
        self._workers.append(scope)
        try:
            with scope:
                await work()
        finally:
            self._workers.remove(scope)
            self._worker_count -= 1
            self._wake()

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.set()

    def _hook_failed(self, where: str, error: str, overran: bool) -> None:
        self._bus.report(where, error, NO_TASK, overran=overran)

    # -- tasks --------------------------------------------------------------------------------

    async def spawn_task(
        self,
        name: str,
        prompt: str = "",
        project_dir: str | os.PathLike[str] = ".",
        *,
        agent: str | None = None,
        argv: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        stdin: Stdin = None,
        pty_size: tuple[int, int] | None = None,
        timeout: float | None = None,
        policy: TerminationPolicy | None = None,
        when_busy: WhenBusy | None = None,
        on_host_death: OnHostDeath | None = None,
        resume: Task | str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Task:
        """Accept a task and return at once; it is PENDING then.

        Args:
            name: For people.
            prompt: What the agent is told.
            project_dir: The directory to work in: one task at a time works in it, see
                `when_busy`.
            agent: Which agent; ``"command"`` when `argv` is given, else the one of the settings.
            argv: Program and arguments, for the agent ``"command"``.
            env: Variables on top of the host's environment.
            stdin: Bytes for standard input of a plain command, or ``"open"`` for `Task.send`.
            pty_size: Columns and lines, to run a plain command at a terminal of its own.
            timeout: Seconds the task may run in all.
            policy: How to stop it, instead of what plugins say.
            when_busy: What to do when another task, of any process, works in the directory:
                ``"reject"`` the request, ``"queue"`` up behind those that came before, or
                ``"share"`` the directory without any lock; ``None`` for the setting. A queued
                task is accepted and PENDING; it can be cancelled at once, and its timeout
                counts from its start.
            on_host_death: ``"kill"`` to end the task when this program dies, ``"detach"`` to let
                it run on and be taken over (`reattach`); ``None`` for what its policy says.
            resume: The session of the agent to go on with, or the task that has worked in it, of
                the same agent.
            options: For the agent's plugin.

        Raises:
            EngineClosedError: The engine is not running.
            InvalidRequestError: What was asked cannot be carried out, as a session that an agent
                cannot go on with.
            SettingsError: The project's own settings are wrong.
            UnknownAgentError: No plugin drives the agent.
            ProjectBusyError: Another task, of any process, works in the directory, or waits for
                it, and the request is to be rejected then.
            SessionBusyError: Another task, of any process, works in the session. (One that waits
                for its directory fails for that when its turn has come.)
            ResourceError: The system has no descriptors, threads or memory left for it.

        Nothing else raises: what goes wrong later is in the task's outcome.

        Cancellation: leaves no task behind.
        """
        argv = (argv,) if isinstance(argv, str) else tuple(argv)
        agent, session = session_to_resume(resume, agent)
        request = TaskRequest(
            name=name,
            project_dir=Path(project_dir),
            agent=agent or ("command" if argv else ""),
            prompt=prompt,
            argv=argv,
            env=dict(env or {}),
            stdin=stdin,
            pty_size=pty_size,
            timeout=timeout,
            policy=policy,
            when_busy=when_busy,
            on_host_death=on_host_death,
            resume=session,
            options=dict(options or {}),
        )
        return await self.submit(request)

    async def submit(self, request: TaskRequest) -> Task:
        """Accept a request and return at once; see `spawn_task`."""
        if not self._accepting or self._group is None:
            raise EngineClosedError
        admission = Admission(request)
        self._group.start_soon(undisturbed(self._admit), admission, self._try_admit)
        try:
            await admission.decided.wait()
        except BaseException:
            # Nobody will ever hold this task: take it back, whether it was accepted or not.
            admission.abandoned = True
            if admission.run is not None:
                admission.run.request_stop(Reason.CANCELLED, now=False)
            raise
        return admission.task()

    async def _admit(
        self, admission: Admission, attempt: Callable[[Admission], Awaitable[TaskRun | None]]
    ) -> None:
        # In a task of its own, because a caller may be cancelled at any moment, even natively,
        # and the lock of the project must not get lost with it.
        self._active += 1
        try:
            with anyio.CancelScope(shield=True):
                try:
                    run = await attempt(admission)
                except Exception as error:
                    admission.error = refusal(error, admission.request)
                    return
                except anyio.get_cancelled_exc_class():
                    absorb()
                    admission.error = EngineClosedError("the event loop is ending")
                    return
                finally:
                    admission.decided.set()
                if run is not None:
                    await run.run()
        finally:
            self._active -= 1
            self._wake()

    async def _try_admit(self, admission: Admission) -> TaskRun | None:
        assert admission.request is not None
        assert self._services is not None
        entered = await enter(
            admission.request, self.plugins, self.settings, self._number, failed=self._hook_failed
        )
        entry, request = entered.entry, entered.request
        task = Task(ref=entered.ref, request=request, settings=entered.settings, control=self)
        admittance = Admittance(next(self._accepted), entry, self._lines, self._places)
        run = TaskRun(self._services, task, admittance)
        try:
            if not isinstance(entry, Ticket):  # else when its turn has come
                await run.sessions.claim(request.resume)
            if admission.abandoned or not self._accepting:
                raise EngineClosedError("the engine was closed meanwhile")
        except BaseException:
            admittance.release()
            await run.sessions.release()
            raise
        self._runs[task.id] = run
        admission.run = run
        return run

    def _number(self, wanted: int | None) -> int:
        """Return the number for a task: the one that is wanted, if no other task has it."""
        if wanted is None or wanted in self._runs:
            return next(number for number in self._ids if number not in self._runs)
        return wanted

    def request_stop(self, task: Task, reason: Reason, *, now: bool) -> bool:
        """Begin to end a task (what `Task.cancel_nowait` calls)."""
        run = self._runs.get(task.id)
        return run is not None and run.task is task and run.request_stop(reason, now=now)

    # -- tasks of dead hosts ------------------------------------------------------------------

    async def detached_tasks(self) -> tuple[RunningTask, ...]:
        """Return the tasks of this user that run although their host has died, oldest first."""
        found = await self.plugins.run(
            functools.partial(find_running_tasks, self.settings.state_dir),
            deadline=self.settings.hook_deadline,
        )
        return tuple(task for task in found if task.is_detached)

    async def reattach(self, task: RunningTask | str, *, offset: int = 0) -> Task:
        """Become the host of a task whose own host has died, and return it.

        Its output is delivered from `offset` on, what it had written before included; its events
        go on in its journal where they had ended; its end is told here, once. From then on it is
        a task of this engine like any other. Of several hosts that try, exactly one succeeds.

        Args:
            task: The task, or its UUID; see `detached_tasks`.
            offset: Where the output that is delivered begins, in each stream.

        Raises:
            EngineClosedError: The engine is not running.
            TaskNotFoundError: It does not run (any more).
            ReattachError: Its host lives, or another one was quicker.
            UnknownAgentError: No plugin here drives its agent.
            SettingsError: The project's own settings are wrong.
            ResourceError: The system has no room left for it.

        Cancellation: ends the waiting; if the task was taken over already, it is in `tasks`.
        """
        if not self._accepting or self._group is None:
            raise EngineClosedError
        uid = task if isinstance(task, str) else task.ref.uid
        admission = Admission(None)
        attempt = functools.partial(self._try_adopt, uid, offset)
        self._group.start_soon(undisturbed(self._admit), admission, attempt)
        await admission.decided.wait()
        return admission.task()

    async def _try_adopt(self, uid: str, offset: int, admission: Admission) -> TaskRun:
        settings, services = self.settings, self._services
        assert services is not None
        adoption: Adoption = await self.plugins.run(
            functools.partial(Adoption.prepare, uid, settings, self.plugins),
            deadline=2 * settings.hook_deadline,
            undo=Adoption.close,
        )
        if not self._accepting:
            adoption.close()
            raise EngineClosedError("the engine was closed meanwhile")
        number = self._number(adoption.ref.id)
        # It has its project already, and runs, whatever the limit.
        admittance = Admittance(next(self._accepted), None, self._lines, self._places)
        run = adoption.start(services, admittance, control=self, number=number, offset=offset)
        self._runs[number] = run
        admission.run = run
        return run

    # -- looking up ---------------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task that was not removed, oldest first."""
        return tuple(run.task for run in self._runs.values())

    @property
    def running_tasks(self) -> tuple[Task, ...]:
        """Every task that has not ended, oldest first."""
        return tuple(task for task in self.tasks if task.is_running)

    def get_task(self, task: int | TaskRef) -> Task:
        """Return a task by its number, or by the reference that events carry.

        Raises:
            TaskNotFoundError: There is none, or it was removed.
        """
        number = task if isinstance(task, int) else task.id
        run = self._runs.get(number)
        if run is None or (isinstance(task, TaskRef) and run.task.uid != task.uid):
            raise TaskNotFoundError(number)
        return run.task

    def find_tasks(self, name: str) -> tuple[Task, ...]:
        """Return the tasks whose name contains `name`, whatever the case; exact ones first."""
        wanted = name.casefold()
        found = [task for task in self.tasks if wanted in task.name.casefold()]
        return tuple(sorted(found, key=lambda task: task.name.casefold() != wanted))

    async def cancel_task(self, task: int | TaskRef, *, now: bool = False) -> bool:
        """End a task and wait until nothing of it is left; see `Task.cancel`.

        Raises:
            TaskNotFoundError: There is no such task.
        """
        return await self.get_task(task).cancel(now=now)

    def remove_task(self, task: int | TaskRef) -> Outcome:
        """Forget an ended task, and give up its unnamed log. What is on disk stays.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskActiveError: It has not ended.
        """
        found = self.get_task(task)
        if found.outcome is None:
            raise TaskActiveError(found.id, found.status)
        run = self._runs.pop(found.id)
        run.chronicle.emit_removed()
        if self._services is not None:
            self._services.forget(found)
        found.output.close()
        return found.outcome

    # -- events -------------------------------------------------------------------------------

    def subscribe(
        self, *types: type[E], task: TaskRef | Task | None = None, after: int | None = None
    ) -> EventStream[E]:
        """Return events as an async iterator, from now on, or from an earlier one on.

        Args:
            types: Event classes; derived ones are included. All events when left out.
            task: Only events of this task; the iteration ends after its terminal event.
            after: The number (`seq`) of the last event of the task that is already known, 0
                for none: those after it come first, then what happens from now on, without a
                gap and none twice. Adjoining output comes merged. Needs `task`, which may have
                ended. Derived events that are not in the journal (`HandlerFailed`,
                `TaskRemoved`) come live only; an `OutputLine` is derived anew.

        Raises:
            ValueError: `after` without `task`, or less than 0.
            TaskNotFoundError: With `after`: there is no such task, or it was removed.

        The iterator may fall behind without limit: adjoining output events are merged, nothing
        is dropped, nobody waits for it. Close it, or use it in a ``with`` block. With `after`,
        iterating raises `HistoryUnavailableError` when older events cannot be read any more.
        """
        uid = None if task is None else task.uid
        if after is None:
            return self._bus.open_stream(types, uid)
        if task is None or after < 0:
            raise ValueError("after is the number of an event (0 for none) of the task given")
        known = self.get_task(task if isinstance(task, TaskRef) else task.ref)
        replay = self._runs[known.id].chronicle.replay(after)
        return self._bus.open_stream(types, uid, replay, ended=known.outcome is not None)

    def describe(self, event: TaskEvent) -> str:
        """Say an event in one short sentence, for ears and notifications; may be empty."""
        return self.plugins.describe(event)

    def plugin_reports(self) -> tuple[PluginReport, ...]:
        """What is known about every plugin."""
        return self.plugins.reports


def _dismiss(warden: WardenClient) -> None:
    """Take back a warden that nobody waits for any more."""
    warden.close()
    warden.reap(_WARDEN_EXIT)

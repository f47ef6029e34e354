"""`TaskManager` and `ClaudeTask`: the process-wide convenience, a thin layer over `TaskEngine`."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from eventbus_tasks.engine import TaskEngine
from eventbus_tasks.errors import EngineClosedError
from eventbus_tasks.events import OutputLine, TaskCancelled, TaskCompleted, TaskEvent, TaskFailed
from eventbus_tasks.hookspecs import hookimpl
from eventbus_tasks.outcome import Outcome, TaskStatus
from eventbus_tasks.output import RING_LINES
from eventbus_tasks.settings import Settings
from eventbus_tasks.signals import is_async_callable
from eventbus_tasks.task import Task

if TYPE_CHECKING:
    import asyncio

__all__ = ["ClaudeTask", "TaskManager"]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")

Handler = Callable[..., Any]

_EVENTS: Final[Mapping[str, type[TaskEvent]]] = MappingProxyType(
    {
        "on_task_complete": TaskCompleted,
        "on_task_failed": TaskFailed,
        "on_task_cancelled": TaskCancelled,
        "on_output_line": OutputLine,
    }
)


class TaskProcess:
    """The process of a task, as far as its users may see it.

    Attributes:
        pid: Its number.
    """

    def __init__(self, task: Task, pid: int) -> None:
        self._task = task
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        """Exit status, the negative number of a signal, or ``None`` while it runs."""
        return self._task.return_code


class ClaudeTask:
    """A task of the `TaskManager`: a view of the engine's `Task`.

    Attributes:
        task: The task of the engine, with everything that this view leaves out.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    def id(self) -> int:
        """Its number."""
        return self.task.id

    @property
    def name(self) -> str:
        """Its name."""
        return self.task.name

    @property
    def prompt(self) -> str:
        """What the agent was told."""
        return self.task.prompt

    @property
    def project_dir(self) -> Path:
        """The absolute project directory."""
        return self.task.project_dir

    @property
    def status(self) -> TaskStatus:
        """Where it is in its life."""
        return self.task.status

    @property
    def process(self) -> TaskProcess | None:
        """Its process, once there is one."""
        pid = self.task.pid
        return None if pid is None else TaskProcess(self.task, pid)

    @property
    def output_lines(self) -> list[str]:
        """The last 1,000 lines of its output."""
        return self.task.output.tail(RING_LINES)

    @property
    def created_at(self) -> datetime:
        """When it was accepted, in UTC."""
        return self.task.created_at

    @property
    def started_at(self) -> datetime | None:
        """When its program was executed, in UTC."""
        return self.task.started_at

    @property
    def completed_at(self) -> datetime | None:
        """When it ended, in UTC."""
        return self.task.completed_at

    @property
    def return_code(self) -> int | None:
        """Exit status, the negative number of a signal, or ``None``."""
        return self.task.return_code

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, or ``None`` while it has not."""
        return self.task.outcome

    async def wait(self) -> Outcome:
        """Wait for the end and return the outcome; see `Task.wait`."""
        return await self.task.wait()

    def __repr__(self) -> str:
        return f"<ClaudeTask {self.id} {self.name!r} {self.status}>"


class TaskManager:
    """The one task manager of a process: the same object every time.

    It works in a running asyncio loop without any set-up, and across several ``asyncio.run``
    calls: tasks of a loop that ends are ended with it, and stay in the registry. On trio, use
    it inside ``async with TaskManager():``.
    """

    _instance: ClassVar[TaskManager | None] = None

    _tasks: dict[int, ClaudeTask]
    _handlers: list[tuple[str, Handler]]
    _engine: TaskEngine | None
    _host: _AsyncioHost | None

    def __new__(cls) -> Self:
        """Return the one object, made at the first call."""
        if cls._instance is None:
            made = super().__new__(cls)
            made._tasks = {}
            made._handlers = []
            made._engine = None
            made._host = None
            made._ids = _Ids()
            cls._instance = made
        instance = cls._instance
        assert isinstance(instance, cls)
        return instance

    _ids: _Ids

    # -- life ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Run the engine in the surrounding block, on asyncio or trio."""
        if self._engine is not None:
            raise EngineClosedError("the task manager runs already")
        self._engine = await self._new_engine().__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every task, and wait until nothing is left; see `TaskEngine`."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.__aexit__(exc_type, exc, traceback)

    @classmethod
    async def reset(cls) -> None:
        """End every task of the manager, and let the next ``TaskManager()`` be a fresh one."""
        manager, cls._instance = cls._instance, None
        if manager is None:
            return
        host, manager._host = manager._host, None
        if host is not None:
            await host.close()
        elif manager._engine is not None:
            for task in manager.get_running_tasks():
                await task.task.cancel()
        for task in manager._tasks.values():
            task.task.output.shorten()

    def _new_engine(self) -> TaskEngine:
        engine = TaskEngine(Settings.load(), plugins={"task-manager-ids": self._ids})
        for event, handler in self._handlers:
            self._connect(engine, event, handler)
        return engine

    async def _running_engine(self) -> TaskEngine:
        if self._engine is not None:
            return self._engine
        import asyncio  # here, because everybody imports this module, and few need it

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise EngineClosedError(
                "on trio, use the task manager inside 'async with TaskManager():'"
            ) from None
        if self._host is not None and not self._host.serves(loop):
            self._host.abandon()
            self._host = None
        if self._host is None:
            self._host = _AsyncioHost(loop, self._new_engine())
        return await self._host.engine()

    def _look_after_loop(self) -> None:
        """End the tasks of a loop that has been closed under them."""
        if self._host is not None and self._host.is_closed:
            self._host.abandon()
            self._host = None

    # -- tasks --------------------------------------------------------------------------------

    async def spawn_task(
        self,
        name: str,
        prompt: str,
        project_dir: Path | str,
        **options: Any,
    ) -> ClaudeTask:
        """Accept a task and return at once; it is PENDING then.

        Args:
            name: For people.
            prompt: What the agent is told.
            project_dir: The directory to work in: one task at a time works in it.
            options: Anything else that `TaskEngine.spawn_task` takes.

        Raises:
            EventbusTasksError: It was refused; see `TaskEngine.spawn_task`.
        """
        engine = await self._running_engine()
        task = ClaudeTask(await engine.spawn_task(name, prompt, project_dir, **options))
        self._tasks[task.id] = task
        return task

    def get_task(self, task_id: int) -> ClaudeTask | None:
        """Return the task with this number, or ``None``."""
        self._look_after_loop()
        return self._tasks.get(task_id)

    def find_task_by_name(self, name: str) -> ClaudeTask | None:
        """Return the task whose name is, or else contains, `name`, whatever the case.

        Where several match, exact names come first, then running tasks, then later ones.
        """
        self._look_after_loop()
        wanted = name.casefold()
        found = [task for task in self._tasks.values() if wanted in task.name.casefold()]
        return max(
            found,
            key=lambda task: (
                task.name.casefold() == wanted,
                not task.status.is_terminal,
                task.id,
            ),
            default=None,
        )

    def get_all_tasks(self) -> list[ClaudeTask]:
        """Return every task, oldest first."""
        self._look_after_loop()
        return list(self._tasks.values())

    def get_running_tasks(self) -> list[ClaudeTask]:
        """Return every task that has not ended, oldest first."""
        self._look_after_loop()
        return [task for task in self._tasks.values() if not task.status.is_terminal]

    def get_task_output(self, task_id: int, last_n: int | None = None) -> list[str]:
        """Return the last lines of a task, at most 1,000; an empty list if there is no such task.

        Args:
            task_id: Number of the task.
            last_n: How many lines at most.
        """
        task = self.get_task(task_id)
        count = RING_LINES if last_n is None else min(last_n, RING_LINES)
        return [] if task is None else task.task.output.tail(count)

    async def cancel_task(self, task_id: int) -> bool:
        """End a task and wait until nothing of it is left.

        Returns:
            Whether it ended because of this: ``False`` if there is no such task, or it had
            ended by itself.
        """
        task = self.get_task(task_id)
        if task is None or task.status.is_terminal:
            return False
        return await task.task.cancel()

    def cleanup_task(self, task_id: int) -> bool:
        """Forget an ended task.

        Returns:
            Whether it was forgotten: ``False`` if there is no such task, or it still runs.
        """
        task = self.get_task(task_id)
        if task is None or not task.status.is_terminal:
            return False
        del self._tasks[task_id]
        engine = self._engine or (self._host and self._host.running)
        if engine and task.task in engine.tasks:
            engine.remove_task(task_id)
        else:
            task.task.output.close()
        return True

    # -- events -------------------------------------------------------------------------------

    def on(self, event: str, handler: Handler) -> None:
        """Call a handler, sync or async, when something happens.

        Args:
            event: ``on_task_complete``, ``on_task_failed`` or ``on_task_cancelled``, whose
                handlers take the task, or ``on_output_line``, whose handlers take the task and
                the line.
            handler: Isolated from everything else: what it raises is logged.

        Raises:
            ValueError: There is no such event.
        """
        if event not in _EVENTS:
            raise ValueError(f"no event {event!r}; known: {', '.join(sorted(_EVENTS))}")
        self._handlers.append((event, handler))
        engine = self._engine or (self._host and self._host.running)
        if engine:
            self._connect(engine, event, handler)

    def _connect(self, engine: TaskEngine, event: str, handler: Handler) -> None:
        def arguments(happened: TaskEvent) -> tuple[Any, ...]:
            task = self._tasks.get(happened.task.id)
            if task is None or task.task.uid != happened.task.uid:
                task = ClaudeTask(engine.get_task(happened.task))
            return (task, happened.text) if isinstance(happened, OutputLine) else (task,)

        if is_async_callable(handler):

            @functools.wraps(handler)
            async def receive_async(happened: TaskEvent) -> None:
                await handler(*arguments(happened))

            receiver: Handler = receive_async
        else:

            @functools.wraps(handler)
            def receive(happened: TaskEvent) -> Any:
                return handler(*arguments(happened))

            receiver = receive
        engine.signals.of(_EVENTS[event]).connect(receiver)


class _Ids:
    """Numbers that stay unique over all engines of a manager, unless a plugin gives better ones."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    @hookimpl(trylast=True)
    def ebt_next_task_id(self) -> int:
        return next(self._numbers)


class _AsyncioHost:
    """Keeps an engine running in an asyncio loop, without a block of the user around it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: TaskEngine) -> None:
        import asyncio

        self._loop = loop
        self._engine = engine
        self._ready: asyncio.Future[TaskEngine] = loop.create_future()
        self._stop = asyncio.Event()
        self._task = loop.create_task(self._serve(), name="eventbus-tasks engine")

    async def _serve(self) -> None:
        try:
            async with self._engine:
                self._ready.set_result(self._engine)
                await self._stop.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
                self._ready.exception()  # it may be that nobody is left to ask for it
                if isinstance(error, Exception):
                    return
            raise

    @property
    def running(self) -> TaskEngine | None:
        """The engine, once it has started."""
        return self._engine

    @property
    def is_closed(self) -> bool:
        """Whether the loop has been closed without ending the engine."""
        return self._loop.is_closed() and not self._task.done()

    def serves(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the engine still runs in this loop."""
        return loop is self._loop and not self._task.done()

    async def engine(self) -> TaskEngine:
        """Return the running engine; several callers may wait for its start."""
        import asyncio

        return await asyncio.shield(self._ready)

    async def close(self) -> None:
        """End every task, and stop."""
        import asyncio

        if self._loop is not asyncio.get_running_loop():
            self.abandon()
            return
        self._stop.set()
        await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Give up an engine whose loop has gone: its guardians end what still runs."""
        self._engine.abandon()

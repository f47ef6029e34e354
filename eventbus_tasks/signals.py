"""Typed signals over blinker: how to connect to the events of an engine.

The `blinker.Signal` behind each signal stays reachable as ``.blinker``. Delivery is not
blinker's, which has no order and ends at the first exception: see `eventbus_tasks._bus`.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import blinker

from eventbus_tasks import events
from eventbus_tasks._delivery import Mailbox
from eventbus_tasks._derived import LineNumbers, output_lines
from eventbus_tasks._history import Replay
from eventbus_tasks.events import EVENT_TYPES, OutputLine, OutputReceived, TaskEnded, TaskEvent
from eventbus_tasks.request import TaskRef

__all__ = ["EventSignal", "EventStream", "Subscription", "TaskSignals"]

E = TypeVar("E", bound=TaskEvent)


def is_async_callable(function: Callable[..., Any]) -> bool:
    """Whether calling the object returns a coroutine: also partials and ``async __call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(function, "__call__", None)  # noqa: B004 - the method itself is inspected
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def describe_callable(function: Any) -> str:
    """Return a name by which a person finds the code of a receiver."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None) or type(function).__module__
    return f"{module}.{name}"


class Switchboard(Protocol):
    """What signals, subscriptions and streams ask of the bus that they belong to."""

    def signal(self, event_type: type[E]) -> EventSignal[E]:
        """Return the signal of an event class."""

    def connect(
        self,
        event_type: type[TaskEvent],
        receiver: Callable[[Any], Any],
        *,
        task_uid: str | None,
        weak: bool,
    ) -> Subscription:
        """Connect a receiver."""

    def disconnect(self, subscription: Subscription) -> None:
        """Forget a subscription."""

    def forget_stream(self, stream: EventStream[Any]) -> None:
        """Forget a stream."""

    def expose(self, event_type: type[TaskEvent], signal: blinker.Signal) -> None:
        """Send events to a signal of blinker, from now on."""


class Subscription:
    """A receiver's connection. Close it, or use it in a ``with`` block, to disconnect."""

    def __init__(
        self,
        bus: Switchboard,
        event_type: type[TaskEvent],
        receiver: Callable[[Any], Any],
        *,
        task_uid: str | None,
        weak: bool,
        number: int,
    ) -> None:
        self._bus = bus
        self.event_type = event_type
        self.task_uid = task_uid
        self.number = number
        self.is_async: bool = is_async_callable(receiver)
        self.where: str = describe_callable(receiver)
        self.closed: bool = False
        self.stuck: bool = False
        self.mailbox: Mailbox | None = None
        self.strong: Callable[[Any], Any] | None = None if weak else receiver
        self._weak: Callable[[], Any] | None = None
        if weak:
            kind: Any = weakref.WeakMethod if inspect.ismethod(receiver) else weakref.ref
            self._weak = kind(receiver, lambda _: self.close())

    def receiver(self) -> Callable[[Any], Any] | None:
        """Return the receiver, or ``None`` when it was weakly held and is gone."""
        return self.strong if self._weak is None else self._weak()

    def close(self) -> None:
        """Disconnect. Nothing is delivered afterwards; closing twice does no harm."""
        if not self.closed:
            self.closed = True
            if self.mailbox is not None:
                self.mailbox.close()
            self._bus.disconnect(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class EventSignal(Generic[E]):
    """The signal of one event class, or of all classes derived from it.

    Receivers take the event, in the engine's thread, on its loop.
    """

    def __init__(self, bus: Switchboard, event_type: type[E]) -> None:
        self._bus = bus
        self.event_type = event_type
        self._blinker: blinker.Signal | None = None

    def connect(
        self,
        receiver: Callable[[E], object],
        *,
        task: TaskRef | None = None,
        weak: bool = False,
    ) -> Subscription:
        """Call `receiver` with every event of this signal from now on.

        Args:
            receiver: A function or an async function of one argument, the event. A sync one is
                called at once, before the engine goes on: it must not block. An async one has a
                worker of its own, which hands it one event at a time, in order; adjoining
                output events are merged while it is busy.
            task: Only events of this task (anything with its ``uid``).
            weak: Hold the receiver weakly: it is disconnected when nobody else holds it.

        Raises:
            TypeError: `receiver` cannot be called.
        """
        if not callable(receiver):
            raise TypeError(f"a receiver must be callable, not {receiver!r}")
        return self._bus.connect(
            self.event_type, receiver, task_uid=None if task is None else task.uid, weak=weak
        )

    @property
    def blinker(self) -> blinker.Signal:
        """The underlying signal, for people who know blinker.

        Its receivers get ``receiver(task, event=event)``, after those of `connect`, each
        isolated; blinker's own filter by sender works with the `Task` objects of the engine.
        """
        if self._blinker is None:
            self._blinker = blinker.Signal(self.event_type.__doc__)
            self._bus.expose(self.event_type, self._blinker)
        return self._blinker

    def __repr__(self) -> str:
        return f"<EventSignal of {self.event_type.__name__}>"


class EventStream(Generic[E]):
    """Events as an async iterator; the same delivery as an async receiver has.

    Ends after the terminal event of the task it was opened for, or when the engine closes.
    """

    def __init__(
        self,
        bus: Switchboard,
        types: tuple[type[TaskEvent], ...],
        task_uid: str | None,
        replay: Replay | None = None,
    ) -> None:
        self._bus = bus
        self._types = types or (TaskEvent,)
        self._task_uid = task_uid
        self._mailbox = Mailbox()
        self._numbers = LineNumbers()
        self._pending: Iterator[OutputLine] = iter(())
        self._wants_lines = OutputLine in self._types
        self._replay = replay
        # What the replay has, is not wanted live as well: it may be on its way just now.
        self._replayed = 0 if replay is None else replay.up_to

    def _offer(self, event: TaskEvent) -> None:
        if self._task_uid not in (None, event.task.uid):
            return
        if self._wants(event) and not (event.journaled and event.seq <= self._replayed):
            self._mailbox.put(event)
        if isinstance(event, TaskEnded) and self._task_uid is not None:
            self._mailbox.close()

    def _wants(self, event: TaskEvent) -> bool:
        return isinstance(event, self._types) or (
            self._wants_lines and isinstance(event, OutputReceived)
        )

    async def _next(self) -> TaskEvent | None:
        while self._replay is not None:
            event = await self._replay.next()
            if event is None:
                self._replay = None
            elif self._wants(event):
                return event
        entry = await self._mailbox.get()
        return None if entry is None else entry[0]

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        while True:
            for line in self._pending:
                return cast("E", line)
            event = await self._next()
            if event is None:
                self.close()
                raise StopAsyncIteration
            if self._wants_lines and isinstance(event, OutputReceived):
                self._pending = output_lines(event, self._numbers)
            if isinstance(event, self._types):
                return cast("E", event)

    def close(self) -> None:
        """Stop receiving. What has not been taken is given up."""
        self._replay = None
        self._mailbox.close()
        self._bus.forget_stream(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class TaskSignals:
    """The signals of one engine: one for each event class, named after it.

    `agent_activity`, `task_ended` and `any_event` are the signals of whole families. Events of
    plugins have theirs under `of`.
    """

    def __init__(self, bus: Switchboard) -> None:
        self._bus = bus
        self.task_accepted: EventSignal[events.TaskAccepted] = bus.signal(events.TaskAccepted)
        self.task_queued: EventSignal[events.TaskQueued] = bus.signal(events.TaskQueued)
        self.task_started: EventSignal[events.TaskStarted] = bus.signal(events.TaskStarted)
        self.task_reattached: EventSignal[events.TaskReattached] = bus.signal(events.TaskReattached)
        self.output_received: EventSignal[events.OutputReceived] = bus.signal(events.OutputReceived)
        self.output_line: EventSignal[events.OutputLine] = bus.signal(events.OutputLine)
        self.output_dropped: EventSignal[events.OutputDropped] = bus.signal(events.OutputDropped)
        self.agent_activity: EventSignal[events.AgentActivity] = bus.signal(events.AgentActivity)
        self.agent_session: EventSignal[events.AgentSession] = bus.signal(events.AgentSession)
        self.agent_message: EventSignal[events.AgentMessage] = bus.signal(events.AgentMessage)
        self.agent_tool_started: EventSignal[events.AgentToolStarted] = bus.signal(
            events.AgentToolStarted
        )
        self.agent_tool_finished: EventSignal[events.AgentToolFinished] = bus.signal(
            events.AgentToolFinished
        )
        self.agent_usage: EventSignal[events.AgentUsage] = bus.signal(events.AgentUsage)
        self.agent_retry: EventSignal[events.AgentRetry] = bus.signal(events.AgentRetry)
        self.agent_input_required: EventSignal[events.AgentInputRequired] = bus.signal(
            events.AgentInputRequired
        )
        self.agent_input_answered: EventSignal[events.AgentInputAnswered] = bus.signal(
            events.AgentInputAnswered
        )
        self.agent_result: EventSignal[events.AgentResult] = bus.signal(events.AgentResult)
        self.agent_unknown: EventSignal[events.AgentEventUnknown] = bus.signal(
            events.AgentEventUnknown
        )
        self.task_stopping: EventSignal[events.TaskStopping] = bus.signal(events.TaskStopping)
        self.signal_sent: EventSignal[events.SignalSent] = bus.signal(events.SignalSent)
        self.task_completed: EventSignal[events.TaskCompleted] = bus.signal(events.TaskCompleted)
        self.task_failed: EventSignal[events.TaskFailed] = bus.signal(events.TaskFailed)
        self.task_cancelled: EventSignal[events.TaskCancelled] = bus.signal(events.TaskCancelled)
        self.task_ended: EventSignal[events.TaskEnded] = bus.signal(events.TaskEnded)
        self.task_removed: EventSignal[events.TaskRemoved] = bus.signal(events.TaskRemoved)
        self.handler_failed: EventSignal[events.HandlerFailed] = bus.signal(events.HandlerFailed)
        self.any_event: EventSignal[TaskEvent] = bus.signal(TaskEvent)

    def of(self, event_type: type[E] | str) -> EventSignal[E]:
        """Return the signal of an event class, or of a wire name.

        Raises:
            KeyError: The wire name is unknown.
        """
        if isinstance(event_type, str):
            return self._bus.signal(cast("type[E]", EVENT_TYPES[event_type]))
        return self._bus.signal(event_type)

"""The bus: delivers the events of one engine.

Each receiver is isolated. Sync ones run at once, in connection order; async ones have a worker
and a mailbox of their own; those that are connected to blinker are called last.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

import anyio
import anyio.lowlevel
import blinker

from eventbus_tasks._delivery import Delivery, Mailbox, in_receiver
from eventbus_tasks._derived import LineNumbers, output_lines, whole_lines
from eventbus_tasks._history import Replay
from eventbus_tasks._native import absorb, error_text, redeliver
from eventbus_tasks.events import (
    HandlerFailed,
    OutputLine,
    OutputReceived,
    OutputSource,
    TaskEnded,
    TaskEvent,
)
from eventbus_tasks.policies import Stream
from eventbus_tasks.request import TaskRef
from eventbus_tasks.signals import EventSignal, EventStream, Subscription, describe_callable

__all__ = ["Bus"]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")

E = TypeVar("E", bound=TaskEvent)


class Bus:
    """Delivers the events of one engine."""

    def __init__(
        self,
        *,
        start_worker: Callable[[Callable[[], Awaitable[None]]], None] | None = None,
        overrun_after: float = 0.25,
    ) -> None:
        self._subscriptions: dict[int, Subscription] = {}
        self._numbers = itertools.count(1)
        self._plan: dict[type[TaskEvent], tuple[Subscription, ...]] = {}
        self._line_plan: tuple[Subscription, ...] | None = None
        self._wants_output: bool | None = None
        self._line_receiver: Subscription | None = None
        self._line_receiver_known = False
        self._streams: set[EventStream[Any]] = set()
        self._signals: dict[type[TaskEvent], EventSignal[Any]] = {}
        self._exposed: dict[type[TaskEvent], blinker.Signal] = {}
        self._queue: deque[tuple[TaskEvent, Any, list[Delivery]]] = deque()
        self._emitting = False
        self._lines = LineNumbers()
        self.start_worker = start_worker
        self.overrun_after = overrun_after

    def signal(self, event_type: type[E]) -> EventSignal[E]:
        known = self._signals.get(event_type)
        if known is None:
            known = self._signals[event_type] = EventSignal(self, event_type)
        return cast("EventSignal[E]", known)

    def connect(
        self,
        event_type: type[TaskEvent],
        receiver: Callable[[Any], Any],
        *,
        task_uid: str | None,
        weak: bool,
    ) -> Subscription:
        number = next(self._numbers)
        subscription = Subscription(
            self, event_type, receiver, task_uid=task_uid, weak=weak, number=number
        )
        self._subscriptions[number] = subscription
        self._forget_plans()
        return subscription

    def expose(self, event_type: type[TaskEvent], signal: blinker.Signal) -> None:
        self._exposed[event_type] = signal
        self._forget_plans()

    def _forget_plans(self) -> None:
        self._plan.clear()
        self._line_plan = self._wants_output = None
        self._line_receiver_known = False

    def disconnect(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription.number, None)
        self._forget_plans()

    def _plan_for(self, event_type: type[TaskEvent]) -> tuple[Subscription, ...]:
        plan = self._plan.get(event_type)
        if plan is None:
            plan = self._plan[event_type] = tuple(
                subscription
                for subscription in self._subscriptions.values()
                if issubclass(event_type, subscription.event_type)
            )
        return plan

    def wants_output(self) -> bool:
        """Whether anybody would look at output as it arrives."""
        wants = self._wants_output
        if wants is None:
            plans = self._plan_for(OutputReceived) or self._plan_for(OutputLine)
            wants = self._wants_output = bool(plans or self._streams)
        if wants or not self._exposed:
            return wants
        return any(
            bool(signal.receivers) and issubclass(kind, (OutputLine, OutputReceived))
            for kind, signal in self._exposed.items()
        )

    def lone_line_receiver(self) -> Subscription | None:
        """Return the only one who looks at output, if all it wants are lines, of all tasks, now."""
        if not self._line_receiver_known:
            self._line_receiver_known = True
            lines = self._plan_for(OutputLine)
            alone = not (self._plan_for(OutputReceived) or self._streams or self._exposed)
            lone = lines[0] if alone and len(lines) == 1 else None
            self._line_receiver = lone if lone is not None and lone.task_uid is None else None
        receiver = self._line_receiver
        return None if receiver is None or receiver.is_async or self._emitting else receiver

    def emit_lines(
        self,
        receiver: Subscription,
        data: bytes,
        start: int,
        *,
        task: TaskRef,
        seq: int,
        at: datetime,
        stream: Stream,
        source: OutputSource,
    ) -> None:
        """Do what `emit` does with a range of whole lines, for the `lone_line_receiver`.

        Many chatty tasks write a line at a time; then to make the event of its range, which nobody
        looks at, and to pass it on costs as much as all the rest.
        """
        lines = whole_lines(
            data, start, self._lines, task=task, seq=seq, at=at, stream=stream, source=source
        )
        self._emitting = True
        try:
            self._call_one(receiver, lines)
            while self._queue:
                self._deliver(*self._queue.popleft())
        finally:
            self._emitting = False

    def emit(self, event: TaskEvent, task: Any = None) -> list[Delivery]:
        """Deliver an event; return what async receivers have not had yet.

        A receiver that causes another event does not get ahead of those who have not had this
        one: what is emitted meanwhile waits for its turn.
        """
        deliveries: list[Delivery] = []
        if self._emitting:
            self._queue.append((event, task, deliveries))
            return deliveries
        self._emitting = True
        try:
            self._deliver(event, task, deliveries)
            while self._queue:
                self._deliver(*self._queue.popleft())
        finally:
            self._emitting = False
        return deliveries

    def _deliver(self, event: TaskEvent, task: Any, deliveries: list[Delivery]) -> None:
        for subscription in self._plan_for(type(event)):
            if subscription.closed or subscription.task_uid not in (None, event.task.uid):
                continue
            self._hand_over(subscription, event, deliveries)
        if isinstance(event, OutputReceived):
            self._deliver_lines(event, task)
        if self._streams:
            for stream in tuple(self._streams):
                stream._offer(event)
        if self._exposed:
            for event_type, signal in tuple(self._exposed.items()):
                if isinstance(event, event_type):
                    self._deliver_blinker(signal, event, task)
        if isinstance(event, TaskEnded):
            self._lines.forget(event.task)

    def _deliver_lines(self, event: OutputReceived, task: Any) -> None:
        if self._line_plan is None:
            self._line_plan = tuple(
                subscription
                for subscription in self._plan_for(OutputLine)
                if not issubclass(OutputReceived, subscription.event_type)
            )
        blinker_signal = self._exposed.get(OutputLine)
        if not self._line_plan and blinker_signal is None:
            return
        uid = event.task.uid
        immediate: list[Subscription] = []
        for subscription in self._line_plan:
            if subscription.task_uid is not None and subscription.task_uid != uid:
                continue
            if not subscription.is_async:
                immediate.append(subscription)
            elif not subscription.closed:
                # The range waits, not its lines: a backlog costs offsets, not text.
                self._mailbox(subscription).put(event)
        if not immediate and not (blinker_signal and blinker_signal.receivers):
            return
        try:
            lines = output_lines(event, self._lines)
            if blinker_signal is None or not blinker_signal.receivers:
                if len(immediate) == 1:
                    self._call_one(immediate[0], lines)
                else:
                    self._call_all(immediate, lines)
                return
            for line in lines:
                self._call_all(immediate, (line,))
                self._deliver_blinker(blinker_signal, line, task)
        except Exception as error:  # reading the log failed
            self._report("output lines", error, event)

    def _hand_over(
        self, subscription: Subscription, event: TaskEvent, deliveries: list[Delivery]
    ) -> None:
        if not subscription.is_async:
            self._call(subscription, event)
            return
        delivery = Delivery(subscription) if isinstance(event, TaskEnded) else None
        self._mailbox(subscription).put(event, delivery)
        if delivery is not None:
            deliveries.append(delivery)

    def _call(self, subscription: Subscription, event: TaskEvent) -> None:
        receiver = subscription.receiver()
        if receiver is None:
            return
        result = self._guarded(f"receiver {subscription.where}", event, receiver, event)
        if result is not None:
            self._take_result(subscription, result)

    def _call_all(self, subscriptions: list[Subscription], lines: Iterable[OutputLine]) -> None:
        """Do what `_call` does, at the price of lines: a task may write a million of them."""
        token = in_receiver.set(True)
        clock, limit = time.perf_counter, self.overrun_after
        result = None
        began = clock()
        try:
            for line in lines:
                for subscription in subscriptions:
                    receiver = subscription.strong or subscription.receiver()
                    if receiver is None or subscription.closed:
                        continue
                    try:
                        result = receiver(line)
                    except BaseException as error:
                        self._raised(f"receiver {subscription.where}", error, line)
                    now = clock()
                    if now - began > limit:
                        self._overran(f"receiver {subscription.where}", now - began, line)
                        now = clock()
                    began = now
                    if result is not None:
                        self._take_result(subscription, result)
                        result = None
        finally:
            in_receiver.reset(token)

    def _call_one(self, subscription: Subscription, lines: Iterable[OutputLine]) -> None:
        """Do what `_call_all` does, with one look at the clock for all lines of a chunk."""
        token = in_receiver.set(True)
        receiver = subscription.strong
        if receiver is None:
            receiver = subscription.receiver() or _nothing
        line = result = None
        began = time.perf_counter()
        try:
            for line in lines:
                if subscription.closed:
                    break
                try:
                    result = receiver(line)
                except BaseException as error:
                    self._raised(f"receiver {subscription.where}", error, line)
                if result is not None:
                    self._take_result(subscription, result)
                    result = None
        finally:
            in_receiver.reset(token)
            took = time.perf_counter() - began
            if took > self.overrun_after and line is not None:
                self._overran(f"receiver {subscription.where}", took, line)

    def _take_result(self, subscription: Subscription, result: Any) -> None:
        if inspect.isawaitable(result):
            # A lambda around an async function: from now on it has a worker like any other.
            subscription.is_async = True
            self._mailbox(subscription).put(result)

    def _deliver_blinker(self, signal: blinker.Signal, event: TaskEvent, task: Any) -> None:
        for receiver in tuple(signal.receivers_for(task)):
            where = f"blinker receiver {describe_callable(receiver)}"
            result = self._guarded(where, event, receiver, task, event=event)
            if result is not None and inspect.isawaitable(result) and self.start_worker is not None:
                self.start_worker(functools.partial(self._await_guarded, where, event, result))

    def _guarded(
        self, where: str, cause: TaskEvent, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        token = in_receiver.set(True)
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            self._raised(where, error, cause)
            return None
        finally:
            in_receiver.reset(token)
            took = time.perf_counter() - began
            if took > self.overrun_after:
                self._overran(where, took, cause)

    def _raised(self, where: str, error: BaseException, cause: TaskEvent) -> None:
        self._report(where, error, cause)
        redeliver(error)

    def _overran(self, where: str, took: float, cause: TaskEvent) -> None:
        text = f"blocked the loop for {took:.2f} s"
        if isinstance(cause, HandlerFailed):  # else it would be told about itself for ever
            logger.error("%s %s", where, text)
            return
        self.report(where, text, cause.task, seq=cause.seq, overran=True)

    async def _await_guarded(self, where: str, event: TaskEvent, awaitable: Awaitable[Any]) -> None:
        token = in_receiver.set(True)
        try:
            await awaitable
        except anyio.get_cancelled_exc_class() as error:
            if await _is_cancelled():
                raise
            absorb()
            self._report(where, error, event)
        except BaseException as error:
            self._raised(where, error, event)
        finally:
            in_receiver.reset(token)

    def _mailbox(self, subscription: Subscription) -> Mailbox:
        if subscription.mailbox is None:
            subscription.mailbox = Mailbox()
            if self.start_worker is not None:
                self.start_worker(functools.partial(self._work, subscription))
        return subscription.mailbox

    async def _work(self, subscription: Subscription) -> None:
        mailbox = self._mailbox(subscription)
        where = f"receiver {subscription.where}"
        numbers = LineNumbers()
        wants_lines = issubclass(OutputLine, subscription.event_type) and not issubclass(
            OutputReceived, subscription.event_type
        )
        while True:
            try:
                entry = await mailbox.get()
            except anyio.get_cancelled_exc_class():
                if await _is_cancelled():
                    raise
                absorb()  # a receiver has cancelled the task that it runs in
                continue
            if entry is None:
                return
            event, delivery = entry
            try:
                if not isinstance(event, TaskEvent):
                    await self._await_guarded(where, TaskEvent(), event)
                elif wants_lines and isinstance(event, OutputReceived):
                    for line in output_lines(event, numbers):
                        if subscription.closed:
                            break
                        await self._receive(subscription, where, line)
                elif not subscription.closed:
                    await self._receive(subscription, where, event)
            except Exception as error:  # reading the log failed
                self._report(where, error, event)
            finally:
                subscription.stuck = False
                if delivery is not None:
                    delivery.finish()

    async def _receive(self, subscription: Subscription, where: str, event: TaskEvent) -> None:
        receiver = subscription.receiver()
        if receiver is None:
            return
        result = self._guarded(where, event, receiver, event)
        if inspect.isawaitable(result):
            await self._await_guarded(where, event, result)

    def _report(self, where: str, error: BaseException, event: TaskEvent) -> None:
        logger.error("%s failed on %s", where, event.name, exc_info=error)
        if not isinstance(event, HandlerFailed):  # else a failing receiver of it would never end
            self.report(where, error_text(error), event.task, seq=event.seq)

    def report(
        self, where: str, error: str, task: TaskRef, *, seq: int = 0, overran: bool = False
    ) -> None:
        """Emit a `HandlerFailed`."""
        self.emit(
            HandlerFailed(
                task=task, seq=seq, at=datetime.now(UTC), where=where, error=error, overran=overran
            )
        )

    def open_stream(
        self,
        types: tuple[type[TaskEvent], ...],
        task_uid: str | None,
        replay: Replay | None = None,
        *,
        ended: bool = False,
    ) -> EventStream[Any]:
        """Open a stream; one of a task that has ended is only replayed."""
        stream: EventStream[Any] = EventStream(self, types, task_uid, replay)
        if ended:
            stream._mailbox.close()
        else:
            self._streams.add(stream)
            self._forget_plans()
        return stream

    def forget_stream(self, stream: EventStream[Any]) -> None:
        self._streams.discard(stream)
        self._forget_plans()

    def close(self) -> None:
        """Let every worker and stream end once it has had what is waiting.

        From now on only sync receivers hear of anything.
        """
        self.start_worker = None
        for subscription in tuple(self._subscriptions.values()):
            if subscription.mailbox is not None:
                subscription.mailbox.close()
                subscription.mailbox = None
        for stream in tuple(self._streams):
            stream._mailbox.close()


def _nothing(event: TaskEvent) -> None:
    """Stand in for a receiver that nobody holds any more."""


async def _is_cancelled() -> bool:
    """Whether the surrounding scope was really cancelled: a receiver may raise what it likes."""
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
    except anyio.get_cancelled_exc_class():
        return True
    return False

"""What waits for a consumer of events, and who consumes right now."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import anyio

from eventbus_tasks._native import absorb
from eventbus_tasks.events import OutputReceived, TaskEvent

if TYPE_CHECKING:
    from eventbus_tasks.signals import Subscription

__all__ = ["MERGE_LIMIT", "Delivery", "Mailbox", "await_receivers", "in_receiver"]

MERGE_LIMIT: Final = 1024 * 1024
"""Bytes that merged output events may span: a receiver that reads one reads no more at once."""

CROWDED: Final = 1000
"""Waiting entries from which on output is merged over the other stream's, out of turn."""

in_receiver: Final[ContextVar[bool]] = ContextVar("in_receiver", default=False)
"""Whether this context runs inside a receiver: a `wait` there must not wait for receivers."""


class Delivery:
    """One event on its way to one async receiver."""

    __slots__ = ("_done", "subscription")

    def __init__(self, subscription: Subscription) -> None:
        self.subscription: Subscription = subscription
        self._done = anyio.Event()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def finish(self) -> None:
        self._done.set()

    async def wait(self) -> None:
        await self._done.wait()


async def await_receivers(
    deliveries: Iterable[Delivery], deadline: float, *, failed: Callable[[str, str, bool], None]
) -> None:
    """Wait until async receivers have had an event; those that take too long are named.

    Must be called within a shielded scope.

    Args:
        deliveries: What is on its way.
        deadline: Seconds to wait for all of them.
        failed: Gets ``(where, what, overran)``.
    """
    waiting = [delivery for delivery in deliveries if not delivery.subscription.stuck]
    with anyio.move_on_after(deadline) as scope:
        try:
            while waiting:
                await waiting[0].wait()
                del waiting[0]
        except anyio.get_cancelled_exc_class():
            if scope.cancel_called:
                raise
            # Native: the loop ends, and its async receivers have been cancelled as well.
            absorb()
            waiting.clear()
    if scope.cancelled_caught:
        for delivery in waiting:
            if delivery.is_done:
                continue
            # Until it moves again, nobody waits for this receiver any more.
            delivery.subscription.stuck = True
            where = f"receiver {delivery.subscription.where}"
            failed(where, f"has not taken the end of the task within {deadline:g} s", True)


class Mailbox:
    """What one consumer has not had yet; adjoining output of a task becomes one entry.

    Memory is bounded by the number of tasks and of their lifecycle events, whatever they write:
    output entries hold offsets, not bytes. Two streams that take turns are merged each for
    itself once the mailbox is crowded: their events then overlap in numbers, never in bytes.
    """

    def __init__(self) -> None:
        self._entries: deque[list[Any]] = deque()  # [event, delivery], mutable for merging
        # Of each task, the entry of each stream that later output may be merged into.
        self._open: dict[str, dict[str, list[Any]]] = {}
        self._wakeup = anyio.Event()
        self.closed: bool = False

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, event: TaskEvent | Awaitable[Any], delivery: Delivery | None = None) -> None:
        entry = [event, delivery]
        if isinstance(event, OutputReceived):
            streams = self._open.setdefault(event.task.uid, {})
            last = streams.get(event.stream)
            if last is not None:
                previous = last[0]
                if previous.end == event.start and event.end - previous.start <= MERGE_LIMIT:
                    last[0] = previous.merge(event)
                    return
            if len(self._entries) < CROWDED:
                streams.clear()  # the events of both streams stay in their order
            streams[event.stream] = entry
        elif isinstance(event, TaskEvent):
            self._open.pop(event.task.uid, None)
        self._entries.append(entry)
        self._wakeup.set()

    def close(self) -> None:
        self.closed = True
        self._wakeup.set()

    async def get(self) -> tuple[Any, Delivery | None] | None:
        """Return the oldest entry, or ``None`` once closed and empty."""
        while not self._entries:
            if self.closed:
                return None
            self._wakeup = anyio.Event()
            await self._wakeup.wait()
        return self._pop()

    def _pop(self) -> tuple[Any, Delivery | None]:
        entry = self._entries.popleft()
        event = entry[0]
        if isinstance(event, OutputReceived):
            streams = self._open.get(event.task.uid)
            if streams is not None and streams.get(event.stream) is entry:
                del streams[event.stream]
                if not streams:
                    del self._open[event.task.uid]
        return event, entry[1]

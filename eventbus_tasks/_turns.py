"""When an accepted task may start: its turn in the project, and its place among those that run.

The order is that of acceptance, in both. First comes the project, then the place: a task that
waits for a project, which another program may hold for hours, keeps nobody else from running.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Literal

import anyio

from eventbus_tasks._process.lock import Busy, ProjectLock
from eventbus_tasks._process.queue import Ticket
from eventbus_tasks._threads import DeadlineExceededError, NoWorkerError

__all__ = ["Admittance", "Lines", "Places", "close_entry"]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")

_SOON: Final = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""Seconds between the attempts after news: the kernel tells of a closing just before it unlocks."""

_LOOK_AGAIN: Final = 1.0
"""Seconds until an attempt without news, should the kernel have had none to give (a network file
system, a suspended process that was before us)."""

_LOOK_WITHOUT_NEWS: Final = 0.25
"""The same where there is no descriptor to wait for."""


class Places:
    """The places of one engine for tasks that run; the longest-waiting task gets the next.

    Args:
        limit: How many there are; ``None`` for any number.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._taken: set[int] = set()
        self._waiting: list[tuple[int, int]] = []
        self._wakes: dict[int, Callable[[], None]] = {}

    def ask(self, number: int, wake: Callable[[], None]) -> bool:
        """Take a place, or wait for one; return whether it is there. Asking again does no harm.

        Args:
            number: The task's number in the order of acceptance.
            wake: Called when the place is there.
        """
        if number not in self._taken and number not in self._wakes:
            self._wakes[number] = wake
            heapq.heappush(self._waiting, (number, number))
            self._grant()
        return number in self._taken

    def leave(self, number: int) -> None:
        """Give the place back, or stop waiting for it. Safe to repeat."""
        self._taken.discard(number)
        self._wakes.pop(number, None)
        self._grant()

    def ahead(self, number: int) -> int:
        """Return how many are waiting before a task."""
        return sum(1 for other in self._wakes if other < number)

    def _grant(self) -> None:
        while self._waiting and (self._limit is None or len(self._taken) < self._limit):
            _, number = heapq.heappop(self._waiting)
            wake = self._wakes.pop(number, None)
            if wake is not None:  # else it has stopped waiting
                self._taken.add(number)
                wake()


class Lines:
    """Who waits for which project, within one engine: only the first of a line has to watch.

    Args:
        run: Runs a function that touches the disk, in a worker thread, under a deadline.
    """

    def __init__(self, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self.run = run
        self._lines: dict[str, deque[Admittance]] = {}

    def join(self, turn: Admittance, key: str) -> None:
        """Queue up behind the others of this engine."""
        self._lines.setdefault(key, deque()).append(turn)

    def is_first(self, turn: Admittance, key: str) -> bool:
        """Whether nobody of this engine is before it."""
        line = self._lines.get(key)
        return not line or line[0] is turn

    def leave(self, turn: Admittance, key: str) -> None:
        """Leave the line, and wake whoever is first now. Safe to repeat."""
        line = self._lines.get(key)
        if line is None or turn not in line:
            return
        line.remove(turn)
        if line:
            line[0].interrupt()
        else:
            del self._lines[key]


class Admittance:
    """The wait of one task for its project and its place. Belongs to the engine's loop.

    Args:
        number: The task's number in the order of acceptance.
        entry: The lock of the project, a ticket for it, or ``None`` for a task that shares it.
        lines: The lines of the engine.
        places: The places of the engine.
    """

    def __init__(
        self, number: int, entry: ProjectLock | Ticket | None, lines: Lines, places: Places
    ) -> None:
        self._number = number
        self._lines = lines
        self._places = places
        self._ticket: Ticket | None = entry if isinstance(entry, Ticket) else None
        self._lock: ProjectLock | None = None if isinstance(entry, Ticket) else entry
        self._interrupted = False
        self._scope: anyio.CancelScope | None = None
        self._delays: Iterator[float] = iter(())
        self.attempts: int = 0
        if self._ticket is not None:
            lines.join(self, self._ticket.key)

    @property
    def lock(self) -> ProjectLock | None:
        """The lock of the project, once it is there."""
        return self._lock

    def interrupt(self) -> None:
        """Have `next_change` return now."""
        self._interrupted = True
        if self._scope is not None:
            self._scope.cancel()

    def waits_for(self) -> Literal["project", "max_running"] | None:
        """Return what is missing; ask for the place as soon as the project is there."""
        if self._ticket is not None:
            return "project"
        return None if self._places.ask(self._number, self.interrupt) else "max_running"

    async def describe(self) -> tuple[int, Mapping[str, Any]]:
        """Return how many wait before it, and what is known about the holder of the project."""
        ticket = self._ticket
        if ticket is None:
            return self._places.ahead(self._number), {}
        try:
            ahead = await self._lines.run(ticket.ahead)
            holder = await self._lines.run(ticket.holder)
        except (OSError, DeadlineExceededError) as error:
            logger.warning("cannot tell who has %s: %s", ticket.key, error)
            return 0, {}
        return ahead, dict(holder or {})

    async def next_change(self) -> None:
        """Wait until something may have changed, or `interrupt` is called.

        Cancellation: loses neither the place in the queue nor a lock.

        Raises:
            OSError: The project cannot be locked at all.
        """
        ticket = self._ticket
        if ticket is not None and self._lines.is_first(self, ticket.key):
            await self._try(ticket)
            if self._ticket is None:
                return
        if not self._interrupted:
            await self._pause(ticket)
        self._interrupted = False

    async def _try(self, ticket: Ticket) -> None:
        # Watched first, so that what happens during the attempt is news.
        ticket.watch()
        self.attempts += 1
        try:
            got = await self._lines.run(ticket.attempt)
        except (DeadlineExceededError, NoWorkerError):
            return  # what it gets later, the next attempt finds
        if got:
            self._lock = ticket.take_lock()
            self._end_wait()

    async def _pause(self, ticket: Ticket | None) -> None:
        with anyio.CancelScope() as self._scope:
            if ticket is None or not self._lines.is_first(self, ticket.key):
                await anyio.sleep_forever()
            else:
                await self._wait_for_news(ticket)
        self._scope = None

    async def _wait_for_news(self, ticket: Ticket) -> None:
        delay = next(self._delays, None)
        if delay is not None:
            await anyio.sleep(delay)
            return
        watch = ticket.watch()
        with anyio.move_on_after(_LOOK_AGAIN if watch >= 0 else _LOOK_WITHOUT_NEWS):
            while True:
                if watch < 0:
                    await anyio.sleep_forever()
                await anyio.wait_readable(watch)
                if ticket.drain():
                    self._delays = iter(_SOON)
                    return
                await anyio.sleep(_SOON[-1])  # files that are closed in it are no news

    def hand_over(self) -> None:
        """Let go of this process's copy of the lock: others hold it now."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _end_wait(self) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._lines.leave(self, ticket.key)
            ticket.close()

    def release(self) -> None:
        """Give everything back. Safe to repeat."""
        self.hand_over()
        self._end_wait()
        self._places.leave(self._number)


def close_entry(entry: ProjectLock | Ticket | Busy | None) -> None:
    """Give back a project, or the place in its queue."""
    if isinstance(entry, (ProjectLock, Ticket)):
        entry.close()

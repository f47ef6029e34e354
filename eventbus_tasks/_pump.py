"""Lets the tasks of one engine hand out their output in turn, without holding up its loop.

One place for all of them: what wakes up for one task looks at all, so that a hundred chatty
tasks cost a few hundred wake-ups a second, not ten thousand.
"""

from __future__ import annotations

import contextvars
import enum
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel

from eventbus_tasks._native import absorb, wait_at_most
from eventbus_tasks._restraint import ProcessorWait, Restraint

__all__ = ["OutputPump", "Turn"]

BUDGET: Final = 0.001
"""Seconds of turns after which everything else on the loop has its turn: what the loop lags."""

BUDGET_OF_FLOODS: Final = 0.0003
"""The same with floods: the last turn, which ends later, is a long one."""

INTERVAL: Final = 0.005
"""Seconds between two rounds under load, so that each finds more to do."""

BUSY: Final = 4
"""So many rounds within one and a half times as many intervals are load."""


class Turn(enum.Enum):
    """What a turn says about the next one."""

    MORE = "there is more in the log already"
    IDLE = "nothing more until its descriptor is rung"
    DONE = "nothing will ever come"
    COLD = "what follows is not in memory: somebody has to wait for the disk"


class _Entry:
    __slots__ = (
        "context",
        "descriptor",
        "done",
        "ended",
        "failure",
        "floods",
        "ready",
        "said",
        "turn",
    )

    def __init__(self, descriptor: int, turn: Callable[[], Turn]) -> None:
        self.descriptor = descriptor
        self.turn = turn
        # Receivers find the context of whoever spawned the task, as in everything else of it.
        self.context = contextvars.copy_context()
        self.ready = False
        self.floods = False  # there was more than one turn could hand out
        self.ended = False  # nobody follows it any more
        self.done = anyio.Event()
        self.said = Turn.DONE  # at the end
        self.failure: BaseException | None = None


class OutputPump:
    """Calls the turns of tasks whose descriptors were rung. Made within a running loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Edge-triggered: a ring is an event, and nobody has to read the counter back to zero.
        self._epoll.register(self._bell, select.EPOLLIN | select.EPOLLET)
        self._entries: dict[int, _Entry] = {}
        self._ready: deque[_Entry] = deque()
        self._hurry = anyio.Event()
        self._rounds: deque[float] = deque([0.0] * BUSY, maxlen=BUSY)
        self._floods = 0  # how many of the ready ones
        self._processors = len(os.sched_getaffinity(0))
        self._waited = ProcessorWait()
        self._restraint = Restraint(self._waited)
        self._closed = False
        self._running = False

    async def follow(self, descriptor: int, turn: Callable[[], Turn]) -> Turn:
        """Call `turn` now and whenever the descriptor is rung, until it says `DONE` or `COLD`.

        Args:
            descriptor: An eventfd; it is not read.
            turn: Hands out the next piece. An exception of it ends the following, and comes
                out of here.

        Returns:
            What it said last.

        Cancellation: ends the following; it can begin again.
        """
        entry = _Entry(descriptor, turn)
        self._entries[descriptor] = entry
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        try:
            self.wake(descriptor)
            await entry.done.wait()
        finally:
            # By hand: other processes hold the descriptor too, so that closing it is not enough.
            if not self._closed:
                self._epoll.unregister(descriptor)
            del self._entries[descriptor]
            entry.ended = True
        if entry.failure is not None:
            raise entry.failure
        return entry.said

    def wake(self, descriptor: int) -> None:
        """Have the turn of a followed descriptor called soon, without waiting for more."""
        entry = self._entries.get(descriptor)
        if entry is not None:
            self._add(entry)
            self._hurry.set()
            self._ring()

    async def run(self) -> None:
        """Work until `close`, whatever native cancellation comes. Call it within a shield."""
        self._running = True
        try:
            while not self._closed:
                try:
                    await self._round()
                except anyio.get_cancelled_exc_class():
                    absorb()
        finally:
            self._running = False
            self._closed = True
            self._release()

    async def _round(self) -> None:
        waited = not self._ready and await self._let_gather()
        if self._closed:
            return
        if not self._collect():
            await anyio.wait_readable(self._epoll)
            waited = True
            if self._closed or not self._collect():
                return
        began = time.monotonic()
        crowded = self._floods >= self._processors  # they can take all of them
        until = began + (BUDGET_OF_FLOODS if self._floods else BUDGET)
        while self._ready:
            entry = self._ready.popleft()
            entry.ready = False
            self._floods -= entry.floods
            self._take_turn(entry)
            if time.monotonic() > until:
                break
        if not self._ready:
            self._rounds.append(began)
        if crowded and self._ready:
            await anyio.sleep(self._restraint.next_rest())
            return
        self._restraint.end()
        if self._ready or not waited:
            await anyio.lowlevel.checkpoint()

    async def _let_gather(self) -> bool:
        """Wait for a moment under load, unless there is something that must not wait."""
        now = time.monotonic()
        pause = self._rounds[-1] + INTERVAL - now
        waits = pause > 0 and now - self._rounds[0] < 1.5 * BUSY * INTERVAL
        if waits:
            await wait_at_most(pause, self._hurry)
        if self._hurry.is_set():
            self._hurry = anyio.Event()
        return waits

    def _collect(self) -> bool:
        """Take note of what was rung for; return whether there is anything to do."""
        for descriptor, _ in self._epoll.poll(0):
            entry = self._entries.get(descriptor)
            if entry is not None:
                self._add(entry)
        return bool(self._ready)

    def _add(self, entry: _Entry) -> None:
        if not entry.ready:
            entry.ready = True
            self._floods += entry.floods
            self._ready.append(entry)

    def _take_turn(self, entry: _Entry) -> None:
        if entry.ended:
            return
        try:
            said = entry.context.run(entry.turn)
        except BaseException as error:
            entry.failure = error
            said = Turn.DONE
        entry.floods = said is Turn.MORE
        if said is Turn.MORE:
            self._add(entry)
        elif said is not Turn.IDLE:
            entry.said = said
            entry.ended = True
            entry.done.set()

    def _ring(self) -> None:
        if not self._closed:
            os.eventfd_write(self._bell, 1)

    def close(self, *, loop_is_gone: bool = False) -> None:
        """End `run`. What is followed is given up."""
        if not self._closed:
            self._hurry.set()
            self._ring()
            self._closed = True
        if loop_is_gone or not self._running:
            self._release()

    def _release(self) -> None:
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._bell)
            self._waited.close()

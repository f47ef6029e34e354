"""The warden climbs the ladder of a task whose guardian hangs.

A guardian hangs when it is in a call that does not return, such as a write to a frozen disk, or
when somebody has stopped it. One that is merely late, because the machine is busy, does not.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from eventbus_tasks._process import wire
from eventbus_tasks._process.board import Slot, State
from eventbus_tasks._process.family import Process, descendants, read_process
from eventbus_tasks._process.ladder import KILL, Ladder, Rung
from eventbus_tasks._process.signalling import MAX_PIDS, send_rung

__all__ = ["StandIn"]

PATIENCE: Final = 0.12
"""Seconds that a guardian may be late before anybody looks whether it hangs."""

LOOK_EVERY: Final = 0.05
"""Seconds between two looks at a guardian that is late."""

LOOK_LATER: Final = 0.5
"""The same, when nobody is left who could be signalled."""


@dataclass(slots=True)
class _Watch:
    """One guardian that has something to do in time."""

    task: int
    slot: Slot
    requests: list[tuple[float, str, tuple[Rung, ...] | None]] = field(default_factory=list)
    """What the host has asked for: when, why, by which rungs."""
    done: int = 0
    """How many of them were carried out here."""
    host_lost_at: float | None = None
    terminated_at: float | None = None
    look_at: float = math.inf
    standing_in: bool = False
    continued: bool = False
    introduced: bool = False
    killed: set[int] = field(default_factory=set)


class StandIn:
    """Looks after the guardians that have something to do, and does it where they cannot.

    Attributes:
        next_look: When to call `look`, ``inf`` for never; that may turn out to be too early.
    """

    def __init__(
        self,
        tell: Callable[[int, wire.Message], None],
        kill_group: Callable[[int], object],
        introduce: Callable[[int], object],
    ) -> None:
        """Begin with nobody.

        Args:
            tell: Tells the host about a task.
            kill_group: Kills the control group of a guardian's task, if it has one.
            introduce: Writes the first state into the slot of a guardian that has written none.
        """
        self._tell = tell
        self._kill_group = kill_group
        self._introduce = introduce
        self._watches: dict[int, _Watch] = {}
        self.next_look = math.inf

    def watch(self, guardian: int, task: int, slot: Slot, *, due: float) -> None:
        """Look after a guardian that has something to do at `due`."""
        if (watch := self._watches.get(guardian)) is None:
            watch = self._watches[guardian] = _Watch(task, slot)
        watch.look_at = min(watch.look_at, due + PATIENCE)
        self.next_look = min(self.next_look, watch.look_at)

    def stop(
        self, guardian: int, task: int, slot: Slot, reason: str, rungs: tuple[Rung, ...] | None
    ) -> None:
        """Look after a guardian that the host has asked to stop its task."""
        now = time.monotonic()
        self.watch(guardian, task, slot, due=now)
        self._watches[guardian].requests.append((now, reason, rungs))

    def lose_host(self, guardian: int, task: int, slot: Slot) -> None:
        """Look after a guardian whose host has died."""
        now = time.monotonic()
        self.watch(guardian, task, slot, due=now)
        self._watches[guardian].host_lost_at = now

    def terminate(self, guardian: int, task: int, slot: Slot) -> None:
        """Look after a guardian that was sent SIGTERM."""
        now = time.monotonic()
        self.watch(guardian, task, slot, due=now)
        self._watches[guardian].terminated_at = now

    def forget(self, guardian: int) -> None:
        """A guardian has ended."""
        self._watches.pop(guardian, None)

    def look(self) -> None:
        """Look at everybody whose time has come."""
        now = time.monotonic()
        if now < self.next_look:
            return
        for guardian, watch in self._watches.items():
            if watch.look_at <= now:
                self._look(guardian, watch, now)
        self.next_look = min((watch.look_at for watch in self._watches.values()), default=math.inf)

    def _look(self, guardian: int, watch: _Watch, now: float) -> None:
        rung = None
        with watch.slot.locked() as held:
            state = watch.slot.read()
            if state is None and held and not watch.introduced:
                # Its program is on a disk that hangs, for one; it has never been here.
                watch.introduced = True
                self._introduce(guardian)
                state = watch.slot.read()
            if state is None or state.over:
                # Without a state it has a ladder that is too long.
                watch.look_at = now + 1.0 if state is None else math.inf
                return
            watch.look_at = now + LOOK_EVERY
            if watch.standing_in and not watch.slot.taken:
                watch.standing_in = False  # it has come back, and goes on by itself
            since = _late_since(watch, state)
            if since is None:
                watch.look_at = math.inf
                return
            if not watch.standing_in:
                if now < since + PATIENCE:
                    watch.look_at = since + PATIENCE
                    return
                if not held or not self._hangs(guardian, watch):
                    return
            if _family(guardian):
                rung = self._take(watch, state, now)
            else:
                watch.look_at = now + LOOK_LATER
        if rung is not None:
            self._send(guardian, watch, rung, state, now)

    def _hangs(self, guardian: int, watch: _Watch) -> bool:
        process = read_process(guardian)
        if process is None:
            return False
        if process.state == "T" and not watch.continued:
            # Whoever has stopped it: its task has to end, and for that it has to go on.
            watch.continued = True
            os.kill(guardian, signal.SIGCONT)
            return False
        return process.state in "DTt" or (process.state == "S" and not watch.slot.idle)

    def _take(self, watch: _Watch, state: State, now: float) -> Rung | None:
        """Take the rung that is due, if one is; the guardian cannot take it any more."""
        pending = watch.requests[max(watch.done, state.stops) :]
        leads = state.leader is None or _is_alive(state.leader)
        ladder = state.ladder()
        if ladder is None:
            reason, rungs = _cause(pending, watch, state, now)
            pending = pending[1:]
            if rungs is None:
                rungs = state.rungs
            ladder = Ladder(rungs, kill_wait=state.kill_wait, now=now)
            if leads:
                state.reason = reason
                self._tell(watch.task, wire.Stopping(reason=reason, at=time.time()))
        for _, _, rungs in pending:
            if rungs is not None:
                ladder.shorten(rungs, now)
        watch.done = len(watch.requests)
        if not leads:
            ladder.leader_left(now + state.exit_grace)
        rung = ladder.advance(now)
        state.take(ladder)
        state.time_limit = None
        watch.slot.write(state)
        watch.slot.taken = watch.standing_in = True
        watch.look_at = min(watch.look_at, ladder.deadline)
        return rung

    def _send(self, guardian: int, watch: _Watch, rung: Rung, state: State, now: float) -> None:
        reached = send_rung(
            rung,
            lambda: _family(guardian),
            leader=state.leader[0] if state.leader else 0,
            pinned=False,  # by now its guardian may have come back, and reap it
        )
        pids = sorted(pid for pid in reached if rung is not KILL or pid not in watch.killed)
        if rung is KILL:
            self._kill_group(guardian)
            watch.killed |= set(pids)
        if pids:
            message = wire.SignalSent(
                signal=rung.signal, pids=tuple(pids[:MAX_PIDS]), scope=rung.scope, at=time.time()
            )
            self._tell(watch.task, message)
        if not reached and rung is not KILL:
            self._skip(watch, now)

    def _skip(self, watch: _Watch, now: float) -> None:
        """Do not wait out the grace of a rung that has reached nobody."""
        with watch.slot.locked():
            state = watch.slot.read()
            if state is not None and watch.slot.taken:
                state.due = now
                watch.slot.write(state)
                watch.look_at = now


def _late_since(watch: _Watch, state: State) -> float | None:
    """Return since when the guardian should have done something, or when it will have to."""
    due = [when for when, _, _ in watch.requests[max(watch.done, state.stops) :]]
    if state.due is not None:
        due.append(state.due)
    else:
        if state.time_limit is not None:
            due.append(state.time_limit)
        if state.kills_for_host and watch.host_lost_at is not None:
            due.append(watch.host_lost_at)
        if watch.terminated_at is not None:
            due.append(watch.terminated_at)
    return min(due, default=None)


def _cause(
    pending: list[tuple[float, str, tuple[Rung, ...] | None]],
    watch: _Watch,
    state: State,
    now: float,
) -> tuple[str, tuple[Rung, ...] | None]:
    """Return why a ladder begins, and which it is; ``None`` for that of the policy."""
    if pending:
        return pending[0][1:]
    if state.time_limit is not None and now >= state.time_limit:
        return "timed_out", None
    lost = state.kills_for_host and watch.host_lost_at is not None
    return ("host_lost" if lost else "cancelled"), None


def _family(guardian: int) -> list[Process]:
    return [process for process in descendants(guardian) if process.alive]


def _is_alive(who: tuple[int, int]) -> bool:
    process = read_process(who[0])
    return process is not None and process.start_time == who[1] and process.alive

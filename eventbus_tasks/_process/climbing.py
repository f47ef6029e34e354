"""Limits, the ladder, and who climbs it: what a guardian does to end its task."""

from __future__ import annotations

import abc
import os
import time
from typing import Any, Final

from eventbus_tasks._process import wire
from eventbus_tasks._process.board import Slot, State
from eventbus_tasks._process.capture import Capture
from eventbus_tasks._process.cgroup import TaskCgroup
from eventbus_tasks._process.family import Process, descendants
from eventbus_tasks._process.ladder import KILL, Ladder, Policy, Rung
from eventbus_tasks._process.signalling import MAX_PIDS, send_rung
from eventbus_tasks._process.upwards import WardenLink

__all__ = ["Climber"]


_NOBODY: Final = frozenset[Any]()


class _Shared:
    """The slot is locked, and what it says is what the guardian knows, before and afterwards.

    It may be entered again and again, but not twice at once.
    """

    __slots__ = ("_climber",)

    def __init__(self, climber: Climber) -> None:
        self._climber = climber

    def __enter__(self) -> None:
        climber = self._climber
        climber._slot.acquire()
        if climber._memory[climber._taken]:
            climber._resume()

    def __exit__(self, *error: object) -> None:
        slot = self._climber._slot
        try:
            slot.write(self._climber._state())
        finally:
            slot.release()


class Climber(abc.ABC):
    """The part of a guardian that ends its task.

    It shares a slot with the warden, which climbs when the guardian cannot: whatever changes about
    the ladder is changed within `_shared`.
    """

    __slots__ = (
        "_adopted",
        "_drain_until",
        "_idle",
        "_killed",
        "_known",
        "_ladder",
        "_last_output",
        "_leave_or_kill_at",
        "_memory",
        "_outlived",
        "_pid",
        "_policy",
        "_reason",
        "_shared",
        "_slot",
        "_stops",
        "_taken",
        "_time_limit",
    )

    _captures: list[Capture]
    _cgroup: TaskCgroup | None
    _ended: bool
    _leader: int
    _leader_start: int
    _reaped: bool
    _return_code: int | None

    def __init__(self, policy: Policy, slot: Slot | None) -> None:
        """Begin without a ladder; `slot` is shared with the warden, if there is one."""
        self._policy = policy
        self._pid = os.getpid()
        self._slot = slot or Slot.private()
        self._memory = self._slot.memory
        self._idle = self._slot.idle_at
        self._taken = self._slot.taken_at
        self._known = State(policy.rungs, policy.kill_wait, policy.exit_grace)
        # Takes note of what the warden has done in our place, and tells it what changes here.
        self._shared = _Shared(self)
        self._ladder: Ladder | None = None
        self._reason: str | None = None
        self._stops = 0  # requests of the host
        self._adopted = False
        self._outlived: frozenset[tuple[int, int]] = _NOBODY
        self._killed: frozenset[int] = _NOBODY
        self._time_limit: float | None = None
        self._last_output = time.monotonic()
        self._leave_or_kill_at: float | None = None
        self._drain_until: float | None = None

    # What the guardian does besides.

    @abc.abstractmethod
    def _capture(self, now: float) -> bool:
        """Take what the task has written."""

    @abc.abstractmethod
    def _end(self, *, survivors: list[Process] | None = None, unkillable: bool = False) -> None:
        """Make everything durable and say the last word."""

    @abc.abstractmethod
    def _link(self) -> WardenLink | None:
        """Return what leads to the warden, if there is a warden."""

    @abc.abstractmethod
    def _send(self, message: wire.Message) -> None:
        """Tell the host, and whoever comes later."""

    # -- limits --------------------------------------------------------------------------------

    @property
    def _idle_limit(self) -> float | None:
        running = self._return_code is None and self._reason is None
        return self._policy.idle_timeout if running else None

    def _check_limits(self, now: float) -> None:
        policy = self._policy
        if self._leave_or_kill_at is not None and now >= self._leave_or_kill_at:
            self._leave_or_kill_at = None
            if policy.after_exit == "kill":
                with self._shared:
                    self._ladder = self._ladder or self._new_ladder(policy.rungs, now)
            elif family := self._family():
                self._capture(now)
                self._end(survivors=family)
        if self._return_code is not None or self._reason is not None:
            return
        if self._time_limit is not None and now >= self._time_limit:
            self._stop("timed_out", policy.rungs)
        elif (limit := policy.idle_timeout) is not None and now >= self._last_output + limit:
            # Output that is there and was not taken yet is not idleness.
            self._capture(now)
            if now >= self._last_output + limit:
                self._stop("idle", policy.rungs)

    def _check_output_limit(self) -> None:
        policy = self._policy
        if policy.max_output is not None and policy.keep == "stop" and self._reason is None:
            written = sum(capture.size for capture in self._captures)
            if written > policy.max_output and self._return_code is None:
                self._stop("output_limit", policy.rungs)

    # -- the ladder ----------------------------------------------------------------------------

    def _stop(self, reason: str, rungs: tuple[Rung, ...], *, asked: bool = False) -> None:
        """Begin the ladder; if one is begun already, only shorten it."""
        now = time.monotonic()
        with self._shared:
            self._stops += asked
            if self._drain_until is not None:
                return  # there is nobody to stop
            if self._ladder is not None:
                self._ladder.shorten(rungs, now)
                return
            self._ladder = self._new_ladder(rungs, now)
            self._give_reason(reason)

    def _new_ladder(self, rungs: tuple[Rung, ...], now: float) -> Ladder:
        if (link := self._link()) is not None:
            link.announce_ladder()
        return Ladder(rungs, kill_wait=self._policy.kill_wait, now=now)

    def _give_reason(self, reason: str) -> None:
        self._leave_or_kill_at = self._time_limit = None
        if self._return_code is None:
            self._reason = reason
            self._send(wire.Stopping(reason=reason, at=time.time()))

    def _resume(self) -> None:
        """Go on where the warden was."""
        if (state := self._slot.read()) is not None:
            self._ladder = state.ladder()
            self._leave_or_kill_at = None
            if self._reason is None and state.reason is not None:
                self._give_reason(state.reason)
        self._slot.taken = False

    def _state(self) -> State:
        """Return what the slot has to say now, each time in the same object."""
        state, policy, ladder = self._known, self._policy, self._ladder
        left = self._return_code is not None and policy.after_exit == "leave"
        if ladder is None:
            state.rungs, state.due, state.killing_since = policy.rungs, None, None
            state.for_leader = False
        else:
            state.take(ladder)
        state.reason = self._reason
        state.leader = (self._leader, self._leader_start) if self._leader else None
        state.stops = self._stops
        state.time_limit = self._time_limit
        state.kills_for_host = policy.on_host_death == "kill" and not (left or self._adopted)
        state.over = self._drain_until is not None
        return state

    def _climb(self, now: float) -> None:
        if self._ladder is None:
            return
        while now >= self._ladder.deadline:
            with self._shared:
                # Under the lock, so that nobody else climbs it.
                rung = self._ladder.advance(now)
            if rung is None or self._signal(rung) or rung is KILL:
                break
            with self._shared:
                self._ladder.skip(now)
        if self._ladder.given_up(now) and not self._ended and (family := self._family()):
            self._capture(now)
            self._end(survivors=family, unkillable=True)

    def _signal(self, rung: Rung) -> bool:
        """Send one rung to its scope and report whom it has reached."""
        reached = send_rung(
            rung, self._family, leader=self._leader, pinned=bool(self._leader) and not self._reaped
        )
        if self._return_code is not None:
            self._outlived |= {(p.pid, p.start_time) for p in reached.values()}
        fresh = set(reached)
        if rung is KILL:
            if self._cgroup is not None:
                self._cgroup.kill()
            # SIGKILL is repeated; it is news only for those whom it reaches first.
            fresh -= self._killed
            self._killed |= fresh
        if fresh:
            self._send(
                wire.SignalSent(
                    signal=rung.signal,
                    pids=tuple(sorted(fresh)[:MAX_PIDS]),
                    scope=rung.scope,
                    at=time.time(),
                )
            )
        return bool(reached)

    def _family(self) -> list[Process]:
        """Return everything that lives below us."""
        return [process for process in descendants(self._pid) if process.alive]

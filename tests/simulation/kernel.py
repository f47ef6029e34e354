"""A kernel in plain Python: as much of Linux as a guardian and a warden can see of it.

It knows processes (forks, sessions, zombies, orphans, reparenting, numbers that are used again),
signals (ignored, handled late, pending while stopped or in uninterruptible sleep), a pipe and a log
whose disk can be full, and a clock that only moves when somebody waits. One instance is one life.
"""

from __future__ import annotations

import functools
import heapq
import signal
from collections.abc import Callable
from random import Random
from typing import Final

INIT: Final = 1
WARDEN: Final = 2
GUARDIAN: Final = 3
FIRST: Final = 10
STRANGER_START: Final = 10**9
"""Start times from here on belong to processes that have nothing to do with the task."""

KILL: Final = int(signal.SIGKILL)
TERM: Final = int(signal.SIGTERM)
CONT: Final = int(signal.SIGCONT)


class GuardianDeath(BaseException):
    """SIGKILL has reached the guardian: its code does not go on."""


class NeverAgain(BaseException):
    """Somebody waits for what will never come, or the horizon of the life is reached."""


class Traits:
    """How a process behaves.

    Attributes:
        ignores: It ignores every signal that can be ignored.
        delay: Seconds from SIGTERM to its end.
        own_group: It has made a session of its own.
        daemon: Its parent ends at once, so it falls to the next subreaper.
        stopped: It is stopped (SIGSTOP) from its first moment.
        holds: It keeps the pipe open.
        foreign: It belongs to another user: no signal of ours reaches it.
        stuck: Until when it is in uninterruptible sleep.
        hops: How many times it forks a successor and ends.
        pause: Seconds between those.
        wiped: It has no marker in its environment.
    """

    __slots__ = (
        "daemon",
        "delay",
        "foreign",
        "holds",
        "hops",
        "ignores",
        "own_group",
        "pause",
        "stopped",
        "stuck",
        "wiped",
    )

    def __init__(self) -> None:
        self.ignores = self.own_group = self.daemon = self.stopped = self.foreign = False
        self.holds = True
        self.wiped = False
        self.delay = 0.0
        self.stuck = 0.0
        self.hops = 0
        self.pause = 0.0


class Proc:
    """One process, with the fields that `family.Process` has."""

    __slots__ = (
        "alive",
        "born",
        "children",
        "code",
        "doomed",
        "executed",
        "group",
        "heard",
        "killed_at",
        "parent",
        "pending",
        "pid",
        "start_time",
        "state",
        "traits",
    )

    def __init__(self, pid: int, start: int, parent: int, group: int, traits: Traits) -> None:
        self.pid = pid
        self.start_time = start
        self.parent = parent
        self.group = group
        self.traits = traits
        self.state = "T" if traits.stopped else "S"
        self.alive = True
        self.executed = True
        self.pending = 0
        self.doomed = False
        self.code: int | None = None
        self.born = 0.0
        self.heard = 0  # how many times it was asked to end
        self.killed_at: float | None = None  # when SIGKILL was sent
        self.children: list[Proc] = []

    def end(self, code: int) -> None:
        """Become a zombie."""
        self.state = "Z"
        self.alive = False  # whether anything of it can still run
        self.code = code


_PLAIN: Final = Traits()


@functools.cache
def _stranger(pid: int) -> Proc:
    """Return a process that has nothing to do with the task, and that nobody ever changes."""
    return Proc(pid, STRANGER_START + pid, INIT, pid, _PLAIN)


def _nothing() -> None: ...


class Kernel:
    """The machine of one life."""

    __slots__ = (
        "bad_signals",
        "disk_full",
        "dropped",
        "eof_seen",
        "events",
        "guardian_dead",
        "holders",
        "horizon",
        "host_dead",
        "kills",
        "last_death",
        "last_write",
        "leader",
        "leader_died",
        "leader_gone",
        "logged",
        "most_heard",
        "now",
        "outside",
        "pipe",
        "procs",
        "random",
        "recycle",
        "reparent_to",
        "sequence",
        "sigchld",
        "start",
        "warden_dead",
        "written",
    )

    def __init__(self, random: Random, *, recycle: bool, horizon: float) -> None:
        self.random = random
        self.recycle = recycle
        self.horizon = horizon
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.sequence = 0
        self.start = FIRST
        warden = Proc(WARDEN, WARDEN, INIT, WARDEN, _PLAIN)
        guardian = Proc(GUARDIAN, GUARDIAN, WARDEN, GUARDIAN, _PLAIN)
        warden.children.append(guardian)
        self.procs: dict[int, Proc] = {WARDEN: warden, GUARDIAN: guardian}
        self.leader: Proc | None = None
        self.leader_died: float | None = None
        self.leader_gone: Callable[[], None] = _nothing
        self.holders = 0  # living members of the family that have the pipe
        self.sigchld = False
        self.guardian_dead = self.warden_dead = self.host_dead = False
        self.outside = False  # somebody outside the family holds the pipe
        self.pipe = self.written = self.logged = self.dropped = 0
        self.last_write = self.last_death = 0.0
        self.most_heard = 0  # how many times somebody was asked to end
        self.eof_seen = False
        self.disk_full: tuple[float, float] = (1e9, 1e9)
        self.bad_signals: list[tuple[int, int]] = []
        self.kills: list[tuple[float, Proc]] = []

    # -- time ----------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Have something happen."""
        self.sequence += 1
        heapq.heappush(self.events, (when, self.sequence, what))

    def step(self, until: float | None) -> bool:
        """Let the next thing happen, no later than `until`; return whether there was one."""
        events = self.events
        what: Callable[[], None] | None = None
        if events and (until is None or events[0][0] <= until):
            until, _, what = heapq.heappop(events)
        if until is None:
            raise NeverAgain
        if until > self.now:
            self.now = until
        if self.now > self.horizon:
            raise NeverAgain
        if what is None:
            return False
        what()
        return True

    # -- processes -----------------------------------------------------------------------------

    def fork(self, parent: Proc, traits: Traits, *, group: int | None = None) -> Proc:
        """Make a process."""
        pid = self.start
        self.start += 1
        while pid in self.procs:
            pid += 1
            self.start = pid + 1
        proc = Proc(pid, pid, parent.pid, pid if traits.own_group else parent.group, traits)
        if group is not None:
            proc.group = group
        proc.born = self.now
        self.procs[pid] = proc
        parent.children.append(proc)
        self.holders += traits.holds
        if traits.daemon:
            self._reparent(proc)
        if traits.hops:
            self.at(self.now + traits.pause, lambda: self._hop(proc))
        return proc

    def _hop(self, proc: Proc) -> None:
        if proc.alive and proc.state == "S":
            self._fork_successor(proc)
            self.die(proc, 0)

    def _fork_successor(self, proc: Proc) -> None:
        after = Traits()
        for name in Traits.__slots__:
            setattr(after, name, getattr(proc.traits, name))
        after.hops -= 1
        self.fork(proc, after)

    def _heir(self, proc: Proc) -> int:
        """Return the next living subreaper above a process."""
        if not self.guardian_dead:
            return GUARDIAN
        return INIT if self.warden_dead else WARDEN

    def _reparent(self, proc: Proc) -> None:
        old = self.procs.get(proc.parent)
        if old is not None and proc in old.children:
            old.children.remove(proc)
        heir = self._heir(proc)
        proc.parent = heir
        if heir == INIT:
            if not proc.alive:
                self.free(proc)
            return
        self.procs[heir].children.append(proc)
        if heir == GUARDIAN:
            self.sigchld = True

    def die(self, proc: Proc, code: int) -> None:
        """End a process; its parent may look at its status, if it is one of ours."""
        if not proc.alive:
            return
        proc.end(code)
        self.last_death = self.now
        self.holders -= proc.traits.holds
        if proc is self.leader:
            self.leader_died = self.now
            self.leader_gone()
        for child in tuple(proc.children):
            self._reparent(child)
        if proc.parent == GUARDIAN and not self.guardian_dead:
            self.sigchld = True
        elif proc.parent != WARDEN or self.warden_dead:
            self.free(proc)  # by a parent that reaps, or init

    def free(self, proc: Proc) -> None:
        """Reap a zombie: its number may pass to a stranger at once."""
        parent = self.procs.get(proc.parent)
        if parent is not None and proc in parent.children:
            parent.children.remove(proc)
        if self.procs.get(proc.pid) is proc:
            del self.procs[proc.pid]
            if self.recycle:
                self.procs[proc.pid] = _stranger(proc.pid)

    def unreaped(self) -> list[Proc]:
        """Return who belongs to the task, wherever it hangs in the tree."""
        return [p for p in self.procs.values() if FIRST <= p.start_time < STRANGER_START]

    def family(self) -> list[Proc]:
        """Return who of those lives."""
        return [
            p for p in self.procs.values() if p.alive and FIRST <= p.start_time < STRANGER_START
        ]

    def kill_guardian(self) -> None:
        """SIGKILL to the guardian: the leader goes with it (PR_SET_PDEATHSIG), orphans fall."""
        if self.guardian_dead:
            return
        self.guardian_dead = True
        guardian = self.procs[GUARDIAN]
        leader = self.leader
        for child in tuple(guardian.children):
            self._reparent(child)
        guardian.end(-KILL)
        if leader is not None and leader.alive and leader.parent != GUARDIAN:
            self._die_by_signal(leader, KILL)

    def kill_warden(self) -> None:
        """SIGKILL to the warden: what hangs below it falls to init."""
        if self.warden_dead:
            return
        self.warden_dead = True
        for child in tuple(self.procs[WARDEN].children):
            if child.pid != GUARDIAN:
                self._reparent(child)
        self.procs[WARDEN].children = []

    # -- signals -------------------------------------------------------------------------------

    def send(self, proc: Proc, number: int) -> bool:
        """Send a signal to a process; return whether the kernel permits it."""
        if proc.start_time >= STRANGER_START or proc.pid < FIRST:
            self.bad_signals.append((proc.pid, number))
            return True
        if proc.traits.foreign:
            return False
        if not proc.alive:
            return True
        if number == KILL:
            if proc.killed_at is None:
                proc.killed_at = self.now
                self.kills.append((self.now, proc))
            forks = proc.traits.hops and proc.state == "S" and proc.traits.stuck <= self.now
            if forks and self.random.random() < 0.7:
                self._fork_successor(proc)  # it was quicker, by an instant
            if proc.traits.stuck > self.now:
                self.at(proc.traits.stuck, lambda: self._die_by_signal(proc, KILL))
            else:
                self._die_by_signal(proc, KILL)
            return True
        if number == CONT:
            if proc.state == "T":
                proc.state = "S"
                if proc.pending:
                    self._hear(proc, proc.pending)
            return True
        proc.heard += 1
        if proc.heard > self.most_heard:
            self.most_heard = proc.heard
        if proc.state == "T":
            proc.pending = number
        else:
            self._hear(proc, number)
        return True

    def _hear(self, proc: Proc, number: int) -> None:
        if not proc.executed:
            self._die_by_signal(proc, number)  # no handler of its own yet
            return
        if proc.traits.ignores or proc.doomed or proc.traits.stuck > self.now:
            return
        proc.doomed = True
        self.at(self.now + proc.traits.delay, lambda: self._die_by_signal(proc, number))

    def _die_by_signal(self, proc: Proc, number: int) -> None:
        if proc.state == "T" and number != KILL:
            return
        self.die(proc, -number)

    # -- output --------------------------------------------------------------------------------

    def write(self, size: int) -> None:
        """Somebody of the family writes, if somebody with the pipe is there."""
        if self.holders:
            self.pipe += size
            self.written += size
            self.last_write = self.now

    def is_eof(self) -> bool:
        """Whether the pipe is empty and nobody can write to it any more."""
        return not self.pipe and not self.outside and not self.holders

    def is_full(self) -> bool:
        """Whether the disk is full now."""
        return self.disk_full[0] <= self.now < self.disk_full[1]

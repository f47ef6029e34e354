"""What the real guardian and the real warden stand on: the kernel of `kernel`, as they see it.

How its methods come into their modules is the subject of `standins`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from eventbus_tasks._process import wire
from eventbus_tasks._process.board import Slot, State
from eventbus_tasks._process.standin import StandIn

from .kernel import GUARDIAN, TERM, WARDEN, GuardianDeath, Kernel, Proc

if TYPE_CHECKING:
    from .actors import SimulatedWarden

# Descriptors of the guardian, by their role.
CONTROL, BELL, SPEC, STDIN, LOG, HOST, LOCK, REPORT, WAKE, PIPE = range(100, 110)
WARDEN_LOCK = 120
WARDEN_PIPE = 121

WOULD_BLOCK = BlockingIOError(11, "would block")
NO_CHILD = ChildProcessError(10, "no child")


class Machine:
    """The processes of ours: which descriptors they have, and what they say to the host.

    There is one for all lives, `MACHINE`, so that its methods can be what the stand-ins are made
    of; each life begins with a machine on which nothing has happened.
    """

    def __init__(self) -> None:
        self.slot = MemorySlot()

    def begin(self, kernel: Kernel, plan: Any, tell: Callable[[Any], None]) -> None:
        """Be the machine of a new life from now on."""
        self.kernel = kernel
        self.plan = plan
        self.tell = tell
        self.inbox: deque[Any] = deque()
        self.hung_up = False
        self.report: tuple[float, bytes] = (1e9, b"")
        self.report_read = False
        self.guardian_lock = self.warden_lock = True
        self.lock_freed: Callable[[], None] = _nothing
        self.terminate: Callable[[], None] = _nothing
        self.terminated_early = False  # the guardian got SIGTERM before it could handle it
        self.acting = GUARDIAN
        self.end_record: Any = None
        self.slot.clear()
        self.warden: SimulatedWarden | None = None
        self.guardian_ended = False

    def now(self) -> float:
        """What every clock shows."""
        return self.kernel.now

    def close_lock(self, number: int) -> None:
        """One of the two copies of the project lock is closed."""
        if number == LOCK:
            self.guardian_lock = False
        else:
            self.warden_lock = False
        if not self.guardian_lock and not self.warden_lock:
            self.lock_freed()

    def check_alive(self) -> None:
        """Whoever is dead does nothing more."""
        if self.acting == GUARDIAN and self.kernel.guardian_dead:
            raise GuardianDeath

    # -- os ------------------------------------------------------------------------------------

    def getpid(self) -> int:
        return self.acting

    def close(self, number: int) -> None:
        if number in (LOCK, WARDEN_LOCK):
            self.close_lock(number)

    def close_all(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.close(number)

    def read(self, number: int, _: int) -> bytes:
        if number == WAKE:
            return b"\0"
        if self.kernel.now < self.report[0]:
            raise WOULD_BLOCK.with_traceback(None)
        if self.report_read:
            return b""
        self.report_read = True
        return self.report[1]

    def waitid(self, kind: int, pid: int, options: int) -> Any:
        if kind == os.P_ALL:
            return self.waitid_any()
        proc = self.kernel.procs.get(pid)
        if proc is None or proc.parent != self.acting:
            raise NO_CHILD.with_traceback(None)
        if proc.alive:
            return None
        if not options & os.WNOWAIT:
            self.kernel.free(proc)
        code = proc.code or 0
        exited = code >= 0
        kind = os.CLD_EXITED if exited else os.CLD_KILLED
        return os.waitid_result((pid, 0, signal.SIGCHLD, abs(code), kind))

    def waitid_any(self) -> None:
        if not self.kernel.procs[self.acting].children:
            raise NO_CHILD.with_traceback(None)

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        kernel = self.kernel
        mine = kernel.procs[self.acting].children
        if pid != -1:
            mine = [proc for proc in mine if proc.pid == pid]
        if not mine:
            raise NO_CHILD.with_traceback(None)
        for proc in mine:
            if not proc.alive:
                kernel.free(proc)
                code = proc.code or 0
                return proc.pid, code << 8 if code >= 0 else -code
        if not options & os.WNOHANG:
            raise AssertionError("waits for a process that lives: a deadlock")
        return 0, 0

    def killpg(self, group: int, number: int) -> None:
        members = [p for p in self.kernel.procs.values() if p.group == group and p.pid > WARDEN]
        if not members:
            raise ProcessLookupError(3, "no such group")
        for proc in members:
            self.kernel.send(proc, number)

    def kill(self, pid: int, number: int) -> None:
        """The warden signals a guardian, which is an unreaped child of its own."""
        assert (pid, number) == (GUARDIAN, TERM), "nobody else is signalled by number"
        if not self.kernel.guardian_dead:
            self.terminate()

    # -- family --------------------------------------------------------------------------------

    def children(self, pid: int) -> list[int]:
        proc = self.kernel.procs.get(pid)
        return [] if proc is None else [child.pid for child in proc.children]

    def descendants(self, root: int, *, without: Collection[int] = ()) -> list[Proc]:
        # A list of its own for each walk: what changes meanwhile is not seen.
        found = list(self.kernel.procs[root].children)
        if without:
            found = [proc for proc in found if proc.pid not in without]
        for proc in found:
            found += proc.children
        return found

    def read_process(self, pid: int) -> Proc | None:
        return self.kernel.procs.get(pid)

    def states(self, pid: int) -> set[str]:
        proc = self.kernel.procs.get(pid)
        return set() if proc is None else {proc.state}

    def read_mark(self, pid: int) -> str | None:
        proc = self.kernel.procs.get(pid)
        return None if proc is None or proc.traits.wiped else "u"

    def signal_process(self, pid: int, start_time: int, number: int) -> bool:
        self.check_alive()
        proc = self.kernel.procs.get(pid)
        if proc is None or proc.start_time != start_time:
            return False
        return self.kernel.send(proc, number)

    # -- waiting -------------------------------------------------------------------------------

    def ready(self, watched: dict[int, int]) -> list[tuple[int, int]]:
        kernel = self.kernel
        found = []
        if kernel.sigchld and WAKE in watched:
            kernel.sigchld = False
            found.append((WAKE, 1))
        if REPORT in watched and kernel.now >= self.report[0]:
            found.append((REPORT, 1))
        if kernel.host_dead and HOST in watched:
            found.append((HOST, 1))
        if (self.inbox or self.hung_up) and CONTROL in watched:
            found.append((CONTROL, 1))
        if (kernel.pipe or not (kernel.holders or kernel.outside)) and PIPE in watched:
            found.append((PIPE, 1))
        return found

    def is_stalled(self) -> bool:
        """Whether the guardian hangs in a call."""
        start, end = self.plan.stalled
        return bool(start <= self.kernel.now < end)

    def hang(self) -> None:
        """Let time go by without the guardian, who cannot move; its warden can."""
        kernel, stand_in = self.kernel, self.stand_in
        kernel.procs[GUARDIAN].state = "D"
        while self.is_stalled():
            self.check_alive()
            until = self.plan.stalled[1]
            look = None if stand_in is None or kernel.warden_dead else stand_in.next_look
            if stand_in is not None and look is not None and look <= kernel.now:
                self.acting = WARDEN
                stand_in.look()
                self.acting = GUARDIAN
            else:
                kernel.step(until if look is None else min(until, look))
        kernel.procs[GUARDIAN].state = "S"

    @property
    def stand_in(self) -> StandIn | None:
        """The part of the warden that looks after guardians, as long as it lives."""
        lives = self.warden is not None and not self.kernel.warden_dead
        return self.warden._stand_in if lives and self.warden is not None else None

    def announce_ladder(self) -> bool:
        """The guardian tells the warden that a ladder has begun."""
        if (stand_in := self.stand_in) is not None:
            stand_in.watch(GUARDIAN, 1, self.slot, due=self.kernel.now)
        return True

    def wait(self, watched: dict[int, int], timeout: int | None) -> list[tuple[int, int]]:
        kernel, plan = self.kernel, self.plan
        kernel.now += plan.jitter
        until = None if timeout is None or timeout < 0 else kernel.now + timeout / 1000
        stalled, resumed = plan.stalled
        while not kernel.guardian_dead:
            if stalled <= kernel.now < resumed:
                self.hang()
                continue
            if ready := self.ready(watched):
                return ready
            if until is not None and kernel.now >= until:
                return []
            kernel.step(until)
        raise GuardianDeath

    # -- the host ------------------------------------------------------------------------------

    def rescue(self) -> list[Any]:
        """The host moves what is left in the pipe to the log."""
        kernel = self.kernel
        size, kernel.pipe = kernel.pipe, 0
        end = kernel.logged + kernel.dropped + size
        if not kernel.is_full():
            kernel.logged += size
            return []
        kernel.dropped += size
        lost = wire.Dropped(stream="stdout", start=end - size, end=end, why="ENOSPC", at=kernel.now)
        return [lost] if size else []

    # -- the start -----------------------------------------------------------------------------

    def start_leader(self, *_: Any) -> tuple[int, int]:
        kernel, plan = self.kernel, self.plan
        if plan.fork_fails:
            raise OSError(11, "Resource temporarily unavailable")
        leader = kernel.fork(kernel.procs[GUARDIAN], plan.leader, group=kernel.start)
        leader.executed = False
        kernel.leader = leader
        when = kernel.now + plan.exec_delay

        def execute() -> None:
            if not leader.alive:
                return
            if plan.exec_fails:
                self.report = (kernel.now, plan.exec_fails)
                kernel.die(leader, 127)
            else:
                leader.executed = True
                self.report = (kernel.now, b"")
                plan.begin(kernel)

        def gone() -> None:  # the pipe also ends when the child is killed before it executes
            if self.report[0] > kernel.now:
                self.report = (kernel.now, b"")

        kernel.at(when, execute)
        kernel.leader_gone = gone
        return leader.pid, REPORT


_MINE: Final = threading.RLock()
_STATE: Final = tuple(field.name for field in dataclasses.fields(State))


class MemorySlot(Slot):
    """What guardian and warden share, without a memory to share."""

    def __init__(self) -> None:
        super().__init__(bytearray(2), 0, -1)
        self._written: State | None = None

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...

    def locked(self) -> contextlib.AbstractContextManager[bool]:
        return _MINE

    def read(self) -> State | None:
        written = self._written
        return None if written is None else State(**{n: getattr(written, n) for n in _STATE})

    def write(self, state: State) -> None:
        self._written = state  # which nobody changes but to write it again

    def clear(self) -> None:
        self.memory[:] = b"\0\0"
        self._written = None


MACHINE: Final = Machine()


def _nothing() -> None: ...

"""The real guardian and the real warden, standing on the kernel of `kernel`.

The modules `guardian` and `warden` get stand-ins for `os`, `time`, `select` and so on. What a
stand-in does not simulate it refuses by name, so that new system calls do not pass unnoticed.
"""

# ruff: noqa: PLW0108 - not the methods of one machine: it changes from life to life

from __future__ import annotations

import contextlib
import copy
import os
import select
import signal
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from eventbus_tasks import _runner as runner_module
from eventbus_tasks._process import climbing, signalling, standin, wire
from eventbus_tasks._process import guardian as guardian_module
from eventbus_tasks._process import warden as warden_module
from eventbus_tasks._process.board import Slot, State
from eventbus_tasks._process.guardian import Guardian
from eventbus_tasks._process.orphans import Ownership
from eventbus_tasks._process.standin import StandIn
from eventbus_tasks._process.streams import Streams
from eventbus_tasks._process.warden import Warden, _Charge

from .kernel import GUARDIAN, TERM, WARDEN, GuardianDeath, Kernel, Proc

# Descriptors of the guardian, by their role.
CONTROL, BELL, SPEC, STDIN, LOG, HOST, LOCK, REPORT, WAKE, PIPE = range(100, 110)
WARDEN_LOCK = 120
WARDEN_PIPE = 121

WOULD_BLOCK = BlockingIOError(11, "would block")
NO_CHILD = ChildProcessError(10, "no child")


class Machine:
    """One life's processes of ours: which descriptors they have, and what they say to the host."""

    current: Machine

    def __init__(self, kernel: Kernel, plan: Any, tell: Callable[[Any], None]) -> None:
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
        self.slot = MemorySlot()
        self.warden: SimulatedWarden | None = None
        self.guardian_ended = False

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

    def waitid(self, _: int, pid: int, options: int) -> Any:
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
        return SimpleNamespace(si_status=abs(code), si_code=kind, si_pid=pid)

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
        if kernel.now >= self.report[0] and REPORT in watched:
            found.append((REPORT, 1))
        if kernel.host_dead and HOST in watched:
            found.append((HOST, 1))
        if (self.inbox or self.hung_up) and CONTROL in watched:
            found.append((CONTROL, 1))
        if (kernel.pipe or not (kernel.holders or kernel.outside)) and PIPE in watched:
            found.append((PIPE, 1))
        return found

    @property
    def is_stalled(self) -> bool:
        """Whether the guardian hangs in a call."""
        start, end = self.plan.stalled
        return bool(start <= self.kernel.now < end)

    def hang(self) -> None:
        """Let time go by without the guardian, who cannot move; its warden can."""
        kernel, stand_in = self.kernel, self.stand_in
        kernel.procs[GUARDIAN].state = "D"
        while self.is_stalled:
            self.check_alive()
            until = self.plan.stalled[1]
            look = None if stand_in is None or kernel.warden_dead else stand_in.next_look()
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
        while True:
            self.check_alive()
            if stalled <= kernel.now < resumed:
                self.hang()
                continue
            if ready := self.ready(watched):
                return ready
            if until is not None and kernel.now >= until:
                return []
            kernel.step(until)

    # -- the host ------------------------------------------------------------------------------

    def rescue(self) -> list[Any]:
        """The host moves what is left in the pipe to the log."""
        kernel = self.kernel
        size, kernel.pipe = kernel.pipe, 0
        end = kernel.logged + kernel.dropped + size
        if not kernel.is_full:
            kernel.logged += size
            return []
        kernel.dropped += size
        lost = wire.Dropped(stream="stdout", start=end - size, end=end, why="ENOSPC", at=kernel.now)
        return [lost] if size else []

    # -- the start -----------------------------------------------------------------------------

    def start_leader(self, _: Any) -> tuple[int, int]:
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


_MINE = contextlib.nullcontext(True)


class MemorySlot(Slot):
    """What guardian and warden share, without a memory to share."""

    def __init__(self) -> None:
        super().__init__(bytearray(2), 0, -1)
        self._written: State | None = None

    def locked(self) -> contextlib.AbstractContextManager[bool]:
        return _MINE

    def read(self) -> State | None:
        return None if self._written is None else copy.copy(self._written)

    def write(self, state: State) -> None:
        self._written = state


class Poll:
    """`select.poll` of the machine."""

    def __init__(self) -> None:
        self._watched: dict[int, int] = {}

    def register(self, where: Any, events: int = select.POLLIN) -> None:
        self._watched[where if isinstance(where, int) else where.fileno()] = events

    modify = register

    def unregister(self, where: Any) -> None:
        del self._watched[where if isinstance(where, int) else where.fileno()]

    def poll(self, timeout: int | None = None) -> list[tuple[int, int]]:
        return Machine.current.wait(self._watched, timeout)


class Control:
    """The guardian's socket to the host."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def fileno(self) -> int:
        return CONTROL

    def setblocking(self, _: bool) -> None: ...

    def setsockopt(self, *_: Any) -> None: ...

    def recv(self, _: int) -> Any:
        machine = Machine.current
        if machine.inbox:
            return machine.inbox.popleft()
        if machine.hung_up or machine.kernel.host_dead:
            return b""
        raise WOULD_BLOCK.with_traceback(None)


class Out:
    """The outbox of either: messages are with the host at once, if it lives."""

    def __init__(self, *_: Any) -> None: ...

    def __bool__(self) -> bool:
        return False

    def send(self, packet: Any, _: Any = ()) -> None:
        machine = Machine.current
        if not machine.kernel.host_dead and not machine.hung_up:
            machine.tell(packet)

    def flush(self) -> bool:
        return False

    def discard(self) -> None: ...


class Capture:
    """The pipe, the log, and a disk that may be full."""

    stream = "stdout"

    def __init__(self, stream: str, pipe: int, log: int, bell: int, gap: Any, **_: Any) -> None:
        self._gap = gap
        self.size = 0
        self.dropped = 0

    def poll_fd(self, _: float) -> int | None:
        return None if self.finished else PIPE

    def deadline(self) -> float | None:
        return None

    def move(self, _: float) -> bool:
        kernel = Machine.current.kernel
        size = min(kernel.pipe, 65536)
        if not size:
            kernel.eof_seen = kernel.eof_seen or kernel.eof
            return False
        kernel.pipe -= size
        if kernel.is_full:
            self._gap(self.stream, self.size, self.size + size, "ENOSPC")
            kernel.dropped += size
            self.dropped += size
        else:
            kernel.logged += size
        self.size += size
        return True

    def take(self) -> bool:
        kernel = Machine.current.kernel
        return bool(kernel.pipe) and not kernel.is_full and self.move(kernel.now)

    @property
    def finished(self) -> bool:
        return Machine.current.kernel.eof_seen

    def share_pipe(self) -> int | None:
        return PIPE

    def close(self) -> None: ...


class _Standin:
    """Some functions of a module; its constants are the real ones; nothing else is there."""

    def __init__(self, real: Any, **given: Any) -> None:
        self._real = real
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if callable(value) and not isinstance(value, type):
            raise NotImplementedError(f"{self._real.__name__}.{name} is not simulated")
        self.__dict__[name] = value
        return value


def _wait(kind: int, pid: int, options: int) -> Any:
    if kind == os.P_ALL:
        return Machine.current.waitid_any()
    return Machine.current.waitid(kind, pid, options)


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _write_end_record(_: int, __: Any, message: Any, ___: float) -> str | None:
    machine = Machine.current
    machine.check_alive()
    machine.end_record = message
    return "ENOSPC: no space left" if machine.kernel.is_full else None


def _survivors_of(procs: Iterable[Proc]) -> tuple[wire.Survivor, ...]:
    return tuple(wire.Survivor(pid=p.pid, start_time=p.start_time, command="") for p in procs)


def _open_streams(_: Any, fds: Any, __: Any, gap: Any, ___: Any) -> Streams:
    capture = Capture("stdout", PIPE, fds.stdout, fds.bell, gap)
    return Streams(stdin=fds.stdin, outputs=[PIPE], captures=[capture])


_SPEC = wire.LaunchSpec(uid="u", argv=["program"], cwd="/", env={})


class _Spec:
    @staticmethod
    def decode(_: bytes) -> wire.LaunchSpec:
        return _SPEC


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Put the stand-ins into the modules."""
    fake_os = _Standin(
        os,
        close=lambda number: Machine.current.close(number),
        read=lambda number, size: Machine.current.read(number, size),
        waitid=_wait,
        waitpid=lambda pid, options: Machine.current.waitpid(pid, options),
        waitstatus_to_exitcode=os.waitstatus_to_exitcode,
        killpg=lambda group, number: Machine.current.killpg(group, number),
        getpid=lambda: Machine.current.acting,
        readlink=lambda _: "/bin/program",
        fstat=lambda _: SimpleNamespace(st_size=0),
        pread=lambda *_: b"",
    )
    clock = _Standin(
        SimpleNamespace(__name__="time"),
        monotonic=lambda: Machine.current.kernel.now,
        time=lambda: Machine.current.kernel.now,
    )
    common = {
        "os": fake_os,
        "time": clock,
        "select": _Standin(select, poll=Poll),
        "Outbox": Out,
        "survivors_of": _survivors_of,
    }
    climbing_only = {
        "os": fake_os,
        "time": clock,
        "descendants": lambda root, *, without=(): Machine.current.descendants(
            root, without=without
        ),
    }
    signalling_only = {
        "os": fake_os,
        "read_process": lambda pid: Machine.current.read_process(pid),
        "signal_process": lambda pid, start, number: Machine.current.signal_process(
            pid, start, number
        ),
    }
    guardian_only = {
        "socket": _Standin(socket, socket=Control),
        "signal": _Standin(signal, signal=_nothing, set_wakeup_fd=_nothing),
        "linux": SimpleNamespace(set_child_subreaper=_nothing),
        "children": lambda pid: Machine.current.children(pid),
        "read_process": lambda pid: Machine.current.read_process(pid),
        "start_leader": lambda plan: Machine.current.start_leader(plan),
        "open_streams": _open_streams,
        "write_end_record": _write_end_record,
        # Messages travel as they are: that they survive JSON is a test of the wire.
        "wire": _Standin(
            wire, encode=lambda message: message, decode=lambda data: data, LaunchSpec=_Spec
        ),
    }
    warden_only = {
        "descendants": climbing_only["descendants"],
        "close_all": lambda numbers: Machine.current.close_all(numbers),
        "signal_process": signalling_only["signal_process"],
        "os": _Standin(fake_os, **vars(fake_os), kill=lambda *who: Machine.current.kill(*who)),
        "wire": _Standin(
            wire, encode=lambda message: message, encode_routed=lambda _, message: message
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        for module, names in (
            (guardian_module, {**common, **guardian_only}),
            (warden_module, {**common, **warden_only}),
            (climbing, climbing_only),
            (standin, {**climbing_only, "read_process": signalling_only["read_process"]}),
            (signalling, signalling_only),
        ):
            for name, value in names.items():
                patch.setattr(module, name, value)
        # What a protocol of runtime checks costs is not the subject here.
        patch.setattr(runner_module, "DurableJournal", _NoJournal)
        patch.setattr(runner_module, "prepare_rescue", lambda *_: Machine.current.rescue)
        yield


class _NoJournal:
    """Nothing is an instance of it."""


class SimulatedGuardian(Guardian):
    """The real guardian, prepared without reading a specification from a descriptor."""

    def _prepare_signals(self) -> None:
        self._wake = WAKE
        if Machine.current.terminated_early:
            self._on_terminate()


_DESCRIPTORS = guardian_module.Descriptors(
    control=CONTROL,
    bell=BELL,
    spec=SPEC,
    stdin=STDIN,
    stdout=LOG,
    host=HOST,
    stdout_pipe=PIPE,
    stdout_end=131,
    lock=LOCK,
    end_record=130,
)


def make_guardian(kind: type[Guardian], policy: Any) -> Guardian:
    """Return a guardian that is about to run."""
    made = kind(_DESCRIPTORS, nofile=1024, slot=Machine.current.slot)
    made._policy = policy
    made._warden = Machine.current  # type: ignore[assignment]
    return made


class _Board:
    """A board with one slot."""

    descriptor = 135
    give_back = staticmethod(_nothing)

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def take(self) -> Slot:
        return self._slot


class SimulatedWarden(Warden):
    """The real warden with one guardian."""

    _host = HOST
    _to_warden = SimpleNamespace(fileno=lambda: 132)  # type: ignore[assignment]
    _soft = 1024
    _cgroups = None

    def __init__(self) -> None:
        self._out = Out()  # type: ignore[assignment]
        self._guardians = {}
        self._pids = {}
        self._board = _Board(Machine.current.slot)  # type: ignore[assignment]
        self._stand_in = StandIn(self._tell, _nothing)
        self._sweeping = []
        self._ownership = Ownership()
        self._connected = True
        self._closing = False

    def take_charge(self) -> None:
        """Have the guardian, as a launch leaves it that nothing has happened to."""
        slot, policy = Machine.current.slot, Machine.current.plan.policy
        pipes = [("stdout", WARDEN_PIPE)]
        charge = _Charge(1, "u", policy.kill_wait, [WARDEN_LOCK], slot=slot, pipes=pipes)
        self._guardians[GUARDIAN] = charge
        self._pids[1] = GUARDIAN
        if policy.timeout is not None:
            self._stand_in.watch(GUARDIAN, 1, slot, due=policy.timeout)

    def _hear_guardian(self) -> bool:
        return False  # what it says comes by `announce_ladder`, at once

    def live_on(self) -> None:
        """Do what remains after the guardian's end: the loop of `Warden.run`."""
        kernel = Machine.current.kernel
        while (self._guardians or self._sweeping) and not kernel.warden_dead:
            self._reap()
            if self._sweeping:
                self._sweep()
            if self._sweeping:
                until = kernel.now + self._pause
                while kernel.now < until and not kernel.warden_dead:
                    kernel.step(until)

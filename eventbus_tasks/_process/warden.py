"""The warden: one small process per engine, from which the guardians are forked.

It is started once with a bare interpreter and opens no file of any task, so that a stalled disk
cannot stop it. It keeps a copy of each project lock until the guardian is reaped and whatever
that guardian left behind is gone, and lives until its last guardian has ended.

``SIGTERM`` stops every task and then the warden; ``SIGINT`` and ``SIGHUP`` are ignored.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import math
import os
import resource
import select
import signal
import socket
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from eventbus_tasks._process import launch, linux, vfork, wire
from eventbus_tasks._process.board import Board, Slot
from eventbus_tasks._process.cgroup import CgroupError, TaskCgroup, find_base
from eventbus_tasks._process.descriptors import (
    PLACES,
    Descriptors,
    be_a_guardian,
    close_all,
    unlock_all,
)
from eventbus_tasks._process.dispositions import (
    IGNORE,
    IGNORED,
    block_handled,
    reset_signals,
    set_action,
    unblock_all,
    wake_up,
)
from eventbus_tasks._process.family import (
    Process,
    descendants,
    signal_process,
    survivors_of,
)
from eventbus_tasks._process.forkserver import SETTLE, ForkServer, Inherited
from eventbus_tasks._process.guardian import GUARDIAN_FAILED, Guardian
from eventbus_tasks._process.ladder import Policy, Rung, rungs_of
from eventbus_tasks._process.launch import LaunchRequest
from eventbus_tasks._process.leader import prepare, start_at_once
from eventbus_tasks._process.mounts import Mounts
from eventbus_tasks._process.orphans import Ownership
from eventbus_tasks._process.outbox import Outbox
from eventbus_tasks._process.rehearsal import rehearse
from eventbus_tasks._process.standin import StandIn
from eventbus_tasks._process.upwards import receive
from eventbus_tasks._process.waiting import poll_time

__all__ = ["main"]

SWEEP_EVERY: Final = 0.05
"""Seconds between two rounds of SIGKILL against orphans."""

SWEEP_LATER: Final = 1.0
"""The same, when all that are left have been reported."""

_RIGHTS: Final = socket.CMSG_LEN(16 * 4)
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)

_NOTHING: Final = bytes(4)
"""That there is nothing to be read, as the kernel says it."""


@dataclass(slots=True)
class _Charge:
    """One task in the warden's care, and the warden's copies of what says that it is not over.

    Those are the lock of the project and, for its lock alone, the end record: the warden neither
    reads nor writes it. `cgroup` is the control group of the task, if it has got one, and `begun`
    when its guardian was made.
    """

    task: int
    uid: str
    policy: Policy
    held: list[int]
    slot: Slot | None
    """What is shared with the guardian."""
    pipes: list[tuple[str, int]]
    """Where its output is read, for what is left in there when the guardian is killed."""
    cgroup: TaskCgroup | None = None
    begun: float = field(default_factory=time.monotonic)
    report_at: float | None = None
    """When those who resist the sweep are reported; ``None`` before the sweep, and after that."""
    rounds_without: int = 0
    """Rounds of the sweep, the last ones, that have found nobody of this task."""


class Warden:
    """Forks guardians on request, reaps them, sweeps up after them and says so."""

    def __init__(self, connection: int, host: int, cgroup: str) -> None:
        """Take over the socket to the host and the descriptor of the host's process.

        `cgroup` says below which control group tasks get their own; see `find_base`.

        Raises:
            OSError: The kernel refuses something that is indispensable.
        """
        self._socket = socket.socket(fileno=connection)
        self._socket.setblocking(False)
        self._out = Outbox(self._socket)
        self._host = host
        for descriptor in (connection, host):
            os.set_inheritable(descriptor, False)
        self._guardians: dict[int, _Charge] = {}
        self._pids: dict[int, int] = {}  # of guardians, by the number of their task
        self._sweeping: list[_Charge] = []
        self._ownership = Ownership()
        self._board = Board()
        self._mounts = Mounts()
        self._stand_in = StandIn(self._tell, self._kill_group, self._introduce)
        self._upwards, self._to_warden = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._upwards, self._to_warden):
            end.setblocking(False)
        self._cgroups: str | None = None
        with contextlib.suppress(CgroupError):
            self._cgroups = find_base(cgroup)
        self._forks = ForkServer(
            Inherited(host, self._to_warden.fileno(), self._board, self._cgroups)
        )
        self._room = memoryview(bytearray(launch.MOST))
        self._connected = True
        self._childs_end = True  # some may have come to theirs
        self._host_alive = True
        self._soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            # Many tasks, many locks; programs get the limit that their task asks for.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        reset_signals()
        for number in IGNORED:
            set_action(number, IGNORE)
        self._terminated = False
        self._closing = rehearse(self._board, host, forks=self._cgroups is not None)
        self._wake, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        set_action(signal.SIGCHLD, wake_up)
        # Kept, so that guardians do not have to throw it away when they set their own.
        self._terminator = self._on_terminate
        set_action(signal.SIGTERM, self._terminator)
        unblock_all()
        linux.become(b"ebt-warden")

    def run(self) -> None:
        """Serve until the host is gone and the last guardian has ended."""
        gc.collect()
        # Guardians share these pages for as long as nobody writes to them.
        gc.freeze()
        self._forks.begin()
        self._out.send(wire.encode(wire.Ready(pid=os.getpid())))
        while not self._closing or self._guardians or self._sweeping:
            self._wait()
            if self._terminated:
                self._terminated = False
                for pid, charge in self._guardians.items():
                    if charge.slot is not None:
                        self._stand_in.terminate(pid, charge.task, charge.slot)
            if self._childs_end:
                self._childs_end = False
                self._reap()
            if self._stand_in.next_look < math.inf:
                self._stand_in.look()
            if self._sweeping:
                self._sweep()
        self._forks.end()

    def _on_terminate(self, *_: Any) -> None:
        self._closing = self._terminated = True
        for pid in self._guardians:
            # Unreaped children of ours: the numbers cannot have passed to others.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _wait(self) -> None:
        poll = select.poll()
        if self._mounts.descriptor >= 0:
            poll.register(self._mounts.descriptor, select.POLLPRI)  # before the requests
        poll.register(self._wake, select.POLLIN)
        poll.register(self._upwards, select.POLLIN)
        if self._host_alive:
            poll.register(self._host, select.POLLIN)
        if self._connected:
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._out.queue else 0))
        idle = not self._sweeping and self._stand_in.next_look == math.inf
        for descriptor, _ in poll.poll(None if idle else self._patience()):
            if descriptor == self._mounts.descriptor:
                self._mounts.change()
            elif descriptor == self._wake:
                self._childs_end = True
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            elif descriptor == self._host:
                self._host_alive = False
                self._disconnect()
                for pid, charge in self._guardians.items():
                    if charge.slot is not None:
                        self._stand_in.lose_host(pid, charge.task, charge.slot)
            elif descriptor == self._upwards.fileno():
                while self._hear_guardian():
                    pass
            else:
                self._out.flush()
                while self._receive():
                    pass

    def _patience(self) -> int | None:
        """Return the milliseconds until there is something to do anyway."""
        pauses = [self._pause] if self._sweeping else []
        pauses.append(max(0.0, self._stand_in.next_look - time.monotonic()))
        return poll_time(min(pauses))

    def _disconnect(self) -> None:
        self._closing = True
        self._connected = False
        self._out.discard()

    def _receive(self) -> bool:
        """Take one request; the next turn takes the next, after reaping.

        Returns:
            Whether it was so small that another may be taken at once.
        """
        try:
            size, travelling, _, _ = self._socket.recvmsg_into([self._room], _RIGHTS, _CLOEXEC)
            data = bytes(self._room[:size])
        except (BlockingIOError, ConnectionResetError):
            return False  # a reset is said once, before what is still there to be read
        except OSError:
            data, travelling = b"", []
        if not data:
            self._disconnect()
            return False
        numbers: Sequence[int] = ()
        for _, _, content in travelling:
            numbers = memoryview(content)[: len(content) // 4 * 4].cast("i")
        try:
            if data.startswith(b"{"):
                self._watch_stop(wire.decode(data))
                return True
            request = launch.decode(data)
        except (ValueError, EOFError, TypeError):
            close_all(numbers)  # not one of ours
            return False
        if len(numbers) == len(request.descriptors):
            self._launch(request, numbers, data)
            self._prepare_for_the_next()
        else:
            # They got lost on the way, because a limit was reached.
            close_all(numbers)
            self._tell(request.task, wire.GuardianLost(code=None, at=time.time()))
            self._tell(request.task, wire.Released(at=time.time()))
        return False

    def _prepare_for_the_next(self) -> None:
        """Have a guardian that waits for a task, unless orphans are looked for."""
        if not self._sweeping and not self._closing:
            self._forks.begin()

    def _hear_guardian(self) -> bool:
        """Take what a guardian says: another pipe that it uses, or that a ladder has begun.

        Returns:
            Whether there was anything.
        """
        if (message := receive(self._upwards)) is None:
            return False
        pid, stream, pipes = message
        charge = self._guardians.get(pid)
        if charge is None:
            close_all(pipes)
        elif pipes:
            # Its bytes have left the other pipe, so they come first.
            charge.pipes[:0] = [(stream, pipe) for pipe in pipes]
        elif charge.slot is not None and not stream:
            self._stand_in.watch(pid, charge.task, charge.slot, due=time.monotonic())
        return True

    def _kill_group(self, guardian: int) -> None:
        charge = self._guardians.get(guardian)
        if charge is not None and charge.cgroup is not None:
            charge.cgroup.kill()

    def _introduce(self, guardian: int) -> None:
        charge = self._guardians.get(guardian)
        if charge is not None and charge.slot is not None:
            charge.slot.introduce(charge.policy, charge.begun)

    def _watch_stop(self, asked: wire.StopAsked) -> None:
        """See that a guardian does what it was asked for."""
        pid = self._pids.get(asked.task, 0)
        charge = self._guardians.get(pid)
        if charge is not None and charge.slot is not None:
            rungs: tuple[Rung, ...] | None = ()
            if not asked.now:
                rungs = None if asked.steps is None else rungs_of(asked.steps)
            self._stand_in.stop(pid, asked.task, charge.slot, asked.reason, rungs)

    def _launch(self, request: LaunchRequest, given: Sequence[int], packet: bytes) -> None:
        """Have a guardian take care of a task; `packet` is the request as it came."""
        places: list[Any] = [None] * len(PLACES)
        for place, number in zip(request.descriptors, given, strict=True):
            places[place] = number
        descriptors = Descriptors(*places)
        descriptors.host = self._host
        descriptors.board = self._board.descriptor
        try:
            pipes, ends = _make_pipes(request.pipes, descriptors)
        except OSError as error:
            self._refuse(request.task, descriptors, error)
            return
        slot = self._board.take()
        held: list[int] = []
        if descriptors.lock is not None:
            held.append(descriptors.lock)
        if descriptors.end_record is not None:
            held.append(descriptors.end_record)
        group = None if self._cgroups is None else TaskCgroup.of(self._cgroups, request.uid)
        charge = _Charge(request.task, request.uid, request.policy, held, slot, pipes, group)
        nofile = self._soft if request.nofile is None else request.nofile
        at_once = self._may_start_at_once(request, descriptors)
        try:
            pid = self._employ(charge, packet, descriptors, nofile, at_once=at_once)
            if not pid:
                others = [*given, *ends]
                pid = self._fork(charge, request, descriptors, others, nofile, at_once=at_once)
        except OSError as error:
            if slot is not None:
                self._board.give_back(slot)
            self._refuse(request.task, descriptors, error)
            return
        self._pids[request.task] = pid
        if slot is not None and request.policy.timeout is not None:
            due = time.monotonic() + request.policy.timeout
            self._stand_in.watch(pid, request.task, slot, due=due)
        close_all(ends)
        close_all([number for number in given if number not in held])

    def _employ(
        self,
        charge: _Charge,
        packet: bytes,
        descriptors: Descriptors,
        nofile: int,
        *,
        at_once: bool,
    ) -> int:
        """Give a task to the guardian that waits for one; return its number, or 0 if none does.

        Raises:
            OSError: The warden stops.
        """
        spare = self._forks.take()
        if spare is None:
            return 0
        # Blocked, so that a SIGTERM either has come, or finds the guardian among all others.
        block_handled()
        try:
            if self._closing:
                spare.end()
                raise OSError(errno.ESHUTDOWN, "stopping")
            self._guardians[spare.pid] = charge
            slot = -1 if charge.slot is None else charge.slot.offset
            try:
                spare.give(packet, descriptors, nofile, slot, at_once=at_once)
            except OSError:
                del self._guardians[spare.pid]
                spare.end()
                return 0
        finally:
            unblock_all()
        spare.settle()
        return spare.pid

    def _fork(
        self,
        charge: _Charge,
        request: LaunchRequest,
        descriptors: Descriptors,
        given: list[int],
        nofile: int,
        *,
        at_once: bool,
    ) -> int:
        """Fork a guardian for a task, and return its number.

        Raises:
            OSError: It cannot be made.
        """
        descriptors.warden = self._to_warden.fileno()
        settled, settle = os.pipe2(os.O_CLOEXEC)
        kept = [0, 1, 2, self._host, self._board.descriptor, descriptors.warden, *given]
        for _, pipe in charge.pipes:
            kept.append(pipe)
        kept.sort()
        poll = select.poll()
        poll.register(settled, select.POLLIN)
        # Blocked, so that no handler of ours ever runs in the child, and that a SIGTERM either has
        # come, or finds the new guardian among all others.
        block_handled()
        try:
            if self._closing:
                raise OSError(errno.ESHUTDOWN, "stopping")
            pid = os.fork()
            if not pid:
                slot = charge.slot
                _run_guardian(
                    kept, descriptors, request, nofile, self._cgroups, slot, at_once=at_once
                )
            self._guardians[pid] = charge
        finally:
            unblock_all()
            os.close(settle)
            poll.poll(SETTLE)  # until it has closed what belongs to others
            os.close(settled)
        return pid

    def _may_start_at_once(self, request: LaunchRequest, descriptors: Descriptors) -> bool:
        """Return whether a guardian may start its program without a fork."""
        if not vfork.works() or self._cgroups is not None or request.capture == "pty":
            return False  # a fork gets into a control group, or to a terminal, before it begins
        if not self._mounts.all_local():
            # A guardian that looks at a path may hang there, and then nobody could end its task.
            return False
        try:
            # What is stopped already shall not begin at all.
            return fcntl.ioctl(descriptors.control, termios.FIONREAD, _NOTHING) == _NOTHING
        except OSError:
            return False

    def _refuse(self, task: int, descriptors: Descriptors, error: OSError) -> None:
        """Answer in place of a guardian that could not be made."""
        message = wire.SpawnFailed(
            stage="setup",
            errno=error.errno or errno.EIO,
            path="",
            message=f"no guardian could be started: {error.strerror}",
            at=time.time(),
        )
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptors.control)) as s:
            s.send(wire.encode(message))
        ours = (self._host, self._board.descriptor, self._to_warden.fileno())
        close_all(descriptors.numbers(but=ours))
        self._tell(task, wire.Released(at=time.time()))

    def _reap(self) -> None:
        """Reap guardians and orphans; nobody is kept as a zombie here, so any child will do."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid not in self._guardians:
                self._forks.reaped(pid)
                self._prepare_for_the_next()
                continue
            # What it has said before it died: there may be bytes in a pipe that we only get now.
            while self._hear_guardian():
                pass
            charge = self._guardians.pop(pid)
            self._pids.pop(charge.task, None)
            self._stand_in.forget(pid)
            if charge.slot is not None:
                self._board.give_back(charge.slot)
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                # It ended because nothing was left below it, and has left nothing unsaid.
                close_all([pipe for _, pipe in charge.pipes])
                charge.pipes = []
                self._release(charge)
            else:
                self._tell(charge.task, wire.GuardianLost(code=code, at=time.time()))
                charge.report_at = time.monotonic() + charge.policy.kill_wait
                self._sweeping.append(charge)
                # Among orphans they would be two of them. There will be others after the next task.
                self._forks.end()

    @property
    def _pause(self) -> float:
        """Seconds until the next round of the sweep."""
        return SWEEP_EVERY if any(c.report_at for c in self._sweeping) else SWEEP_LATER

    def _sweep(self) -> None:
        """Kill what fell to us from guardians that died; release their tasks when it is gone."""
        me = os.getpid()
        # Children that end during a walk can hide others from it, hence the second one.
        orphans = descendants(me, without=self._guardians) or descendants(
            me, without=self._guardians
        )
        # Before they are killed: whoever is about to end shows no mark any more.
        shares = self._ownership.share(orphans, {charge.uid for charge in self._sweeping})
        for process in orphans:
            if process.alive:
                signal_process(process.pid, process.start_time, signal.SIGKILL)
        for charge in self._sweeping:
            if charge.cgroup is not None:
                charge.cgroup.kill()
        nobody = not orphans and self._childless()
        now = time.monotonic()
        for charge in tuple(self._sweeping):
            left = shares[charge.uid]
            # Among orphans of others one of ours may have been overlooked, but not twice.
            charge.rounds_without = 0 if left else charge.rounds_without + 1
            if nobody or (orphans and charge.rounds_without > 1):
                self._sweeping.remove(charge)
                if charge.cgroup is not None:
                    charge.cgroup.remove()
                self._release(charge)
            elif charge.report_at is not None and now >= charge.report_at:
                self._report(charge, [process for process in left if process.alive])

    def _report(self, charge: _Charge, resisting: Sequence[Process]) -> None:
        """Name those who resist; the project is theirs for as long as they live."""
        if resisting:  # else look again: whoever was overlooked shows in the next round
            charge.report_at = None
            pipes, charge.pipes = charge.pipes, []
            streams = tuple(stream for stream, _ in pipes)
            message = wire.Unswept(survivors=survivors_of(resisting), at=time.time(), pipes=streams)
            self._tell(charge.task, message, [pipe for _, pipe in pipes])

    def _childless(self) -> bool:
        """Return whether the kernel, too, knows no child but the guardians."""
        if self._guardians:
            return True
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def _release(self, charge: _Charge) -> None:
        # Whoever else has a copy of the locks was forked a moment ago, and has not closed it yet.
        unlock_all(charge.held)
        streams = tuple(stream for stream, _ in charge.pipes)
        message = wire.Released(at=time.time(), pipes=streams)
        self._tell(charge.task, message, [pipe for _, pipe in charge.pipes])

    def _tell(self, task: int, message: wire.Message, pipes: Sequence[int] = ()) -> None:
        """Tell the host, and give it some pipes, which are not ours any more."""
        if self._connected:
            self._out.send(wire.encode_routed(task, message), pipes)
        else:
            close_all(pipes)


def _make_pipes(
    streams: Sequence[str], descriptors: Descriptors
) -> tuple[list[tuple[str, int]], list[int]]:
    """Make the pipes of a task, and return those ends that are ours as well, and the others.

    Raises:
        OSError: There are no descriptors left.
    """
    pipes: list[tuple[str, int]] = []
    ends: list[int] = []
    for stream in streams:
        pipe, end = os.pipe2(os.O_CLOEXEC)
        descriptors.give_pipe(stream, pipe, end)
        pipes.append((stream, pipe))
        ends.append(end)
    return pipes, ends


def _run_guardian(
    kept: Sequence[int],
    descriptors: Descriptors,
    request: LaunchRequest,
    nofile: int,
    cgroups: str | None,
    slot: Slot | None,
    *,
    at_once: bool,
) -> NoReturn:
    """Be a guardian, in the forked child; never returns into the warden's loop.

    A child copies each page that it writes to, and Python writes to whatever it looks at. So the
    warden has prepared what can be prepared.
    """
    code = GUARDIAN_FAILED
    try:
        be_a_guardian(kept)
        start = prepare(request, descriptors, nofile) if at_once else None
        if start is not None:
            start_at_once(start, request, descriptors)
        Guardian(descriptors, request, nofile, cgroups, slot, start).run()
        code = 0
    finally:
        os._exit(code)


def main(arguments: list[str]) -> None:
    """Run a warden; the arguments are the numbers of its two descriptors, and `find_base`'s."""
    connection, host, cgroup = arguments
    os.chdir("/")
    Warden(int(connection), int(host), cgroup).run()
    sys.exit(0)

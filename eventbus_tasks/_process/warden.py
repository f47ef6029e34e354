"""The warden: one small process per engine, from which the guardians are forked.

It is started once with a bare interpreter and opens no file of any task, so that a stalled disk
cannot stop it. It keeps a copy of each project lock until the guardian is reaped and whatever
that guardian left behind is gone, and lives until its last guardian has ended.

``SIGTERM`` stops every task and then the warden; ``SIGINT`` and ``SIGHUP`` are ignored.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NoReturn

from eventbus_tasks._process import linux, wire
from eventbus_tasks._process.board import Board, Slot
from eventbus_tasks._process.cgroup import CgroupError, TaskCgroup, find_base
from eventbus_tasks._process.descriptors import Descriptors, close_all, unlock_all
from eventbus_tasks._process.family import (
    Process,
    descendants,
    signal_process,
    survivors_of,
)
from eventbus_tasks._process.guardian import Guardian
from eventbus_tasks._process.ladder import Rung, rungs_of
from eventbus_tasks._process.orphans import Ownership
from eventbus_tasks._process.outbox import Outbox
from eventbus_tasks._process.spawn import IGNORED, reset_signals
from eventbus_tasks._process.standin import StandIn
from eventbus_tasks._process.upwards import receive
from eventbus_tasks._process.waiting import poll_time

__all__ = ["main"]

SWEEP_EVERY: Final = 0.05
"""Seconds between two rounds of SIGKILL against orphans."""

SWEEP_LATER: Final = 1.0
"""The same, when all that are left have been reported."""

GUARDIAN_FAILED: Final = 70
"""Exit code of a guardian that met an error of its own."""

_SETTLE: Final = 1000
"""Milliseconds that a new guardian gets to close what belongs to others."""


@dataclass(slots=True)
class _Charge:
    """One task in the warden's care, and the warden's copies of what says that it is not over.

    Those are the lock of the project and, for its lock alone, the end record: the warden neither
    reads nor writes it. `cgroup` is the control group of the task, if it has got one.
    """

    task: int
    uid: str
    kill_wait: float
    held: list[int]
    slot: Slot | None = None
    """What is shared with the guardian."""
    pipes: list[tuple[str, int]] = field(default_factory=list)
    """Where its output is read, for what is left in there when the guardian is killed."""
    cgroup: TaskCgroup | None = None
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
        self._stand_in = StandIn(self._tell, self._kill_group)
        self._upwards, self._to_warden = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._upwards, self._to_warden):
            end.setblocking(False)
        self._cgroups: str | None = None
        with contextlib.suppress(CgroupError):
            self._cgroups = find_base(cgroup)
        self._closing = False
        self._connected = True
        self._host_alive = True
        self._soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            # Many tasks, many locks; programs get the limit that their task asks for.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        reset_signals()
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        self._wake, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        linux.set_child_subreaper()
        linux.set_process_name(b"ebt-warden")

    def run(self) -> None:
        """Serve until the host is gone and the last guardian has ended."""
        gc.collect()
        # Guardians share these pages for as long as nobody writes to them.
        gc.freeze()
        self._out.send(wire.encode(wire.Ready(pid=os.getpid())))
        while not self._closing or self._guardians or self._sweeping:
            self._wait()
            self._reap()
            self._stand_in.look()
            if self._sweeping:
                self._sweep()

    def _on_terminate(self, *_: Any) -> None:
        self._closing = True
        for pid in self._guardians:
            # Unreaped children of ours: the numbers cannot have passed to others.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._upwards, select.POLLIN)
        if self._host_alive:
            poll.register(self._host, select.POLLIN)
        if self._connected:
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
        for descriptor, _ in poll.poll(self._patience()):
            if descriptor == self._wake:
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
        if (when := self._stand_in.next_look()) is not None:
            pauses.append(max(0.0, when - time.monotonic()))
        return poll_time(min(pauses, default=math.inf))

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
            data, descriptors, _, _ = socket.recv_fds(
                self._socket, 65536, 16, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, ConnectionResetError):
            return False  # a reset is said once, before what is still there to be read
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._disconnect()
            return False
        request: Any = None
        try:
            request = wire.decode(data)
            if isinstance(request, wire.StopAsked):
                self._watch_stop(request)
                return True
            self._launch(request, dict(zip(request.descriptors, descriptors, strict=True)))
        except (wire.WireError, ValueError, AttributeError, TypeError, OSError):
            # Descriptors got lost on the way, because a limit was reached.
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            if isinstance(request, wire.LaunchRequest):
                self._tell(request.task, wire.GuardianLost(code=None, at=time.time()))
                self._tell(request.task, wire.Released(at=time.time()))
        return False

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

    def _watch_stop(self, asked: wire.StopAsked) -> None:
        """See that a guardian does what it was asked for."""
        pid = self._pids.get(asked.task, 0)
        charge = self._guardians.get(pid)
        if charge is not None and charge.slot is not None:
            rungs: tuple[Rung, ...] | None = ()
            if not asked.now:
                rungs = None if asked.steps is None else rungs_of(asked.steps)
            self._stand_in.stop(pid, asked.task, charge.slot, asked.reason, rungs)

    def _launch(self, request: wire.LaunchRequest, given: dict[str, int]) -> None:
        descriptors = Descriptors(host=self._host, **given)
        try:
            pipes = _make_pipes(request.pipes, descriptors)
            descriptors.warden = os.dup(self._to_warden.fileno())
            settled, settle = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            self._refuse(request.task, descriptors, error)
            return
        slot = self._board.take()
        descriptors.board = self._board.descriptor
        held = [fd for fd in (descriptors.lock, descriptors.end_record) if fd is not None]
        group = None if self._cgroups is None else TaskCgroup.of(self._cgroups, request.uid)
        charge = _Charge(request.task, request.uid, request.kill_wait, held, slot, pipes, group)
        # Blocked, so that no handler of ours ever runs in the child, and that a SIGTERM either has
        # come, or finds the new guardian among all others.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            if self._closing:
                raise OSError(errno.ESHUTDOWN, "stopping")
            pid = os.fork()
            if not pid:
                _run_guardian(descriptors, self._soft, self._cgroups, slot)
            self._guardians[pid] = charge
        except OSError as error:
            os.close(settled)
            os.close(settle)
            if slot is not None:
                self._board.give_back(slot)
            self._refuse(request.task, descriptors, error)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.close(settle)
        # Until then the new guardian holds copies of what belongs to others: of their locks too,
        # which only a warden can release for everybody.
        poll = select.poll()
        poll.register(settled, select.POLLIN)
        poll.poll(_SETTLE)
        os.close(settled)
        self._pids[request.task] = pid
        if slot is not None and request.timeout is not None:
            self._stand_in.watch(pid, request.task, slot, due=time.monotonic() + request.timeout)
        self._close(descriptors, but=[*held, *(pipe for _, pipe in pipes)])

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
        self._close(descriptors)
        self._tell(task, wire.Released(at=time.time()))

    def _close(self, descriptors: Descriptors, but: Sequence[int] = ()) -> None:
        for number in descriptors.numbers():
            if number not in (*but, self._host, self._board.descriptor):
                os.close(number)

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
                charge.report_at = time.monotonic() + charge.kill_wait
                self._sweeping.append(charge)

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


def _make_pipes(streams: Sequence[str], descriptors: Descriptors) -> list[tuple[str, int]]:
    """Make the pipes of a task, and return those ends that are ours as well.

    Raises:
        OSError: There are no descriptors left.
    """
    pipes: list[tuple[str, int]] = []
    for stream in streams:
        pipe, end = os.pipe2(os.O_CLOEXEC)
        descriptors.give_pipe(stream, pipe, end)
        pipes.append((stream, pipe))
    return pipes


def _run_guardian(
    descriptors: Descriptors, nofile: int, cgroups: str | None, slot: Slot | None
) -> NoReturn:
    """Be a guardian, in the forked child; never returns into the warden's loop."""
    code = GUARDIAN_FAILED
    try:
        signal.set_wakeup_fd(-1)
        linux.set_process_name(b"ebt-guardian")
        keep = sorted({0, 1, 2, *descriptors.numbers()})
        linux.close_from(keep[-1] + 1)
        for low, high in pairwise(keep):
            os.closerange(low + 1, high)
        Guardian(descriptors, nofile=nofile, cgroups=cgroups, slot=slot).run()
        code = 0
    finally:
        os._exit(code)


def main(arguments: list[str]) -> None:
    """Run a warden; the arguments are the numbers of its two descriptors, and `find_base`'s."""
    connection, host, cgroup = arguments
    os.chdir("/")
    Warden(int(connection), int(host), cgroup).run()
    sys.exit(0)

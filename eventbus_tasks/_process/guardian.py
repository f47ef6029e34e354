"""The guardian: one process per task, parent and subreaper of everything the task starts.

It runs a single-threaded loop over its descriptors and a few deadlines, and needs neither the
host nor the warden for anything: a task is captured, limited and ended by it alone. In each
turn it looks after the family first and after the output second, so a slow disk delays a
signal by one chunk at most.

Signals to the guardian itself: ``SIGTERM`` stops its task with the reason ``"cancelled"`` (a
service manager that ends everything); ``SIGINT`` and ``SIGHUP`` are ignored, they belong to
whoever sits at the terminal.
"""

from __future__ import annotations

import _socket
import contextlib
import math
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from eventbus_tasks._process import wire
from eventbus_tasks._process.arrival import ArrivalIndex
from eventbus_tasks._process.board import Slot
from eventbus_tasks._process.capture import Capture
from eventbus_tasks._process.cgroup import TaskCgroup
from eventbus_tasks._process.climbing import Climber
from eventbus_tasks._process.descriptors import Descriptors
from eventbus_tasks._process.dispositions import set_action, unblock_all
from eventbus_tasks._process.family import (
    Process,
    children,
    survivors_of,
)
from eventbus_tasks._process.history import remember
from eventbus_tasks._process.ladder import rungs_of
from eventbus_tasks._process.launch import LaunchRequest
from eventbus_tasks._process.leader import Start
from eventbus_tasks._process.outbox import Outbox
from eventbus_tasks._process.pty import Pty
from eventbus_tasks._process.record import write_end_record
from eventbus_tasks._process.starting import Starter
from eventbus_tasks._process.upwards import WardenLink
from eventbus_tasks._process.waiting import poll_time

__all__ = ["GUARDIAN_FAILED", "Descriptors", "Guardian"]

GUARDIAN_FAILED: Final = 70
"""Exit code of a guardian that met an error of its own."""

_REQUEST: Final = 128 * 1024
"""No request of a host is larger than this."""
_PEEK: Final = int(socket.MSG_PEEK)
_TERM: Final = int(signal.SIGTERM)
_FAMILY: Final = int(socket.AF_UNIX)
_TYPE: Final = int(socket.SOCK_SEQPACKET)
# Made once: to make such an object takes longer than what it guards.
_NOTHING_THERE: Final = contextlib.suppress(BlockingIOError)


class Guardian(Starter):
    """The life of one task, from its fork to its last descendant.

    Attributes:
        terminations: How many times SIGTERM has come.
    """

    __slots__ = (
        "_arrivals",
        "_children_changed",
        "_ended",
        "_moving",
        "_obeyed",
        "_poll",
        "_return_code",
        "_wake",
        "_watched",
        "terminations",
    )

    def __init__(
        self,
        descriptors: Descriptors,
        request: LaunchRequest,
        nofile: int,
        cgroups: str | None = None,
        slot: Slot | None = None,
        begun: Start | None = None,
    ) -> None:
        """Prepare; nothing is started here.

        Args:
            descriptors: Belong to the guardian from here on.
            request: What the host has asked for.
            nofile: Soft limit of open files.
            cgroups: Below which control group the task gets its own, if it can have one.
            slot: What the guardian shares with its warden.
            begun: The start, if it was tried already.

        Raises:
            OSError: The kernel refuses something that is indispensable.
        """
        self._fds = descriptors
        self._control = _socket.socket(_FAMILY, _TYPE, 0, descriptors.control)
        self._control.setblocking(False)
        self._out = Outbox(self._control)
        self._warden: WardenLink | None = None
        self._request = request
        self._rendezvous = None
        self._told = []
        self._started = None
        self._cgroup: TaskCgroup | None = None
        if cgroups is not None:
            with contextlib.suppress(OSError):
                self._cgroup = TaskCgroup.make(cgroups, request.uid)
        self._nofile = nofile
        Climber.__init__(self, request.policy, slot)
        self._captures: list[Capture] = []
        arrivals = descriptors.arrivals
        self._arrivals = None if arrivals is None else ArrivalIndex(arrivals)
        self._pty: Pty | None = None
        self._begun = begun
        self._leader = self._leader_start = 0
        self._report = -1
        self._report_data = b""
        self._reaped = False
        self._return_code: int | None = None
        self._started_at = time.time()
        self._host_identity = None  # of a host that has taken the task over
        self.terminations = self._obeyed = 0
        self._host_lost = False
        self._ended = False
        self._wake = -1
        self._watched: dict[int, int] = {}
        self._callers = []
        self._asked = True  # the host may have asked for something
        self._children_changed = False
        self._moving = True  # there may be output to take

    # -- start ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Live the whole life of the task; returns when nothing of it is left."""
        if self._begin():
            while not self._turn():
                pass
        self._leave()

    def rehearse(self) -> None:
        """Do everything up to the moment in which the program runs; not to be used afterwards.

        What is open stays open.
        """
        try:
            if self._begin():
                self._plan()
                self._turn()
        finally:
            self._control.detach()

    def _begin(self) -> bool:
        """Start the task; report and return ``False`` if there is nothing to wait for."""
        self._prepare_signals()
        begun = self._begun
        if begun is not None and begun.pid and begun.streams is not None:
            return self._go_on(begun, begun.streams)
        self._read_control()
        if self._reason is not None:
            # Stopped before it began: nothing is started at all.
            self._end()
            return False
        return self._start()

    def _prepare_signals(self) -> None:
        # The warden, from which we were forked, does the same as we do about all others.
        self._wake, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        set_action(_TERM, self._on_terminate)
        unblock_all()

    def _on_terminate(self, *_: Any) -> None:
        self.terminations += 1

    # -- one turn ------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Wait for something to happen and deal with it; return whether all is over."""
        more = self._wait()
        if self._memory[self._taken]:
            with self._shared:
                pass  # before anything else: what has happened may be its doing
        if not more and self._return_code is None:
            # Nothing but output, which there may be much of: all else is as it was.
            now = time.monotonic()
            self._check_limits(now)
            self._climb(now)
            self._capture(now)
            return False
        if self._report >= 0 and self._check_start():
            return True
        # Whether the program was executed is known before its end is: the report ends with it.
        known = self._report < 0
        if known:
            self._check_leader()
        self._read_control()
        if self._callers:
            self._serve_visitors()
        now = time.monotonic()
        self._check_limits(now)
        self._climb(now)
        if self._moving or self._return_code is not None:
            self._capture(now)
        return known and self._check_family(time.monotonic())

    def _wait(self) -> bool:
        """Wait until there is something to do; return whether it may be more than output."""
        now = time.monotonic()
        watched = {self._wake: select.POLLIN}
        if self._report >= 0:
            watched[self._report] = select.POLLIN
        control = -1
        if not self._host_lost:
            watched[self._fds.host] = select.POLLIN
            control = self._control.fileno()
            watched[control] = select.POLLIN | (select.POLLOUT if self._out.queue else 0)
        if self._rendezvous is not None:
            for descriptor in self._rendezvous.numbers():
                watched[descriptor] = select.POLLIN
        elif self._fds.rendezvous is not None:
            watched[self._fds.rendezvous] = select.POLLIN
        outputs: dict[int, int] = {}  # numbers of captures
        times = [self._time_limit, self._leave_or_kill_at, self._drain_until]
        for number, capture in enumerate(self._captures):
            times.append(capture.deadline())
            if (output := capture.poll_fd(now)) is not None:
                outputs[output] = number
                watched[output] = select.POLLIN
        if self._ladder is not None:
            times.append(self._ladder.deadline)
        elif self._policy.idle_timeout is not None and (limit := self._idle_limit) is not None:
            times.append(self._last_output + limit)
        due = math.inf
        for when in times:
            if when is not None and when < due:
                due = when
        if watched != self._watched:
            self._watched = watched
            self._poll = select.poll()
            for descriptor, mask in watched.items():
                self._poll.register(descriptor, mask)
        ready = self._sleep(due, outputs)
        more = not ready
        # When it is time, too: there is output that cannot be waited for.
        self._moving = more or time.monotonic() >= due
        for descriptor, _ in ready:
            if descriptor in outputs:
                self._moving = True
                continue
            more = True
            if descriptor == control:
                self._asked = True
            elif descriptor == self._wake:
                self._children_changed = True
                with _NOTHING_THERE:
                    os.read(self._wake, 4096)
            elif descriptor == self._fds.host:
                self._lose_host()
            elif descriptor != self._report:
                self._callers.append(descriptor)
        return more

    def _sleep(self, due: float, outputs: Mapping[int, int]) -> list[tuple[int, int]]:
        """Sleep until there is something to do, and return what is ready; nothing when it is due.

        Mostly it is a line of output, and soon another one. That is dealt with right here, in a way
        that touches as little as it can: the guardians of many chatty tasks drive each other out of
        the processor's caches, and then to fetch an object takes longer than to use it.
        """
        captures, index, ladder = self._captures, self._arrivals, self._ladder
        if self._return_code is not None:
            outputs = {}  # each turn looks whether it was the last one
        limited = self._policy.max_output is not None
        poll, monotonic = self._poll.poll, time.monotonic
        memory, idle, taken = self._memory, self._idle, self._taken
        while True:
            until = due if index is None else min(due, index.deadline)
            timeout = None if until == math.inf else poll_time(until - monotonic())
            memory[idle] = True
            ready = poll(timeout)
            memory[idle] = False
            if index is not None and not ready and until < due:
                index.tick(monotonic())
                continue
            if len(ready) != 1 or ready[0][0] not in outputs or memory[taken]:
                return ready
            number = outputs[ready[0][0]]
            capture = captures[number]
            if not capture.take():
                return ready
            self._last_output = now = monotonic()
            if index is not None:
                index.note(number, capture.size, now)
            if limited:
                self._check_output_limit()
                if self._out.queue or self._ladder is not ladder:
                    return []
            if now >= due:
                return []

    def _check_leader(self) -> None:
        """Notice the leader's exit, and leave it a zombie: so its number stays taken."""
        if self._return_code is not None or not self._leader:
            return
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        result = os.waitid(os.P_PID, self._leader, options)
        if result is None:
            return
        code = result.si_status
        with self._shared:
            # First comes what the warden has done, should we have hung: it may be the cause.
            self._return_code = code if result.si_code == os.CLD_EXITED else -code
            self._time_limit = None
            until = time.monotonic() + self._policy.exit_grace
            if self._ladder is None:
                self._leave_or_kill_at = until
            else:
                self._ladder.leader_left(until)
        self._send(wire.LeaderExited(return_code=self._return_code, at=time.time()))

    def _read_control(self) -> None:
        """Carry out what the host asks for."""
        while self._asked and not self._host_lost:
            try:
                # Mostly there is nothing; to make room for the largest first takes memory.
                self._control.recv(1, _PEEK)
                data = self._control.recv(_REQUEST)
            except BlockingIOError:
                self._asked = False
                break
            except ConnectionResetError:
                continue  # the host let go with news unread: said once, before its last requests
            except OSError:
                data = b""
            if not data:
                self._lose_host()
                break
            with contextlib.suppress(wire.WireError):
                message = wire.decode(data)
                if isinstance(message, wire.Stop):
                    rungs = () if message.now else self._policy.rungs
                    if message.steps is not None and not message.now:
                        rungs = rungs_of(message.steps)
                    self._stop(message.reason, rungs, asked=True)
                elif isinstance(message, wire.Resize) and self._pty is not None:
                    self._pty.resize(message.columns, message.lines)
        if self.terminations > self._obeyed:
            self._obeyed = self.terminations
            self._stop("cancelled", self._policy.rungs)
        if self._out.queue and not self._host_lost:
            self._out.flush()

    def _lose_host(self) -> None:
        """The host is dead, or has let go of this task."""
        if self._host_lost:
            return
        self._host_lost = True
        self._out.discard()
        if self._policy.on_host_death == "detach":
            return
        if self._return_code is not None and self._policy.after_exit == "leave":
            return  # what is left was left on purpose
        self._stop("host_lost", self._policy.rungs)

    # -- output --------------------------------------------------------------------------------

    def _dropped(self, stream: str, start: int, end: int, why: str) -> None:
        self._send(wire.Dropped(stream=stream, start=start, end=end, why=why, at=time.time()))

    def _capture(self, now: float) -> bool:
        """Take one chunk of each stream; return whether there was anything."""
        moved = False
        index = self._arrivals
        for number, capture in enumerate(self._captures):
            if capture.move(now):
                moved = True
                if index is not None:
                    index.note(number, capture.size, now)
        if index is not None:
            index.tick(now)
        if moved:
            self._last_output = now
            self._check_output_limit()
        return moved

    # -- the end -------------------------------------------------------------------------------

    def _check_family(self, now: float) -> bool:
        """Reap what has ended; once nobody is left, drain and end. Return whether all is over."""
        if self._drain_until is None:
            if self._return_code is None and not self._children_changed:
                return False
            self._children_changed = False
            if not self._gone():
                return False
            with self._shared:
                self._drain_until = now + self._policy.drain
            self._ladder = self._leave_or_kill_at = None
            if self._pty is not None:
                self._pty.hang_up()
        if not all(capture.finished for capture in self._captures):
            if now < self._drain_until:
                return False
            # Somebody outside the family holds the pipe. What is in it is still ours.
            for capture in self._captures:
                for _ in range(64):
                    if not capture.move(now):
                        break
        else:
            self._capture(now)
        if not self._ended:
            self._end()
        return True

    def _gone(self) -> bool:
        """Return whether the whole family has ended, the leader last."""
        others = self._others()
        for pid in others:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
        if self._return_code is None or (others and self._others()):
            return False
        if not self._reaped:
            os.waitpid(self._leader, 0)
            self._reaped = True
        try:
            # The list of children may be incomplete; this answer is not.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        return False

    def _others(self) -> list[int]:
        """Return the children besides the leader."""
        return [pid for pid in children(self._pid) if pid != self._leader]

    def _end(self, *, survivors: list[Process] | None = None, unkillable: bool = False) -> None:
        """Make everything durable and say the last word."""
        if not survivors:
            for capture in self._captures:
                capture.close()
        if self._arrivals is not None:
            sizes = [capture.size for capture in self._captures]
            self._arrivals.finish(sizes, time.monotonic())
        streams = {"stdout": 0} if self._fds.stderr is None else {"stdout": 0, "stderr": 0}
        fields: dict[str, Any] = {
            "return_code": self._return_code,
            "reason": self._reason,
            "unkillable": unkillable,
            "survivors": survivors_of(survivors or ()),
            "leftovers_killed": len(self._outlived),
            "sizes": {**streams, **{c.stream: c.size for c in self._captures}},
            "dropped": {**streams, **{c.stream: c.dropped for c in self._captures}},
            "at": time.time(),
        }
        message = wire.Ended(**fields, record_error=None)
        fds = self._fds
        if fds.end_record is not None:
            logs = [fds.stdout] if fds.stderr is None else [fds.stdout, fds.stderr]
            problem = write_end_record(fds.end_record, logs, message, self._started_at)
            if problem is not None:
                message = wire.Ended(**fields, record_error=problem)
        self._send_last(message)

    def _send_last(self, message: wire.Ended | wire.SpawnFailed) -> None:
        if self._rendezvous is not None and not self._ended:
            self._rendezvous.tell(wire.encode(message))
        self._send(message)
        self._ended = True

    def _send(self, message: wire.Message) -> None:
        # After the last word there is none: bytes of leftovers go to the log only.
        if self._ended:
            return
        remember(self._told, message)
        if not self._host_lost:
            self._out.send(wire.encode(message))

    def _leave(self) -> None:
        """Wait until the host has been told, as long as it lives; then let go of the lock."""
        if self._cgroup is not None:
            self._cgroup.remove()
        poll = select.poll()
        poll.register(self._control, select.POLLOUT)
        poll.register(self._fds.host, select.POLLIN)
        while self._out.queue and not self._host_lost:
            ready = dict(poll.poll())
            if self._fds.host in ready:
                break
            if not self._out.flush() and self._out.queue:
                # Writable for the kernel, yet too full for this packet.
                select.select((), (), (), 0.01)
        if (rendezvous := self._meeting()) is not None:
            rendezvous.close()
        if self._fds.lock is not None:
            os.close(self._fds.lock)

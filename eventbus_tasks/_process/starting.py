"""How a guardian starts its program, and learns that it runs."""

from __future__ import annotations

import abc
import errno
import os
import time
from typing import Any

from eventbus_tasks._process import vfork, wire
from eventbus_tasks._process.capture import Capture
from eventbus_tasks._process.cgroup import TaskCgroup
from eventbus_tasks._process.family import Process, read_process
from eventbus_tasks._process.leader import Start
from eventbus_tasks._process.marker import MARK
from eventbus_tasks._process.pty import Pty
from eventbus_tasks._process.reachable import Reachable
from eventbus_tasks._process.record import write_end_record
from eventbus_tasks._process.spawn import LeaderPlan, parse_failure, start_leader
from eventbus_tasks._process.streams import (
    Streams,
    capture_streams,
    open_outputs,
    open_terminal,
)
from eventbus_tasks._process.upwards import WardenLink

__all__ = ["Starter"]


class Starter(Reachable):
    """The part of a guardian that starts its program.

    Either that was done already, before anything else (`leader.Start`), or it forks.
    """

    __slots__ = (
        "_begun",
        "_captures",
        "_cgroup",
        "_leader",
        "_leader_start",
        "_nofile",
        "_pty",
        "_reaped",
        "_report",
        "_report_data",
        "_started_at",
        "_streams",
        "_warden",
    )

    _begun: Start | None
    _captures: list[Capture]
    _cgroup: TaskCgroup | None
    _leader: int
    _leader_start: int
    _nofile: int
    _pty: Pty | None
    _reaped: bool
    _report: int
    _report_data: bytes
    _started_at: float
    _streams: Streams
    _warden: WardenLink | None

    @abc.abstractmethod
    def _dropped(self, stream: str, start: int, end: int, why: str) -> None:
        """Tell that bytes of a stream are not, or no longer, in the log."""

    @abc.abstractmethod
    def _send_last(self, message: wire.Ended | wire.SpawnFailed) -> None:
        """Say the last word."""

    def _go_on(self, start: Start, streams: Streams) -> bool:
        """Take over a leader that was started already."""
        self._leader = start.pid
        vfork.forget()
        self._streams = streams
        streams.close_ends()
        over = False
        if start.news:
            self._note_start(start.start_time, start.at, start.news, told=start.told)
        else:
            over = self._learn_start(read_process(self._leader))
        return not over and self._begin_to_capture(streams)

    def _start(self) -> bool:
        """Start the leader and begin to capture; report and return ``False`` if that fails."""
        streams = None if self._begun is None else self._begun.streams
        try:
            if self._request.capture == "pty":
                streams = open_terminal(self._request, self._fds, self._dropped, self._entrust)
            elif streams is None:
                streams = open_outputs(self._request, self._fds)
            self._streams = streams
            group = None if self._cgroup is None else self._cgroup.fd
            self._leader, self._report = start_leader(self._plan, group)
        except OSError as error:
            number = error.errno or errno.EIO
            message = f"the program could not be started: {error.strerror or error}"
            self._spawn_failed(stage="setup", errno=number, path="", message=message)
            return False
        finally:
            if streams is not None:
                streams.close_ends()
        leader = read_process(self._leader)
        self._leader_start = leader.start_time if leader else 0
        return self._begin_to_capture(streams)

    def _begin_to_capture(self, streams: Streams) -> bool:
        self._pty = streams.pty
        if self._policy.timeout is not None:
            self._time_limit = time.monotonic() + self._policy.timeout
        self._captures = capture_streams(
            streams, self._request, self._fds, self._dropped, self._entrust
        )
        with self._shared:
            return True

    def _plan(self) -> LeaderPlan:
        """Return what the leader has to do; called there."""
        spec, streams = self._read_spec(), self._streams
        pairs = {**spec.env, MARK: spec.uid}
        return LeaderPlan(
            argv=[text.encode("utf-8", "surrogateescape") for text in spec.argv],
            cwd=spec.cwd.encode("utf-8", "surrogateescape"),
            env={
                name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape")
                for name, value in pairs.items()
            },
            umask=spec.umask,
            nofile=self._nofile,
            stdin=streams.stdin,
            stdout=streams.outputs[0],
            stderr=streams.outputs[-1],
            terminal=streams.pty is not None,
        )

    def _entrust(self, stream: str, pipe: int) -> bool:
        """Give the warden a copy of a pipe; return whether it has it."""
        link = self._link()
        return link is not None and link.entrust(stream, pipe)

    def _link(self) -> WardenLink | None:
        if self._warden is None and self._fds.warden is not None:
            self._warden = WardenLink(self._fds.warden)
        return self._warden

    def _check_start(self) -> bool:
        """Learn whether the program runs; return ``True`` if it never will."""
        try:
            while chunk := os.read(self._report, 400):
                self._report_data += chunk
        except BlockingIOError:
            return False
        os.close(self._report)
        self._report = -1
        if self._report_data:
            os.waitpid(self._leader, 0)
            self._reaped = True
            self._spawn_failed(**parse_failure(self._report_data))
            return True
        return self._learn_start(read_process(self._leader))

    def _learn_start(self, process: Process | None) -> bool:
        """Learn from the leader whether the program runs; return ``True`` if it never will."""
        if process is not None and not process.executed:
            process = self._see_executed(process)
        if process is not None and not process.executed:
            with self._shared:
                pass  # what has become of it may be the warden's doing
            if self._reason is not None:
                return False  # stopped before it could execute anything; its status follows
            status = os.waitstatus_to_exitcode(os.waitpid(self._leader, 0)[1])
            self._reaped = True
            message = f"the process ended ({status}) before it could execute the program"
            self._spawn_failed(stage="setup", errno=errno.EINTR, path="", message=message)
            return True
        try:
            executable = os.readlink(f"/proc/{self._leader}/exe")
        except OSError:
            executable = self._read_spec().argv[0]
        at = time.time()
        start_time = process.start_time if process else 0
        packet = wire.encode_started(self._leader, start_time, executable, at)
        self._note_start(start_time, at, packet)
        return False

    def _note_start(self, start_time: int, at: float, packet: bytes, *, told: bool = False) -> None:
        self._leader_start = start_time or self._leader_start
        self._started = (self._leader, start_time, at)
        if not self._ended:  # after the last word there is none
            self._told.append(packet)
            if not self._host_lost and not told:
                self._out.send(packet)
        if self._fds.rendezvous is None:
            os.close(self._fds.spec)  # nobody will ask for it

    def _see_executed(self, process: Process) -> Process:
        """Return what the leader is when it has executed its program, or cannot any more.

        Without a fork we go on in the middle of its execve, when it has let go of our memory and
        before it counts as executed: that takes some microseconds, unless somebody looks at it in
        ``/proc`` just then.
        """
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while not process.executed and os.waitid(os.P_PID, self._leader, options) is None:
            time.sleep(0.001)
            process = read_process(self._leader) or process
        return read_process(self._leader) or process

    def _spawn_failed(self, **failure: Any) -> None:
        message = wire.SpawnFailed(**failure, at=time.time())
        fds = self._fds
        if fds.end_record is not None:
            logs = [fds.stdout] if fds.stderr is None else [fds.stdout, fds.stderr]
            write_end_record(fds.end_record, logs, message, self._started_at)
        self._send_last(message)

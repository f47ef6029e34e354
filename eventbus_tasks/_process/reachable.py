"""What a guardian answers those who come to its rendezvous."""

from __future__ import annotations

import _socket
import os
import socket
from collections.abc import Mapping
from typing import Any

from eventbus_tasks._process import wire
from eventbus_tasks._process.climbing import Climber
from eventbus_tasks._process.descriptors import Descriptors
from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.history import Told, packets
from eventbus_tasks._process.launch import LaunchRequest
from eventbus_tasks._process.outbox import Outbox
from eventbus_tasks._process.rendezvous import Rendezvous, hand_over

__all__ = ["Reachable"]


class Reachable(Climber):
    """The part of a guardian that others than its host find: the `Owner` of its rendezvous."""

    __slots__ = (
        "_asked",
        "_callers",
        "_control",
        "_fds",
        "_host_identity",
        "_host_lost",
        "_out",
        "_rendezvous",
        "_request",
        "_started",
        "_told",
    )

    _asked: bool
    _callers: list[int]
    _control: _socket.socket
    _fds: Descriptors
    _host_identity: Any
    _host_lost: bool
    _out: Outbox
    _rendezvous: Rendezvous | None
    _request: LaunchRequest
    _started: tuple[int, int, float] | None
    _told: Told

    def _read_spec(self) -> wire.LaunchSpec:
        """Read what is to be run; it is not kept.

        Raises:
            OSError: It cannot be read.
            WireError: It is not one.
        """
        return wire.LaunchSpec.decode(os.pread(self._fds.spec, self._request.image - 1, 0))

    def _serve_visitors(self) -> None:
        callers, self._callers = self._callers, []
        for descriptor in callers:
            if (rendezvous := self._meeting()) is not None:
                rendezvous.serve(descriptor)

    def _meeting(self) -> Rendezvous | None:
        if self._rendezvous is None and self._fds.rendezvous is not None:
            path = self._request.rendezvous or ""
            self._rendezvous = Rendezvous(self._fds.rendezvous, path, self)
        return self._rendezvous

    def describe(self) -> dict[str, Any]:
        """Say what runs, and how it is doing."""
        started = self._started
        me = read_process(self._pid)
        about = dict(self._read_spec().about)
        if self._ended:
            state = "left"
        elif self._ladder is not None:
            state = "stopping"
        else:
            state = "running" if started else "starting"
        return {
            "uid": self._request.uid,
            "about": about,
            "state": state,
            "reason": self._reason,
            "guardian": [self._pid, me.start_time if me else 0],
            "leader": [started[0], started[1]] if started else None,
            "started_at": started[2] if started else None,
            "hosted": not self._host_lost,
            "host": self._host_identity if self._adopted else about.get("host"),
            "return_code": self._return_code,
            "on_host_death": self._policy.on_host_death,
        }

    def request_stop(self, *, now: bool) -> None:
        """Begin to end the task, as its host can."""
        self._stop("cancelled", () if now else self._policy.rungs)

    def logs(self) -> dict[str, int]:
        """Return the descriptors of the logs."""
        found = {"stdout": self._fds.stdout, "stderr": self._fds.stderr}
        return {stream: log for stream, log in found.items() if log is not None}

    def adopt(self, connection: socket.socket, host: int, who: Mapping[str, Any]) -> str | None:
        """Take a new host for one that has died, and tell it everything from the beginning."""
        if not self._host_lost:
            return "its host lives"
        # Its warden has nobody to give the pipes to, should we be killed.
        pipes = {f"{capture.stream}_pipe": capture.share_pipe() for capture in self._captures}
        others = {"bell": self._fds.bell, "spec": self._fds.spec}
        others |= {name: pipe for name, pipe in pipes.items() if pipe is not None}
        if problem := hand_over(connection, self.describe(), self.logs(), others):
            return problem
        os.dup2(host, self._fds.host, inheritable=False)
        os.close(host)
        self._control.close()
        self._control = connection
        self._asked = True
        self._out = Outbox(connection)
        self._host_identity = who.get("host")
        self._host_lost, self._adopted = False, True
        for packet in packets(self._told):
            self._out.send(packet)
        return None

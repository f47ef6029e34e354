"""The start of a program, before its guardian is anything but a fork of the warden.

Until their program runs, people wait. A guardian copies each page of memory that it touches, which
takes longer than to start a program. So it does nothing else before it has told the host; what it
needs besides it makes afterwards.
"""

from __future__ import annotations

import os
import time

from eventbus_tasks._process import vfork, wire
from eventbus_tasks._process.descriptors import Descriptors
from eventbus_tasks._process.family import FLAGS, FORKED_NO_EXEC, START_TIME, stat_fields
from eventbus_tasks._process.launch import LaunchRequest
from eventbus_tasks._process.streams import Streams, open_outputs

__all__ = ["Start", "prepare", "start_at_once", "tell"]


class Start:
    """The start of a program without a terminal.

    Attributes:
        loaded: The program.
        streams: What is open for it, once it is.
        pid: Number of the leader; 0 if none was started.
        start_time: Of the leader, if it was seen to run.
        news: That it runs, a `wire.Started`, if it was seen.
        at: When that was.
        told: Whether the host knows.
    """

    __slots__ = ("at", "loaded", "news", "pid", "start_time", "streams", "told")

    def __init__(self, loaded: vfork.Loaded) -> None:
        """Nothing was started yet."""
        self.loaded = loaded
        self.streams: Streams | None = None
        self.pid = 0
        self.start_time = 0
        self.news = b""
        self.at = 0.0
        self.told = False


def prepare(request: LaunchRequest, fds: Descriptors, nofile: int) -> Start | None:
    """Prepare the start of a program without a terminal; no path is looked at.

    Args:
        request: What the host has asked for.
        fds: What the guardian will be given.
        nofile: Soft limit of open files.

    Returns:
        What `start_at_once` needs; ``None`` if the program has to be forked.
    """
    try:
        loaded = vfork.load(fds.spec, request.image, nofile)
        if loaded is None:
            return None
        start = Start(loaded)
        if request.capture == "pipe":
            _connect(start, request, fds)
    except OSError:
        return None  # the guardian will meet what is in the way, too
    return start


def _connect(start: Start, request: LaunchRequest, fds: Descriptors) -> None:
    start.streams = streams = open_outputs(request, fds)
    outputs = streams.outputs
    vfork.connect(streams.stdin, outputs[0], outputs[-1])


def start_at_once(start: Start, request: LaunchRequest, fds: Descriptors) -> None:
    """Start the program, and tell the host.

    Of what fails nothing is told: the guardian will meet it, too, and can say why.
    """
    try:
        if start.streams is None:
            _connect(start, request, fds)
        pid = vfork.execute(start.loaded)
        if pid > 0:
            start.pid = pid
            tell(start, fds.control)
    except (OSError, ValueError):
        pass


def tell(start: Start, control: int) -> None:
    """Tell the host that the program runs.

    Raises:
        OSError: It has ended already, or the host cannot be told now.
    """
    fields = stat_fields(f"/proc/{start.pid}/stat")
    if int(fields[FLAGS]) & FORKED_NO_EXEC:
        return
    start_time = int(fields[START_TIME])
    executable = os.readlink(f"/proc/{start.pid}/exe")
    start.start_time = start_time
    start.at = at = time.time()
    start.news = news = wire.encode_started(start.pid, start_time, executable, at)
    os.write(control, news)
    start.told = True

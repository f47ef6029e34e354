"""The standard streams of a program, from both sides."""

from __future__ import annotations

import os

from eventbus_tasks._process.capture import Capture, Entrust, FileCapture, Gap, PipeCapture
from eventbus_tasks._process.descriptors import Descriptors
from eventbus_tasks._process.launch import LaunchRequest
from eventbus_tasks._process.pty import Pty, open_pty

__all__ = ["Streams", "open_streams"]


class Streams:
    """What is open for the streams of one program.

    Attributes:
        stdin: What becomes its descriptor 0.
        outputs: What becomes its descriptors 1 and 2: one for both, or two.
        captures: How its output comes to its logs.
        pty: The capture of a program at a terminal of its own.
        ends: What is to be closed here as soon as the program has it.
    """

    __slots__ = ("captures", "ends", "outputs", "pty", "stdin")

    def __init__(self, stdin: int, ends: list[int], pty: Pty | None = None) -> None:
        """Begin without outputs."""
        self.stdin = stdin
        self.outputs: list[int] = []
        self.captures: list[Capture] = []
        self.pty = pty
        self.ends = ends

    def close_ends(self) -> None:
        """Close what is the program's alone."""
        for end in self.ends:
            os.close(end)
        self.ends = []


def open_streams(request: LaunchRequest, fds: Descriptors, gap: Gap, entrust: Entrust) -> Streams:
    """Open what a program writes to, and begin to capture it.

    Args:
        request: Says how it is captured, and how much of it is kept.
        fds: The logs, the bell, and where input comes from.
        gap: Told about bytes that are not.
        entrust: Gives the warden a copy of where output is read.

    Raises:
        OSError: There are no descriptors or terminals left. What is open already stays open.
    """
    policy = request.policy
    keep = policy.max_output
    if keep is not None and policy.keep != "tail":
        keep = None
    if request.capture == "pty":
        ends = open_pty(*request.pty_size)
        entrust("stdout", ends[0])
        pty = Pty("stdout", ends, fds.stdin, fds.stdout, fds.bell, gap, keep=keep)
        streams = Streams(ends[1], [], pty)
        streams.outputs.append(ends[1])
        streams.captures.append(pty)
        return streams
    streams = Streams(fds.stdin, [fds.stdin])
    logs = [("stdout", fds.stdout)]
    if fds.stderr is not None:
        logs.append(("stderr", fds.stderr))
    for stream, log in logs:
        if request.capture == "pipe":
            pipe, end = fds.take_pipe(stream)
            streams.captures.append(PipeCapture(stream, pipe, log, fds.bell, gap, keep, entrust))
        else:
            # A description of its own, because the host's must not append; the path of the
            # descriptor works for files without a name, too.
            end = os.open(f"/proc/self/fd/{log}", os.O_WRONLY | os.O_APPEND)
            streams.captures.append(FileCapture(stream, log, fds.bell, gap, keep))
        streams.outputs.append(end)
        streams.ends.append(end)
    return streams

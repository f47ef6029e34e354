"""The standard streams of a program, from both sides."""

from __future__ import annotations

import os

from eventbus_tasks._process.capture import Capture, Entrust, FileCapture, Gap, PipeCapture
from eventbus_tasks._process.descriptors import Descriptors
from eventbus_tasks._process.launch import LaunchRequest
from eventbus_tasks._process.pty import Pty, open_pty

__all__ = ["Streams", "capture_streams", "open_outputs", "open_terminal"]


class Streams:
    """What is open for the streams of one program.

    Attributes:
        stdin: What becomes its descriptor 0.
        outputs: What becomes its descriptors 1 and 2: one for both, or two.
        pty: The capture of a program at a terminal of its own.
        ends: What is to be closed here as soon as the program has it.
    """

    __slots__ = ("ends", "outputs", "pty", "stdin")

    def __init__(self, stdin: int, ends: list[int], pty: Pty | None = None) -> None:
        """Begin without outputs."""
        self.stdin = stdin
        self.outputs: list[int] = []
        self.pty = pty
        self.ends = ends

    def close_ends(self) -> None:
        """Close what is the program's alone."""
        for end in self.ends:
            os.close(end)
        self.ends = []


def open_terminal(request: LaunchRequest, fds: Descriptors, gap: Gap, entrust: Entrust) -> Streams:
    """Open a terminal for a program.

    Args:
        request: Says how large it is, and how much of the output is kept.
        fds: The log, the bell, and where input comes from.
        gap: Told about bytes that are not.
        entrust: Gives the warden a copy of where output is read.

    Raises:
        OSError: There are no descriptors or terminals left. What is open already stays open.
    """
    ends = open_pty(*request.pty_size)
    entrust("stdout", ends[0])
    pty = Pty("stdout", ends, fds.stdin, fds.stdout, fds.bell, gap, keep=_kept(request))
    streams = Streams(ends[1], [], pty)
    streams.outputs.append(ends[1])
    return streams


def open_outputs(request: LaunchRequest, fds: Descriptors) -> Streams:
    """Open what a program without a terminal writes to.

    Args:
        request: Says how it is captured.
        fds: The logs, and where input comes from.

    Raises:
        OSError: There are no descriptors left. What is open already stays open.
    """
    streams = Streams(fds.stdin, [fds.stdin])
    for stream, log in _logs(fds):
        if request.capture == "pipe":
            _, end = fds.take_pipe(stream)
        else:
            # A description of its own, because the host's must not append; the path of the
            # descriptor works for files without a name, too.
            end = os.open(f"/proc/self/fd/{log}", os.O_WRONLY | os.O_APPEND)
        streams.outputs.append(end)
        streams.ends.append(end)
    return streams


def capture_streams(
    streams: Streams, request: LaunchRequest, fds: Descriptors, gap: Gap, entrust: Entrust
) -> list[Capture]:
    """Begin to capture what was opened.

    Args:
        streams: What is open.
        request: Says how it is captured, and how much of it is kept.
        fds: The logs and the bell.
        gap: Told about bytes that are not.
        entrust: Gives the warden a copy of where output is read.
    """
    if streams.pty is not None:
        return [streams.pty]
    captures: list[Capture] = []
    keep = _kept(request)
    for stream, log in _logs(fds):
        if request.capture == "pipe":
            pipe, _ = fds.take_pipe(stream)
            captures.append(PipeCapture(stream, pipe, log, fds.bell, gap, keep, entrust))
        else:
            captures.append(FileCapture(stream, log, fds.bell, gap, keep))
    return captures


def _logs(fds: Descriptors) -> list[tuple[str, int]]:
    logs = [("stdout", fds.stdout)]
    if fds.stderr is not None:
        logs.append(("stderr", fds.stderr))
    return logs


def _kept(request: LaunchRequest) -> int | None:
    return request.policy.max_output if request.policy.keep == "tail" else None

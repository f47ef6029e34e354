"""The standard streams of a program, from both sides."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from eventbus_tasks._process import wire
from eventbus_tasks._process.capture import Capture, Entrust, FileCapture, Gap, PipeCapture
from eventbus_tasks._process.descriptors import Descriptors
from eventbus_tasks._process.ladder import Policy
from eventbus_tasks._process.pty import Pty, open_pty

__all__ = ["Streams", "open_streams"]


@dataclass(slots=True, kw_only=True)
class Streams:
    """What is open for the streams of one program.

    Attributes:
        stdin: What becomes its descriptor 0.
        outputs: What becomes its descriptors 1 and 2: one for both, or two.
        captures: How its output comes to its logs.
        pty: The capture of a program at a terminal of its own.
        ends: What is to be closed here as soon as the program has it.
    """

    stdin: int
    outputs: list[int] = field(default_factory=list)
    captures: list[Capture] = field(default_factory=list)
    pty: Pty | None = None
    ends: list[int] = field(default_factory=list)

    def close_ends(self) -> None:
        """Close what is the program's alone."""
        for end in self.ends:
            os.close(end)
        self.ends = []


def open_streams(
    spec: wire.LaunchSpec, fds: Descriptors, policy: Policy, gap: Gap, entrust: Entrust
) -> Streams:
    """Open what a program writes to, and begin to capture it.

    Args:
        spec: What is to be run.
        fds: The logs, the bell, and where input comes from.
        policy: Says how much of the output is kept.
        gap: Told about bytes that are not.
        entrust: Gives the warden a copy of where output is read.

    Raises:
        OSError: There are no descriptors or terminals left. What is open already stays open.
    """
    keep = policy.max_output if policy.keep == "tail" else None
    if spec.capture == "pty":
        ends = open_pty(*spec.pty_size)
        entrust("stdout", ends[0])
        pty = Pty("stdout", ends, fds.stdin, fds.stdout, fds.bell, gap, keep=keep)
        return Streams(stdin=ends[1], outputs=[ends[1]], captures=[pty], pty=pty)
    streams = Streams(stdin=fds.stdin, ends=[fds.stdin])
    logs = [("stdout", fds.stdout)]
    if fds.stderr is not None:
        logs.append(("stderr", fds.stderr))
    for stream, log in logs:
        if spec.capture == "file":
            # A description of its own, because the host's must not append; the path of the
            # descriptor works for files without a name, too.
            end = os.open(f"/proc/self/fd/{log}", os.O_WRONLY | os.O_APPEND)
            streams.captures.append(FileCapture(stream, log, fds.bell, gap, keep=keep))
        else:
            pipe, end = fds.take_pipe(stream)
            streams.captures.append(
                PipeCapture(stream, pipe, log, fds.bell, gap, keep=keep, entrust=entrust)
            )
        streams.outputs.append(end)
        streams.ends.append(end)
    return streams

"""Saving what a task had written and its guardian, which was killed, had not moved to the log.

The guardian's death leaves such bytes in a pipe, and a pipe keeps them for as long as somebody
holds its end for reading: the warden does, or a host that has taken the task over.
"""

from __future__ import annotations

import errno
import os
import select
import time
import weakref
from collections.abc import Callable, Mapping, Sequence

from eventbus_tasks._process.descriptors import close_all
from eventbus_tasks._process.waiting import poll_time
from eventbus_tasks._process.wire import Dropped

__all__ = ["prepare_rescue", "rescue"]

_CHUNK = 64 * 1024

_REST = 1 << 20
"""Bytes of each pipe that are taken when the time is over: no pipe holds more, but who still writes
could go on for ever."""


def prepare_rescue(
    pipes: Sequence[tuple[str, int]], logs: Mapping[str, tuple[int, int]], patience: float
) -> Callable[[], list[Dropped]]:
    """Return a call of `rescue` that has descriptors of its own, and closes them.

    A disk that stalls outlasts whoever waits for the call. Then the descriptors of the caller are
    closed, and their numbers pass to others, whose bytes must not be taken for those of the task.

    Args:
        pipes: As for `rescue`; they stay the caller's.
        logs: As for `rescue`; they stay the caller's.
        patience: As for `rescue`.

    Returns:
        What raises an `OSError` when called, if there were no descriptors left.
    """
    own: list[int] = []

    def copy(descriptor: int) -> int:
        own.append(os.dup(descriptor))
        return own[-1]

    problem: OSError | None = None
    own_pipes: list[tuple[str, int]] = []
    own_logs: dict[str, tuple[int, int]] = {}
    try:
        own_pipes = [(stream, copy(pipe)) for stream, pipe in pipes]
        own_logs = {stream: (copy(log), known) for stream, (log, known) in logs.items()}
    except OSError as error:
        problem = error

    def work() -> list[Dropped]:
        try:
            if problem is not None:
                raise problem
            return rescue(own_pipes, own_logs, patience)
        finally:
            closing()

    # Also if it is never called, for want of a thread.
    closing = weakref.finalize(work, close_all, own)
    return work


def rescue(
    pipes: Sequence[tuple[str, int]], logs: Mapping[str, tuple[int, int]], patience: float
) -> list[Dropped]:
    """Move what is in pipes behind the end of the logs; blocks: for a worker thread.

    Args:
        pipes: Stream and descriptor of each, in the order of their bytes.
        logs: By stream the descriptor of its log, and the offset up to which everything is known
            to be in the log or to be lost.
        patience: Seconds to wait for writers that live; then what is there already is the rest.

    Returns:
        What could not be written.
    """
    deadline = time.monotonic() + patience
    lost: list[Dropped] = []
    ends: dict[str, int] = {}
    for stream, pipe in pipes:
        log, known = logs[stream]
        # What the kernel has put into the file has left the pipe: the two never overlap.
        offset = ends.get(stream, max(known, os.fstat(log).st_size))
        why = ""
        end = offset
        rest = _REST
        while rest > 0 and (data := _read(pipe, deadline)):
            if time.monotonic() >= deadline:
                rest -= len(data)
            if not why:
                written, why = _write(log, data, offset)
                offset += written
            end += len(data)
        if why:
            lost.append(Dropped(stream=stream, start=offset, end=end, why=why, at=time.time()))
        ends[stream] = end
    return lost


def _read(pipe: int, deadline: float) -> bytes:
    """Return the next bytes; nothing at the end, or when there is nothing in time."""
    os.set_blocking(pipe, False)
    while True:
        try:
            return os.read(pipe, _CHUNK)
        except BlockingIOError:
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            if not poll.poll(poll_time(deadline - time.monotonic())):
                return b""
        except OSError:  # EIO: a terminal whose other end nobody has any more
            return b""


def _write(log: int, data: bytes, offset: int) -> tuple[int, str]:
    """Write what can be written; return how much that was, and the name of the error, if any."""
    done = 0
    try:
        # Opened anew, because the host may have the log for reading only, or for appending.
        writable = os.open(f"/proc/self/fd/{log}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            while done < len(data):
                done += os.pwrite(writable, data[done:], offset + done)
        finally:
            os.close(writable)
    except OSError as error:
        return done, errno.errorcode.get(error.errno or 0, "EIO")
    return done, ""

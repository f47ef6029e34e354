"""Moving the bytes of a task into its log, without ever making the task wait for us.

Two ways: from a pipe into the log (`PipeCapture`), or watching a log that the task writes by
itself (`FileCapture`). Both ring an eventfd after new bytes, and only then. Offsets count what
the task wrote: bytes that the disk refuses leave a hole, and a `Gap` says so before anything
behind it is written. A log that somebody else has shortened goes on behind a hole, too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from typing import Final, Protocol

from eventbus_tasks._process import linux
from eventbus_tasks._process.descriptors import close_all
from eventbus_tasks._process.lost import Lost

__all__ = ["Capture", "FileCapture", "Gap", "PipeCapture"]

CHUNK: Final = 1 << 20
"""The most that one turn takes from one stream."""

GAP_EVERY: Final = 0.25
"""Seconds between two tries to write again, and between two reports of a growing gap."""

BURST: Final = 0.002
"""Seconds for which a watched file that is written continuously is left alone."""

POLL_FILE: Final = 0.02
"""Seconds between two looks at a file that cannot be watched."""

_BIGGER_PIPE: Final = 256 * 1024
_FULL_READS: Final = 4
_BLOCK: Final = 4096

Gap = Callable[[str, int, int, str], None]
"""Told about each gap: stream, start, end, why."""

Entrust = Callable[[str, int], bool]
"""Gives the warden a copy of a pipe: stream, descriptor; returns whether it has it."""


class Capture(Protocol):
    """What the guardian needs of either way of capturing."""

    stream: str
    """``"stdout"`` or ``"stderr"``."""
    size: int
    """Bytes that the task has written so far."""

    @property
    def dropped(self) -> int:
        """How many of them are not in the log."""

    def poll_fd(self, now: float) -> int | None:
        """Return the descriptor to wait for at this moment, if any."""

    def deadline(self) -> float | None:
        """Return when to call `move` even if nothing is readable."""

    def move(self, now: float) -> bool:
        """Take what is there, about one chunk at most; return whether there were new bytes."""

    def take(self) -> bool:
        """Do what `move` does, in the shortest way, if there is nothing unusual about it.

        Returns:
            Whether it is done; otherwise nothing is, and `move` has to be called.
        """

    @property
    def finished(self) -> bool:
        """Whether no byte can come any more."""

    def share_pipe(self) -> int | None:
        """Return the pipe, if any, for somebody who wants to have it in case that we are killed.

        From then on all bytes that the log has not are in this pipe.
        """

    def close(self) -> None:
        """Report what is still to report and release what is open."""


TRUNCATED: Final = "truncated"
"""Why bytes are lost that somebody has cut off from the end of a log."""


class Retention:
    """Frees the oldest bytes of a log in place, so that offsets stay valid."""

    def __init__(self, stream: str, log: int, keep: int | None, lost: Lost, gap: Gap) -> None:
        """Keep at least the last `keep` bytes; everything when that is ``None``."""
        self._stream = stream
        self._log = log
        self._keep = keep
        self._lost = lost
        self._gap = gap
        self._low = 0
        if keep is not None:
            try:
                # Far behind the end: changes nothing, and shows whether it can be done.
                linux.punch_hole(log, 1 << 40, _BLOCK)
            except OSError:
                self._keep = None

    def apply(self, size: int) -> None:
        """Free what is too old, once it is worth a call."""
        if self._keep is None:
            return
        slack = max(64 * 1024, self._keep // 8)
        if size - self._low <= self._keep + slack:
            return
        start, self._low = self._low, (size - self._keep) // _BLOCK * _BLOCK
        for first, end in self._lost.add(start, self._low):
            self._gap(self._stream, first, end, "retention")
        if start < self._low:
            with contextlib.suppress(OSError):
                linux.punch_hole(self._log, start, self._low - start)


def ring(bell: int) -> None:
    """Ring an eventfd; one that is full has been rung already."""
    try:  # not `suppress`, which takes longer than the call itself
        os.eventfd_write(bell, 1)
    except OSError:
        pass


def _stop_appending(log: int) -> None:
    """Make explicit offsets count: appending would ignore them (or refuse them, with splice)."""
    flags = fcntl.fcntl(log, fcntl.F_GETFL)
    if flags & os.O_APPEND:
        with contextlib.suppress(OSError):
            fcntl.fcntl(log, fcntl.F_SETFL, flags & ~os.O_APPEND)


class PipeCapture:
    """Splices a pipe into a log at explicit offsets."""

    def __init__(
        self,
        stream: str,
        pipe: int,
        log: int,
        bell: int,
        gap: Gap,
        keep: int | None = None,
        entrust: Entrust | None = None,
    ) -> None:
        """Take over the read end of a pipe; the log stays the caller's.

        Args:
            stream: Its name.
            pipe: Where the bytes come from.
            log: Where they go.
            bell: Rung after new bytes.
            gap: Told about bytes that do not get there.
            keep: Keep at least so many bytes at the end; everything when that is ``None``.
            entrust: Gives a copy of another pipe to the warden; bytes that nobody could save if we
                were killed are in none.
        """
        self.stream = stream
        self.size = 0
        self._pipe = pipe
        self._log = log
        self._bell = bell
        self._gap = gap
        self._lost: Lost | None = None
        self._length = 0  # of the log, as we have left it
        self._retention: Retention | None = None
        if keep is not None:
            self._retention = Retention(stream, log, keep, self._losses(), gap)
        self._can_splice = True
        self._eof = False
        self._capacity = 64 * 1024
        self._full_reads = 0
        # While a pipe is spliced into a file it is locked, and its writer can only spin. Bytes of
        # a flood move on into a pipe of our own first, which takes no time.
        self._relay: tuple[int, int] | None = None
        self._entrust = entrust
        self._may_relay = True
        self._null = -1
        # A gap that is open: since where, reported up to where, why, when to try again.
        self._gap_start: int | None = None
        self._gap_reported = 0
        self._gap_why = ""
        self._retry_at = 0.0
        os.set_blocking(pipe, False)
        _stop_appending(log)

    @property
    def dropped(self) -> int:
        """How many bytes are not in the log."""
        return 0 if self._lost is None else self._lost.total

    def _losses(self) -> Lost:
        if self._lost is None:
            self._lost = Lost()
        return self._lost

    @property
    def finished(self) -> bool:
        """Whether every writer has closed the pipe and it is empty."""
        return self._eof

    def poll_fd(self, now: float) -> int | None:
        """Return the pipe until its end."""
        return None if self._eof else self._pipe

    def deadline(self) -> float | None:
        """Return when the growing gap is due to be reported."""
        if self._gap_start is not None and self.size > self._gap_reported:
            return self._retry_at
        return None

    def move(self, now: float) -> bool:
        """Move up to one chunk from the pipe to the log."""
        self._check_length()
        if self._gap_start is not None:
            if now < self._retry_at:
                return self._discard()
            self._report_gap()
        if self._eof:
            return False
        taken = 0
        while True:
            if taken:
                self._check_length()  # before each write, which would hide that it was cut off
            try:
                count = self._write()
            except BlockingIOError:
                break
            except OSError as error:
                # Full disk, quota, size limit, broken disk, whatever: the task must go on.
                self._open_gap(error.errno or errno.EIO, now)
                if taken:
                    ring(self._bell)
                return self._discard() or taken > 0
            if not count:
                self._end()
                break
            self._close_gap()
            self._advance(count)
            taken += count
            if count < self._capacity or taken >= CHUNK:
                break
        if taken:
            ring(self._bell)
        return taken > 0

    def take(self) -> bool:
        """Splice a small piece, where there is nothing else to be done about it."""
        if self._gap_start is not None or self._relay is not None or not self._can_splice:
            return False
        size = self.size
        try:
            if os.lseek(self._log, 0, os.SEEK_END) < size:
                return False
            count = os.splice(self._pipe, self._log, CHUNK, None, size, os.SPLICE_F_NONBLOCK)
        except OSError:
            return False  # `move` meets it, too
        if not count:
            return False
        if count >= self._capacity or self._retention is not None:
            self._advance(count)
        else:
            self.size = self._length = size + count
        ring(self._bell)
        return True

    def _check_length(self) -> None:
        """Notice that somebody has cut off the end of the log; it goes on behind a hole."""
        try:
            # Nobody uses the position: all read and write at offsets.
            length = os.lseek(self._log, 0, os.SEEK_END)
        except OSError:
            return  # a broken disk: the next write meets that too, and accounts for it
        if length < self._length:
            for start, end in self._losses().add(length, self._length):
                self._gap(self.stream, start, end, TRUNCATED)
            self._length = length
            ring(self._bell)

    def _write(self) -> int:
        if self._relay is not None:
            return self._write_by_relay(*self._relay)
        if self._can_splice:
            try:
                return os.splice(
                    self._pipe, self._log, CHUNK, offset_dst=self.size, flags=os.SPLICE_F_NONBLOCK
                )
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
            self._can_splice = False
        return self._put(os.read(self._pipe, self._capacity))

    def _put(self, data: bytes) -> int:
        """Write bytes to the log that have left the pipe, and return how many they are."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._log, data[done:], self.size + done)
        except OSError as error:
            self._lose_rest(done, len(data), error)
            raise
        return len(data)

    def _write_by_relay(self, exit: int, entrance: int) -> int:
        count = os.splice(self._pipe, entrance, CHUNK, flags=os.SPLICE_F_NONBLOCK)
        done = 0
        try:
            while done < count:
                done += os.splice(exit, self._log, count - done, offset_dst=self.size + done)
        except OSError as error:
            self._lose_rest(done, count, error)
            while done < count:
                done += os.splice(exit, self._open_null(), count - done)
            raise
        return count

    def _lose_rest(self, done: int, count: int, error: OSError) -> None:
        """Account for bytes that have left the pipe: what was not written is lost now."""
        if done:
            self._close_gap()
            self._advance(done)
            ring(self._bell)
        if self._gap_start is None:
            self._gap_start = self._gap_reported = self.size
        self._gap_why = errno.errorcode.get(error.errno or 0, "EIO")
        self._lose(count - done)

    def _open_null(self) -> int:
        if self._null < 0:
            self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        return self._null

    def _discard(self) -> bool:
        """Take bytes that cannot be written out of the pipe, so that the task goes on."""
        try:
            count = os.splice(self._pipe, self._open_null(), CHUNK, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return False
        if not count:
            self._end()
            return False
        self._lose(count)
        return True

    def _lose(self, count: int) -> None:
        self._losses().add(self.size, self.size + count)
        self.size += count

    def _advance(self, count: int) -> None:
        if count >= self._capacity:
            self._full_reads += 1
            if self._full_reads == _FULL_READS:
                self._grow()
        self.size += count
        self._length = self.size
        if self._retention is not None:
            self._retention.apply(self.size)

    def _grow(self) -> None:
        """Make room for a flood, where the user may have that much in pipes."""
        with contextlib.suppress(OSError):
            self._capacity = fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _BIGGER_PIPE)
            if not (self._can_splice and self._may_relay):
                return
            relay = os.pipe2(os.O_CLOEXEC)
            if self._entrust is not None and not self._entrust(self.stream, relay[0]):
                close_all(relay)
                return
            self._relay = relay
            fcntl.fcntl(relay[1], fcntl.F_SETPIPE_SZ, _BIGGER_PIPE)

    def share_pipe(self) -> int | None:
        """Return the pipe until its end, and do without the other one, which is empty now."""
        self._may_relay = False
        relay, self._relay = self._relay, None
        close_all(relay or ())
        return None if self._eof else self._pipe

    def _open_gap(self, number: int, now: float) -> None:
        if self._gap_start is None:
            self._gap_start = self._gap_reported = self.size
        self._gap_why = errno.errorcode.get(number, "EIO")
        self._retry_at = now + GAP_EVERY

    def _report_gap(self) -> None:
        if self._gap_start is not None and self.size > self._gap_reported:
            self._gap(self.stream, self._gap_reported, self.size, self._gap_why)
            self._gap_reported = self.size

    def _close_gap(self) -> None:
        self._gap_start = None

    def _end(self) -> None:
        self._eof = True
        self._report_gap()
        self._close_gap()

    def close(self) -> None:
        """Report what is lost and not reported yet, and close the pipe."""
        self._check_length()
        self._report_gap()
        self._close_gap()
        self._eof = True
        close_all((self._pipe, self._null, *(self._relay or ())))
        self._pipe = self._null = -1
        self._relay = None


class FileCapture:
    """Watches a log that the task writes by itself."""

    def __init__(self, stream: str, log: int, bell: int, gap: Gap, keep: int | None = None) -> None:
        """Begin to watch; the log stays the caller's."""
        self.stream = stream
        self.size = 0
        self._log = log
        self._bell = bell
        self._gap = gap
        self._lost = Lost()
        self._retention = Retention(stream, log, keep, self._lost, gap)
        self._watch = -1
        self._quiet_until = 0.0
        self._look_at: float | None = 0.0  # the program may have written already
        _stop_appending(log)
        try:
            self._watch = linux.inotify_open()
            linux.inotify_watch(self._watch, b"/proc/self/fd/%d" % log, linux.IN_MODIFY)
        except OSError:
            # 128 instances per user are soon used up: look now and then instead.
            self.close()

    @property
    def dropped(self) -> int:
        """How many bytes are not in the log."""
        return self._lost.total

    @property
    def finished(self) -> bool:
        """Whether no byte can come any more: what is written is in the log already."""
        return True

    def poll_fd(self, now: float) -> int | None:
        """Return the watch, except for a moment within a burst."""
        return self._watch if self._watch >= 0 and now >= self._quiet_until else None

    def deadline(self) -> float | None:
        """Return the end of the quiet moment, or when to look again without a watch."""
        return self._look_at

    def move(self, now: float) -> bool:
        """Look at the size of the log."""
        if self._watch >= 0:
            with contextlib.suppress(BlockingIOError):
                os.read(self._watch, 4096)
        try:
            size = os.fstat(self._log).st_size
        except OSError:
            size = self.size  # a broken disk, which must not end the task
        if size < self.size:
            self._mend(size)
        new = size > self.size
        if self._watch < 0:
            self._look_at = now + POLL_FILE
        elif new:
            self._quiet_until = self._look_at = now + BURST
        elif now >= self._quiet_until:  # until then nothing else would make us look
            self._look_at = None
        if new:
            self.size = size
            ring(self._bell)
            self._retention.apply(size)
        return new

    def take(self) -> bool:
        """Return ``False``: there is no shorter way."""
        return False

    def _mend(self, length: int) -> None:
        """Bring a log that was cut off back to its length, so that offsets stay valid.

        What the task has written between the cut and this moment counts as lost with the rest:
        nobody can tell any more where it belongs.
        """
        for start, end in self._lost.add(length, self.size):
            self._gap(self.stream, start, end, TRUNCATED)
        try:
            # Unlike a truncation to the old length, it cannot cut off what is just being written.
            os.pwrite(self._log, b"\0", self.size - 1)
        except OSError:
            # A disk that refuses even this must not end the task: the next look tries it again.
            with contextlib.suppress(OSError):
                os.ftruncate(self._log, max(self.size, os.fstat(self._log).st_size))
        ring(self._bell)

    def share_pipe(self) -> int | None:
        """Return nothing: what is written is in the log already."""
        return None

    def close(self) -> None:
        """Stop watching."""
        if self._watch >= 0:
            os.close(self._watch)
        self._watch = -1

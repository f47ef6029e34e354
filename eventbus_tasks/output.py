"""Views of a task's output: the log is the truth, everything else reads it.

The log is written by the guardian, or by the task itself, never by the host. Bytes are
addressed by their offset in a stream, counted from the first byte that the task wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Final

import anyio

from eventbus_tasks.errors import OutputUnavailableError
from eventbus_tasks.lines import MAX_LINE, LogLine, LogLines, decode_lines, piece_end
from eventbus_tasks.policies import LogFiles, Stream

__all__ = ["RING_BYTES", "RING_LINES", "StreamCursor", "TaskOutput"]

RING_LINES: Final = 1000
"""Lines that the ring view shows at most."""
RING_BYTES: Final = 8 * 1024 * 1024
"""Bytes that the ring view spans at most."""

# An unnamed log up to this size moves into memory when its task has ended, so that ended tasks
# do not hold descriptors.
_KEEP_IN_MEMORY = 64 * 1024
_BLOCK = 64 * 1024
# Seconds for which what was written is certainly still in memory: the kernel writes later.
_FRESH = 1.0


class _StreamLog:
    """The log of one stream. Its descriptor is closed only when no thread reads from it."""

    def __init__(self, descriptor: int, path: str | None) -> None:
        self.descriptor: int | None = descriptor
        # A log without a name lives as long as anybody holds the task.
        self._closing = weakref.finalize(self, os.close, descriptor)
        self._lock = threading.Lock()
        self._readers = 0
        self.path = path
        self.memory: bytes | None = None
        self.memory_start = 0
        self.size = 0
        # What was read last while following, and where: who asks for it now, asks for the same.
        self.recent: tuple[int, bytes] = (0, b"")
        # What was never written to the file: holes, not zeros. In order, adjoining ones merged.
        self.gaps: list[tuple[int, int]] = []
        _spare_access_time(descriptor)

    def pread(self, count: int, offset: int) -> bytes:
        with self._lock:
            descriptor, memory = self.descriptor, self.memory
            self._readers += descriptor is not None
        if descriptor is not None:
            try:
                return os.pread(descriptor, count, offset)
            finally:
                self._leave()
        if memory is not None:
            if offset < self.memory_start:
                raise OutputUnavailableError(
                    "only the end of the output of older tasks is kept without a plugin for it"
                )
            offset -= self.memory_start
            return memory[offset : offset + count]
        if self.path is None:
            raise OutputUnavailableError("the output was kept only as long as the task")
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise OutputUnavailableError(f"the log cannot be opened: {error}") from error
        try:
            return os.pread(descriptor, count, offset)
        finally:
            os.close(descriptor)

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            last = self.descriptor is None and not self._readers
        if last:
            self._closing()

    def add_gap(self, start: int, end: int) -> None:
        # A new list each time: threads may be reading the old one.
        merged: list[tuple[int, int]] = []
        for first, last in sorted([*self.gaps, (start, end)]):
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        self.gaps = merged

    def end(self, keep: int) -> None:
        """Hold no descriptor any more, where at most `keep` bytes of memory can replace it."""
        if self.descriptor is None:
            return
        if self.path is None:
            if self.size > keep:
                return
            try:
                self.memory = os.pread(self.descriptor, self.size, 0) if self.size else b""
            except OSError:
                return  # a broken disk, which whoever reads it will meet; the task has ended well
        self.close()

    def shorten(self) -> None:
        """Keep the end of an unnamed log only, and no descriptor."""
        if self.descriptor is not None and self.path is None:
            self.memory_start = max(0, self.size - _KEEP_IN_MEMORY)
            try:
                self.memory = os.pread(self.descriptor, _KEEP_IN_MEMORY, self.memory_start)
            except OSError:
                self.memory_start, self.memory = self.size, b""
            self.close()

    def close(self) -> None:
        with self._lock:
            self.descriptor = None
            last = not self._readers
        if last:
            self._closing()


def _spare_access_time(descriptor: int) -> None:
    """Have reading a file write nothing: its time of access would follow every line."""
    with contextlib.suppress(OSError):  # a file of somebody else
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NOATIME)


class TaskOutput:
    """The output of one task, from its first byte on, while it runs and afterwards.

    Methods read a local file: quick, but not instant for large ranges. They may be called from
    any thread.
    """

    def __init__(self) -> None:
        self._streams: dict[str, _StreamLog] = {}
        self._growth: anyio.Event | None = None
        self._complete = False

    def attach(self, files: LogFiles) -> None:
        """Take over the open files of the log (for the engine)."""
        self._streams["stdout"] = _StreamLog(files.stdout, files.stdout_path)
        if files.stderr is not None:
            self._streams["stderr"] = _StreamLog(files.stderr, files.stderr_path)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that are kept apart: ``"stdout"``, and ``"stderr"`` unless merged."""
        return tuple(name for name in ("stdout", "stderr") if name in self._streams)

    def path(self, stream: Stream = "stdout") -> str | None:
        """Return the path of the log file, or ``None`` if it has no name."""
        log = self._streams.get(stream)
        return None if log is None else log.path

    def size(self, stream: Stream = "stdout") -> int:
        """Return how many bytes of the stream the host has seen so far."""
        log = self._streams.get(stream)
        return 0 if log is None else log.size

    def read(self, start: int = 0, end: int | None = None, stream: Stream = "stdout") -> bytes:
        """Return the bytes from offset `start` to offset `end` (or to the end).

        Bytes that were lost (`OutputDropped`) are zeros here, or missing at the end.

        Raises:
            OutputUnavailableError: The log is gone.
        """
        log = self._streams.get(stream)
        if log is None:
            return b""
        end = log.size if end is None else end
        first, recent = log.recent
        if first <= start and end <= first + len(recent):
            return recent[start - first : end - first]
        parts: list[bytes] = []
        while start < end:
            part = log.pread(end - start, start)
            if not part:
                break
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def tail(self, count: int = RING_LINES, stream: Stream = "stdout") -> list[str]:
        """Return the last lines, at most `count`, and at most 8 MiB of text.

        A last line that is not complete yet is one of them.

        Raises:
            OutputUnavailableError: The log is gone.
        """
        log = self._streams.get(stream)
        if log is None or not log.size or count <= 0:
            return []
        end = log.size
        floor = max(log.memory_start, end - RING_BYTES)
        start = end
        newlines = 0
        # One line ending more than lines are wanted, because the last line may have none.
        while start > floor and newlines <= count:
            start = max(floor, start - _BLOCK)
            newlines += self.read(start, min(start + _BLOCK, end), stream).count(b"\n")
        data = self.read(start, end, stream)
        if start > 0:
            # The first line is cut off: it does not count, unless it is all there is.
            data = data[data.find(b"\n") + 1 :] or data
        return list(decode_lines(data, last=True)[-count:])

    def text(self, stream: Stream = "stdout") -> str:
        """Return everything as UTF-8; what is not valid is replaced.

        Raises:
            OutputUnavailableError: The log is gone.
        """
        return self.read(stream=stream).decode("utf-8", "replace")

    def search(
        self,
        pattern: str | bytes | re.Pattern[str] | re.Pattern[bytes],
        stream: Stream = "stdout",
        *,
        start: int = 0,
    ) -> Iterator[LogLine]:
        """Find the lines in which a regular expression occurs, one after the other.

        Reads the log piece by piece, so a large one takes time, but no memory: in an async
        program, iterate in a worker thread.

        Args:
            pattern: Compiled or not. One of text is matched with lines as text, where bytes
                that are not UTF-8 are replaced; one of bytes with the bytes of lines. Neither
                sees the line ending.
            stream: Where to search.
            start: Offset of the beginning of a line to begin with.

        Raises:
            re.error: The pattern is not valid.
            OutputUnavailableError: The log is gone.
        """
        compiled: re.Pattern[str] | re.Pattern[bytes] = re.compile(pattern)
        return self._matches(compiled, stream, start)

    def _matches(
        self, pattern: re.Pattern[str] | re.Pattern[bytes], stream: Stream, start: int
    ) -> Iterator[LogLine]:
        for line in self._all_lines(stream, start):
            if isinstance(pattern.pattern, str):
                found = pattern.search(line.text) is not None
            else:
                found = pattern.search(line.data) is not None
            if found:
                yield line

    def _all_lines(self, stream: Stream, start: int) -> Iterator[LogLine]:
        lines = LogLines(start, 1 + self._count_lines(start, stream))
        end = self.size(stream)
        while start < end:
            first, data = self._next_piece(start, end, stream)
            if not data:
                break
            yield from lines.feed(first, data)
            start = first + len(data)
        yield from lines.finish()

    def _next_piece(self, start: int, end: int, stream: Stream) -> tuple[int, bytes]:
        """Read the next piece that is no gap; return its offset too; nothing at the end."""
        for gap_start, gap_end in self._streams[stream].gaps:
            if gap_start <= start < gap_end:
                start = gap_end
            elif gap_start > start:
                end = min(end, gap_start)
                break
        if start >= end:
            return start, b""
        return start, self.read(start, min(end, start + _BLOCK), stream)

    def _count_lines(self, end: int, stream: Stream) -> int:
        """Count the line endings before an offset."""
        count = start = 0
        while start < end:
            start, data = self._next_piece(start, end, stream)
            if not data:
                break
            count += data.count(b"\n")
            start += len(data)
        return count

    async def _wait_for_more(self) -> None:
        """Return when there may be more than before, or when nothing will follow."""
        if self._growth is None or self._growth.is_set():
            self._growth = anyio.Event()
        await self._growth.wait()

    def grown(self, *, complete: bool = False) -> None:
        """Tell those who read along that there is more, or that there will never be (engine)."""
        self._complete |= complete
        if self._growth is not None:
            self._growth.set()
            self._growth = None

    def _log(self, stream: Stream) -> _StreamLog:
        return self._streams[stream]

    def end(self, keep: int = _KEEP_IN_MEMORY) -> None:
        """Hold no descriptor any more, where that loses nothing (for the engine).

        Args:
            keep: Bytes of an unnamed log that may move into memory instead.
        """
        for log in self._streams.values():
            log.recent = (0, b"")
            log.end(keep)

    def shorten(self) -> None:
        """Keep only the end of an unnamed log, without a descriptor (for the engine)."""
        for log in self._streams.values():
            log.shorten()

    def close(self) -> None:
        """Give up the log (for the engine); a named file stays on disk."""
        for log in self._streams.values():
            log.recent = (0, b"")
            log.close()


class StreamCursor:
    """Follows one stream of a growing log, for the engine: where it is, where its line began."""

    def __init__(self, output: TaskOutput, stream: Stream) -> None:
        self.stream: Stream = stream
        self.position: int = 0
        self.line_start: int = 0
        self._output = output
        self._log = output._log(stream)
        self._gaps: list[tuple[int, int]] = []
        self._behind = False  # there was more than was read
        self._looked_at = 0.0
        self._warm_until = 0

    def add_gap(self, start: int, end: int) -> None:
        """Take note of bytes that were lost: they are a hole in the file, not zeros."""
        self._gaps.append((start, end))
        self._log.add_gap(start, end)

    @property
    def known(self) -> int:
        """Up to where all bytes have been handed out, or are known to be lost."""
        return max(self.position, *(end for _, end in self._gaps), 0)

    @property
    def descriptor(self) -> int | None:
        """The log, as long as it is open."""
        return self._log.descriptor

    def available(self) -> int:
        """Return the offset behind the last byte in the file."""
        descriptor = self._log.descriptor
        return self.position if descriptor is None else os.fstat(descriptor).st_size

    def is_cold(self) -> bool:
        """Whether reading on would have to wait for the disk.

        What was written a moment ago is in memory; only a backlog may not be.
        """
        descriptor, position = self._log.descriptor, self.position
        now = time.monotonic()
        fresh, self._looked_at = now - self._looked_at < _FRESH, now
        if descriptor is None or position < self._warm_until or (fresh and not self._behind):
            return False
        try:
            os.preadv(descriptor, [bytearray(1)], position, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass  # a file system that cannot say it: reading shows what is wrong, if anything
        return False

    def warm_up(self, count: int) -> None:
        """Have the next bytes read into memory. Waits for the disk: for a worker thread."""
        self._log.pread(count, self.position)
        self._warm_until = self.position + count

    def look(self, count: int) -> int:
        """Read what comes next, at most `count` bytes, once for all who will ask for it.

        Returns:
            The offset behind the last byte in the file; nothing was read if that is `position`.
        """
        descriptor = self._log.descriptor
        if descriptor is None:
            return self.position
        data = os.pread(descriptor, count, self.position)
        self._log.recent = (self.position, data)
        self._behind = len(data) == count
        return self.available() if self._behind else self.position + len(data)

    def peek_lines(self, count: int) -> bytes | None:
        """Return what has come, if it is nothing but whole lines that are in memory.

        Args:
            count: What comes is less than so many bytes.

        Returns:
            ``None`` if there is anything else about it. Either way nothing has changed.
        """
        descriptor, now = self._log.descriptor, time.monotonic()
        if descriptor is None or self._behind or self._gaps or self.line_start != self.position:
            return None
        if now - self._looked_at >= _FRESH:
            return None
        data = os.pread(descriptor, count, self.position)
        if data and (data[-1] != 0x0A or len(data) == count):
            return None
        self._looked_at = now
        return data

    def pass_lines(self, data: bytes) -> None:
        """Move on behind what `peek_lines` has returned."""
        self._log.recent = (self.position, data)
        self.position += len(data)
        self.line_start = self._log.size = self.position

    def advance(
        self, limit: int, size: int, *, read: bool = False
    ) -> tuple[int, int, int, bool] | None:
        """Move on by at most `limit` bytes.

        Args:
            limit: Bytes to move at most.
            read: They are, or will be, read as a whole: then finding lines in them is quick.
            size: What `available` said, before the messages that explain it were taken.

        Returns:
            ``(start, end, line_start, cut)`` of the new range, or ``None`` if there is nothing
            new. One that is `cut` is empty: what followed on its line was lost.
        """
        end = min(size, self.position + limit)
        if self._gaps:
            if (cut := self._skip_gaps()) is not None:
                return cut
            end = min(size, self.position + limit, *(start for start, _ in self._gaps))
        self._log.size = max(self._log.size, self.position)
        if end <= self.position:
            return None
        start, line_start = self.position, self.line_start
        self.position = self._log.size = end
        if read:
            found = self._output.read(start, end, self.stream).rfind(b"\n")
            if found >= 0:
                self.line_start = start + found + 1
        else:
            self._find_line_start(start)
        if end - self.line_start > MAX_LINE:
            self._cut_long_line()
        return start, end, line_start, False

    def _skip_gaps(self) -> tuple[int, int, int, bool] | None:
        """Go on behind a gap; return the empty range of a line that it cuts off."""
        for start, end in tuple(self._gaps):
            if start <= self.position < end:
                cut, line_start = self.position, self.line_start
                self.position = self.line_start = end
                if line_start < cut:
                    return cut, cut, line_start, True
            if end <= self.position:
                self._gaps.remove((start, end))
        return None

    def _find_line_start(self, start: int) -> None:
        """Find the beginning of the last, incomplete line by looking backwards from the end."""
        end = self.position
        step = 4096  # nearly always enough
        while end > start:
            begin = max(start, end - step)
            step = min(4 * step, 1024 * 1024)
            found = self._output.read(begin, end, self.stream).rfind(b"\n")
            if found >= 0:
                self.line_start = begin + found + 1
                break
            end = begin

    def _cut_long_line(self) -> None:
        while self.position - self.line_start > MAX_LINE:
            # What decides about the cut is in the last few bytes of the piece.
            near = self.line_start + MAX_LINE - 4
            around = self._output.read(near, near + 5, self.stream)
            self.line_start = near + piece_end(around, 4 - MAX_LINE)

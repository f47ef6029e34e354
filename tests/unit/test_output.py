"""Reading a task's output, compared with the plainest way to do it, over a real file."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import (
    LogFiles,
    OutputReceived,
    OutputUnavailableError,
    TaskOutput,
    decode_line,
    output,
)
from eventbus_tasks.output import RING_BYTES, RING_LINES, StreamCursor
from eventbus_tasks.testing.strategies import output_bytes


@contextmanager
def kept(data: bytes, *, named: bool = False) -> Iterator[tuple[TaskOutput, StreamCursor]]:
    """Return the output of a task that has written `data`, all of it seen."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/log"
        log = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        with open(log, "wb", closefd=False) as file:
            file.write(data)
        made = TaskOutput()
        made.attach(LogFiles(stdout=log, stdout_path=path if named else None))
        cursor = StreamCursor(made, "stdout")
        while cursor.advance(1 << 20, len(data)):
            pass
        try:
            yield made, cursor
        finally:
            made.close()


def reference(data: bytes) -> list[str]:
    """Return all lines."""
    lines = data.split(b"\n")
    return [decode_line(line) for line in (lines if lines[-1] else lines[:-1])]


@given(output_bytes(), st.integers(-1, 12))
def test_tail(data: bytes, count: int) -> None:
    """The tail is the last lines of everything, whatever is in them."""
    with kept(data) as (made, _):
        assert made.tail(count) == (reference(data)[-count:] if count > 0 else [])
        assert made.tail() == reference(data)[-RING_LINES:]


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=40),
    st.integers(1, 30),
    st.booleans(),
    st.integers(16, 256),
)
def test_tail_over_many_blocks(sizes: list[int], count: int, ended: bool, block: int) -> None:
    """However the lines lie across the blocks that are read, the tail is the last of them."""
    data = b"\n".join(str(n).encode() + b"x" * size for n, size in enumerate(sizes))
    data += b"\n" * ended
    with pytest.MonkeyPatch.context() as patch, kept(data) as (made, _):
        patch.setattr(output, "_BLOCK", block)
        assert made.tail(count) == reference(data)[-count:]


def test_ring_is_bounded() -> None:
    """The ring view has 1,000 lines and spans 8 MiB at most."""
    assert (RING_LINES, RING_BYTES) == (1000, 8 * 1024 * 1024)
    line = b"x" * (100 * 1024 - 1) + b"\n"
    with kept(line * 100) as (made, _):
        tail = made.tail()
        assert len(tail) == RING_BYTES // len(line)
        assert set(map(len, tail)) == {len(line) - 1}
    with kept(b"y" * (9 * 1024 * 1024)) as (made, _):
        (only,) = made.tail()
        assert len(only) == RING_BYTES


@given(output_bytes(), st.integers(0, 300), st.none() | st.integers(0, 300))
def test_read(data: bytes, start: int, end: int | None) -> None:
    """Reading a range gives the bytes of that range, as far as they are there."""
    with kept(data) as (made, _):
        assert made.read(start, end) == data[start:end]
        assert made.text() == data.decode("utf-8", "replace")
        assert made.size() == len(data)


@pytest.mark.parametrize("size", [0, 10, 64 * 1024, 64 * 1024 + 1])
@pytest.mark.parametrize("named", [False, True])
def test_after_the_end(size: int, named: bool) -> None:
    """Output stays readable after the end, without a descriptor where that is possible."""
    data = b"x" * size
    with kept(data, named=named) as (made, _):
        made.end()
        assert made.read() == data
        assert made.read(3, 5) == data[3:5]
        made.end()
        assert made.text() == data.decode()


def test_after_removal() -> None:
    """An unnamed log is gone with its task; a named one stays on disk and readable."""
    with kept(b"data") as (made, _):
        made.close()
        with pytest.raises(OutputUnavailableError):
            made.read()
        with pytest.raises(OutputUnavailableError):
            made.tail()
    with kept(b"data", named=True) as (made, _):
        path = made.path()
        made.close()
        assert made.read() == b"data"
        assert path is not None
        Path(path).unlink()
        with pytest.raises(OutputUnavailableError):
            made.read()


def test_a_link_is_not_followed() -> None:
    """Who puts a link in the place of a log does not make us read another file."""
    with kept(b"data", named=True) as (made, _):
        path = made.path()
        assert path is not None
        made.close()
        Path(path).unlink()
        Path(path).symlink_to("/etc/passwd")
        with pytest.raises(OutputUnavailableError):
            made.read()


def test_without_a_log() -> None:
    """A task that has not started has no output, and says so by emptiness."""
    made = TaskOutput()
    assert (made.streams, made.size(), made.read(), made.tail(), made.text()) == (
        (),
        0,
        b"",
        [],
        "",
    )
    assert made.path() is None


def test_memory_is_used_only_for_small_unnamed_logs() -> None:
    """An ended task holds a descriptor only for an unnamed log that is large."""
    before = len(os.listdir("/proc/self/fd"))
    with kept(b"small") as (made, _):
        made.end()
        assert len(os.listdir("/proc/self/fd")) == before
        assert made.read() == b"small"


@given(
    st.integers(0, 400),
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), max_size=5),
    st.integers(1, 100),
)
def test_cursor_leaves_out_gaps(size: int, gaps: list[tuple[int, int]], limit: int) -> None:
    """The ranges are in order, disjoint, and cover everything but what was lost."""
    taken: list[tuple[int, int]] = []
    for start, length in sorted(gaps):
        if (not taken or start >= taken[-1][1]) and start + length <= size:
            taken.append((start, start + length))
    with kept(b"") as (made, _):
        descriptor = made._log("stdout").descriptor
        assert descriptor is not None
        os.pwrite(descriptor, b"x" * size, 0)
        cursor = StreamCursor(made, "stdout")
        for start, end in taken:
            cursor.add_gap(start, end)
        covered: list[int] = []
        while (found := cursor.advance(limit, size)) is not None:
            start, end, line_start, cut = found
            assert 0 < end - start <= limit or (cut and start == end > line_start)
            covered += range(start, end)
        lost = {offset for start, end in taken for offset in range(start, end)}
        assert covered == [offset for offset in range(size) if offset not in lost]
        assert cursor.position == size


@given(output_bytes(), st.sampled_from(["a", "^$", "\ufffd", r"\d+"]), st.integers(16, 256))
def test_search(data: bytes, pattern: str, block: int) -> None:
    """A search finds the lines that a plain loop finds, with their numbers and offsets."""
    lines = data.split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    with pytest.MonkeyPatch.context() as patch, kept(data) as (made, _):
        patch.setattr(output, "_BLOCK", block)
        found = list(made.search(pattern))
        assert [(line.number, line.text) for line in found] == [
            (number, decode_line(line))
            for number, line in enumerate(lines, 1)
            if re.search(pattern, decode_line(line))
        ]
        for line in found:
            assert data[line.start : line.end].rstrip(b"\n") == line.data
            assert next(made.search(pattern, start=line.start)) == line
        raw = re.compile(pattern.encode())
        assert [line.data for line in made.search(raw)] == [one for one in lines if raw.search(one)]


def test_search_leaves_out_gaps() -> None:
    """What was never written matches nothing, and is no part of the lines beside it."""
    with kept(b"one\ntw" + bytes(5000) + b"o\nthree\n") as (made, _):
        made._log("stdout").add_gap(6, 1000)
        made._log("stdout").add_gap(1000, 5006)
        found = [(line.number, line.text, line.start) for line in made.search("")]
        assert found == [(1, "one", 0), (2, "tw", 4), (3, "o", 5006), (4, "three", 5008)]
        assert list(made.search("\0")) == []


def test_a_pattern_that_is_none() -> None:
    """A pattern that cannot be compiled is refused at once, not at the first line."""
    with kept(b"data") as (made, _), pytest.raises(re.error):
        made.search("(")


def test_other_threads_read_while_the_log_is_closed() -> None:
    """A thread that reads while the log is closed has the right bytes or is told so, always."""
    data = b"x" * 100_000
    wrong: list[object] = []

    def read(made: TaskOutput, started: threading.Barrier) -> None:
        started.wait()
        try:
            while True:
                if made.read(10, 2000) != data[10:2000]:
                    wrong.append("other bytes")
                    return
        except OutputUnavailableError:
            pass
        except OSError as error:
            wrong.append(error)

    for _ in range(30):
        with kept(data) as (made, _):
            started = threading.Barrier(5)
            readers = [threading.Thread(target=read, args=(made, started)) for _ in range(4)]
            for reader in readers:
                reader.start()
            started.wait()
            made.close()
            # Who takes the number of a descriptor that was closed too early would be read.
            taken = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(3)]
            for reader in readers:
                reader.join()
            for descriptor in taken:
                os.close(descriptor)
    assert not wrong


def test_a_gap_ends_a_line() -> None:
    """Lost bytes end the line that they were part of: no zeros are made lines of, or read."""
    with kept(b"") as (made, _):
        descriptor = made._log("stdout").descriptor
        assert descriptor is not None
        os.pwrite(descriptor, b"one\ntw", 0)
        os.pwrite(descriptor, b"o\nthree\n", 1 << 30)
        cursor = StreamCursor(made, "stdout")
        cursor.add_gap(6, 1 << 30)
        lines: list[str] = []
        while (found := cursor.advance(1 << 20, (1 << 30) + 8)) is not None:
            start, end, line_start, cut = found
            event = OutputReceived(
                stream="stdout", start=start, end=end, line_start=line_start, last=cut, source=made
            )
            lines += event.lines
        assert lines == ["one", "tw", "o", "three"]


def test_what_is_not_in_memory_is_cold(tmp_path: Path) -> None:
    """A backlog that the kernel has put away is cold until somebody has waited for the disk."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * (1 << 20))
    log = os.open(path, os.O_RDWR)
    os.fsync(log)
    os.posix_fadvise(log, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(log, [bytearray(1)], 1 << 19, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
    except OSError:
        os.close(log)
        pytest.skip("this file system cannot say what is in memory")
    else:
        os.close(log)
        pytest.skip("this file system keeps everything in memory")
    made = TaskOutput()
    made.attach(LogFiles(stdout=log, stdout_path=str(path)))
    cursor = StreamCursor(made, "stdout")
    assert cursor.is_cold()
    cursor.warm_up(4096)
    assert not cursor.is_cold()
    assert cursor.look(4096) == 1 << 20
    assert cursor.advance(4096, 1 << 20, read=True) == (0, 4096, 0, False)
    made.close()


def test_unreadable_log_at_the_end_of_its_task(tmp_path: Path) -> None:
    """A log that cannot be read any more is an error for its readers, not for the engine."""
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(log, b"line\n")
    made = TaskOutput()
    made.attach(LogFiles(stdout=log))
    assert StreamCursor(made, "stdout").advance(100, 5) is not None
    unreadable = os.open(tmp_path / "log", os.O_WRONLY)
    os.dup2(unreadable, log)
    os.close(unreadable)
    made.end()
    with pytest.raises(OSError, match="Bad file descriptor"):
        made.read()
    made.shorten()
    assert made.read(5) == b""
    with pytest.raises(OutputUnavailableError):
        made.read()

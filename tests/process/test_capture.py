"""Capture of output by itself: pipes, files, full disks, logs that somebody cuts off."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks._process import capture, linux
from eventbus_tasks._process.lost import Lost


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Refuse to write files beyond a size (EFBIG), as a full disk does with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def capturing(directory: Path) -> Iterator[tuple[int, int, list[tuple[int, int, str]]]]:
    """Return a log, a bell, and a list for gaps."""
    log = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        yield log, bell, []
    finally:
        for descriptor in (log, bell):
            os.close(descriptor)


def told(gaps: list[tuple[int, int, str]]) -> capture.Gap:
    """Return what notes gaps in a list."""
    return lambda _, start, end, why: gaps.append((start, end, why))


@pytest.mark.parametrize("way", ["splice", "relay", "write"])
def test_full_disk_leaves_an_exact_hole(tmp_path: Path, way: str) -> None:
    """What a full disk refuses is told to the byte, before later bytes come to their true place."""
    log = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    read, write = os.pipe()
    gaps: list[tuple[int, int, str, int]] = []

    def gap(stream: str, start: int, end: int, why: str) -> None:
        gaps.append((start, end, why, os.fstat(log).st_size))

    pipe = capture.PipeCapture("stdout", read, log, bell, gap)
    pipe._can_splice = way != "write"
    if way == "relay":
        pipe._grow()
    os.write(write, b"a" * 5000)
    with full_disk(8192):
        while pipe.move(0.0):
            pass
        os.write(write, b"b" * 10_000)
        now = 1.0
        while pipe.move(now):
            pass
        lost_from = os.fstat(log).st_size
        os.write(write, b"c" * 1000)
        pipe.move(now + 0.1)
        assert pipe.size == 16_000
    os.write(write, b"d" * 100)
    assert pipe.move(now + 0.5)
    os.close(write)
    while not pipe.finished:
        pipe.move(now + 0.6)
    content = os.pread(log, 20_000, 0)
    whole = b"a" * 5000 + b"b" * 10_000 + b"c" * 1000 + b"d" * 100
    assert (pipe.size, len(content)) == (len(whole), len(whole))
    assert [(start, end, why) for start, end, why, _ in gaps] == [(lost_from, 16_000, "EFBIG")]
    assert gaps[0][3] == lost_from
    assert pipe.dropped == 16_000 - lost_from
    assert content[:lost_from] == whole[:lost_from]
    assert content[16_000:] == whole[16_000:]
    pipe.close()
    for descriptor in (log, bell):
        os.close(descriptor)


def test_a_flood_takes_a_relay(tmp_path: Path) -> None:
    """What fills its pipe again and again gets room, and arrives whole."""
    log = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    read, write = os.pipe()
    pipe = capture.PipeCapture("stdout", read, log, bell, lambda *_: None)
    whole = b"".join(b"%08d\n" % number for number in range(500_000))

    def flood() -> None:
        with open(write, "wb", buffering=0) as file:
            rest = memoryview(whole)
            while rest:
                rest = rest[file.write(rest) :]

    writer = threading.Thread(target=flood)
    writer.start()
    relayed = False
    while not pipe.finished:
        select.select([read], [], [])
        pipe.move(0.0)
        relayed |= pipe._relay is not None
    writer.join()
    assert relayed
    assert pipe.size == len(whole)
    assert os.pread(log, len(whole) + 1, 0) == whole
    pipe.close()
    for descriptor in (log, bell):
        os.close(descriptor)


def test_files_are_captured_without_inotify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an inotify instance the file is looked at now and then."""

    def refuse() -> int:
        raise OSError(errno.EMFILE, "no more instances")

    monkeypatch.setattr(linux, "inotify_open", refuse)
    log = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    file = capture.FileCapture("stdout", log, bell, lambda *_: None)
    assert file.poll_fd(0.0) is None
    assert not file.move(0.0)
    os.write(log, b"abc")
    due = file.deadline()
    assert due is not None
    assert file.move(due)
    assert (file.size, os.eventfd_read(bell)) == (3, 1)
    for descriptor in (log, bell):
        os.close(descriptor)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=20))
def test_each_lost_byte_counts_once(ranges: list[tuple[int, int]]) -> None:
    """Ranges that overlap in any way count each byte once, and tell those that are new."""
    lost = Lost()
    known: set[int] = set()
    for start, length in ranges:
        told = [byte for a, b in lost.add(start, start + length) for byte in range(a, b)]
        assert told == sorted(set(range(start, start + length)) - known)
        known.update(told)
        assert lost.total == len(known)


@pytest.mark.parametrize("splice", [True, False])
@pytest.mark.parametrize("left", [0, 4000])
def test_truncated_log_of_a_pipe(tmp_path: Path, splice: bool, left: int) -> None:
    """What somebody cuts off is told, once, and later bytes come to their true place."""
    with capturing(tmp_path) as (log, bell, gaps):
        read, write = os.pipe()
        pipe = capture.PipeCapture("stdout", read, log, bell, told(gaps))
        pipe._can_splice = splice
        os.write(write, b"a" * 5000)
        assert pipe.move(0.0)
        os.ftruncate(log, left)
        assert not pipe.move(0.0)
        assert not pipe.move(0.0)
        os.write(write, b"b" * 1000)
        assert pipe.move(0.0)
        os.ftruncate(log, left)
        pipe.close()
        os.close(write)
        assert gaps == [(left, 5000, "truncated"), (5000, 6000, "truncated")]
        assert (pipe.size, pipe.dropped) == (6000, 6000 - left)


def test_short_way_leaves_all_that_is_unusual_to_the_long_one(tmp_path: Path) -> None:
    """Small pieces are taken the short way; at a cut, a gap or the end nothing is done there."""
    with capturing(tmp_path) as (log, bell, gaps):
        read, write = os.pipe()
        pipe = capture.PipeCapture("stdout", read, log, bell, told(gaps))
        for count in (1, 2):
            os.write(write, b"usual\n")
            assert pipe.take()
            assert os.eventfd_read(bell) == 1
            assert os.pread(log, 100, 0) == b"usual\n" * count
        assert not pipe.take()
        os.ftruncate(log, 5)
        os.write(write, b"after a cut\n")
        assert not pipe.take()
        assert pipe.move(0.0)
        assert gaps == [(5, 12, "truncated")]
        with full_disk(20):
            os.write(write, b"too much")
            assert not pipe.take()
            assert pipe.move(0.0)
            os.write(write, b", too")
            assert not pipe.take()
        assert pipe.move(1.0)
        os.close(write)
        assert not pipe.take()
        assert not pipe.finished
        assert not pipe.move(1.0)
        assert pipe.finished
        assert gaps[1:] == [(24, 32, "EFBIG")]
        assert os.pread(log, 100, 32) == b", too"
        pipe.close()


def test_truncated_between_two_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a flood, too, a log that is cut off is looked at before the next write hides it."""
    with capturing(tmp_path) as (log, bell, gaps):
        read, write = os.pipe()
        pipe = capture.PipeCapture("stdout", read, log, bell, told(gaps))
        real = os.splice

        def splice(*arguments: Any, **options: Any) -> int:
            count = real(*arguments, **options)
            if pipe.size == 0:  # the first one has just been done
                os.ftruncate(log, 0)
                os.write(write, b"b" * 1000)
            return count

        monkeypatch.setattr(os, "splice", splice)
        os.write(write, b"a" * 65536)
        assert pipe.move(0.0)
        assert gaps == [(0, 65536, "truncated")]
        assert (pipe.size, pipe.dropped) == (66536, 65536)
        os.close(write)
        pipe.close()


def test_truncated_log_of_a_file(tmp_path: Path) -> None:
    """A log that its writer or somebody else cuts off keeps the offsets of later bytes."""
    with capturing(tmp_path) as (log, bell, gaps):
        writer = os.open(f"/proc/self/fd/{log}", os.O_WRONLY | os.O_APPEND)
        file = capture.FileCapture("stdout", log, bell, told(gaps))
        os.write(writer, b"a" * 5000)
        assert file.move(0.0)
        os.ftruncate(writer, 0)
        file.move(1.0)
        os.write(writer, b"b" * 1000)
        assert file.move(2.0)
        assert os.pread(log, 9000, 5000) == b"b" * 1000
        assert gaps == [(0, 5000, "truncated")]
        assert (file.size, file.dropped) == (6000, 5000)
        file.close()
        os.close(writer)


@pytest.mark.parametrize("way", ["pipe", "file"])
def test_log_that_cannot_even_be_looked_at(tmp_path: Path, way: str) -> None:
    """A disk that answers nothing any more ends no capture: what cannot be written is lost."""
    read, write = os.pipe()
    with capturing(tmp_path) as (log, bell, gaps):
        captured: capture.Capture
        # A closed number stands in for a file system whose server has gone: each call fails.
        broken = os.dup(log)
        if way == "pipe":
            captured = capture.PipeCapture("stdout", read, broken, bell, told(gaps))
        else:
            captured = capture.FileCapture("stdout", broken, bell, told(gaps))
        os.write(write, b"a" * 1000)
        os.close(broken)
        assert captured.move(0.0) is (way == "pipe")
        captured.close()
        assert gaps == ([(0, 1000, "EBADF")] if way == "pipe" else [])
    os.close(write)
    if way == "file":
        os.close(read)


def test_truncated_log_that_cannot_be_mended(tmp_path: Path) -> None:
    """A log that was cut off, and takes nothing any more, is told as lost and ends no capture."""
    (tmp_path / "log").write_bytes(b"a" * 5000)
    log = os.open(tmp_path / "log", os.O_RDONLY)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    gaps: list[tuple[int, int, str]] = []
    file = capture.FileCapture("stdout", log, bell, told(gaps))
    assert file.move(0.0)
    os.truncate(tmp_path / "log", 1000)
    for now in (1.0, 2.0):
        assert not file.move(now)
    file.close()
    assert gaps == [(1000, 5000, "truncated")]
    for descriptor in (log, bell):
        os.close(descriptor)


def test_truncated_log_that_was_opened_for_appending(tmp_path: Path) -> None:
    """A log is mended at its old length, also if whoever keeps it has opened it for appending."""
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    writer = os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    gaps: list[tuple[int, int, str]] = []
    file = capture.FileCapture("stdout", log, bell, told(gaps))
    os.write(writer, b"a" * 5000)
    assert file.move(0.0)
    os.ftruncate(writer, 0)
    file.move(1.0)
    os.write(writer, b"b" * 10)
    assert file.move(2.0)
    assert os.pread(log, 9000, 0) == bytes(5000) + b"b" * 10
    assert gaps == [(0, 5000, "truncated")]
    file.close()
    for descriptor in (log, writer, bell):
        os.close(descriptor)


def test_full_disk_does_not_stop_a_task(tmp_path: Path) -> None:
    """A task whose disk is full goes on to its end; the loss is counted and told."""
    code = """
import json, os, resource, sys, time
from eventbus_tasks._process.handle import WardenClient
from eventbus_tasks._process import wire
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
warden = WardenClient.start()
log = os.open(sys.argv[1], os.O_TMPFILE | os.O_RDWR, 0o600)
null = os.open("/dev/null", os.O_RDWR)
spec = wire.LaunchSpec(uid="u", argv=["seq", "200000"], cwd="/", env=dict(os.environ))
link = warden.launch(spec, stdin=null, stdout_log=log)
dropped = 0
limit = time.monotonic() + 50
heard = []
while True:
    assert time.monotonic() < limit, heard
    messages = link.poll()
    heard += messages
    for m in messages:
        if isinstance(m, wire.Dropped): dropped += m.end - m.start
        if isinstance(m, wire.Ended):
            print(json.dumps([m.return_code, dict(m.sizes), dict(m.dropped), dropped]))
            sys.exit()
    time.sleep(0.01)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    import json

    size = sum(len(str(i)) + 1 for i in range(1, 200_001))
    lost = size - 100_000
    assert json.loads(result.stdout) == [0, {"stdout": size}, {"stdout": lost}, lost]

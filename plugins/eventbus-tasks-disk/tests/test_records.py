"""Lines that show whether they are whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from eventbus_tasks_disk import records
from eventbus_tasks_disk.encoding import EventEncoder
from eventbus_tasks_disk.records import (
    decode_record,
    encode_record,
    end_of_records,
    lines_backwards,
    records_forwards,
    records_with_ends,
)
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import OutputReceived, TaskEvent, TaskRef, TaskStarted

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES, min_size=1, max_size=4)


@contextmanager
def opened(content: bytes) -> Iterator[int]:
    """Open a file with some content."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


@given(OBJECTS)
def test_round_trip(data: dict[str, Any]) -> None:
    """A record is one line of ASCII and gives back what was put in."""
    line = encode_record(data)
    assert line.isascii()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_record(line) == data


REFS = st.builds(
    TaskRef, id=st.integers(), uid=st.text(), name=st.text(), agent=st.text(), project_dir=st.text()
)
RANGES = st.builds(
    OutputReceived,
    task=REFS,
    seq=st.integers(),
    at=st.datetimes(timezones=st.just(UTC)),
    stream=st.sampled_from(("stdout", "stderr")),
    start=st.integers(),
    end=st.integers(),
    line_start=st.integers(),
    last=st.booleans(),
    first_seq=st.integers(),
)
STARTS = st.builds(TaskStarted, task=REFS, pid=st.integers(), argv=st.tuples(st.text()))


@given(st.lists(RANGES | STARTS, max_size=4))
def test_quickly_encoded_events(events: list[TaskEvent]) -> None:
    """The quick way to encode events gives, byte for byte, what the general one does."""
    encoder = EventEncoder()
    for event in events:
        assert encoder.encode(event) == encode_record(event.to_dict())


@given(st.lists(OBJECTS, max_size=6), st.data())
def test_any_prefix(objects: list[dict[str, Any]], data: st.DataObject) -> None:
    """A file that was cut off anywhere gives the records that are whole, and nothing else."""
    lines = [encode_record(item) for item in objects]
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    with opened(content[:cut]) as file:
        found = list(records_forwards(file))
    whole = 0
    while whole < len(lines) and len(b"".join(lines[: whole + 1])) - 1 <= cut:
        whole += 1
    assert [item for item in found if item is not None] == objects[:whole]
    assert found.count(None) <= 1


@given(st.lists(OBJECTS, min_size=1, max_size=6), st.data())
def test_flipped_byte(objects: list[dict[str, Any]], data: st.DataObject) -> None:
    """A byte that has changed costs the records that it touches, and is noticed."""
    content = bytearray(b"".join(map(encode_record, objects)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with opened(bytes(content)) as file:
        found = list(records_forwards(file))
    good = [item for item in found if item is not None]
    remaining = iter(objects)
    assert all(item in remaining for item in good), "something was made up"
    assert len(good) >= len(objects) - 2
    assert None in found or good == objects  # an inserted empty line costs nothing


@given(st.binary(max_size=2000))
def test_anything(content: bytes) -> None:
    """Whatever is in the file, reading it never raises."""
    with opened(content) as file:
        assert not any(list(records_forwards(file)))
        list(lines_backwards(file))


@pytest.mark.parametrize("line", [b'{"crc32":"00000000",', b'{"crc32":"d4a1185 ",}', b"\xff", b""])
def test_not_a_record(line: bytes) -> None:
    """A line of another form is none."""
    assert decode_record(line) is None


def test_nesting_without_end() -> None:
    """A line with a good checksum that is nested too deeply is damaged, not fatal."""
    import zlib

    body = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert decode_record(b'{"crc32":"%08x",%s' % (zlib.crc32(body), body[1:])) is None


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)), st.booleans())
def test_backwards(lines: list[bytes], ends: bool) -> None:
    """Read backwards, a file has the same lines, whatever the size of the blocks."""
    content = b"\n".join(lines) + (b"\n" if ends else b"")
    for block in (1, 2, 7, 64 * 1024):
        with pytest.MonkeyPatch.context() as patch, opened(content) as file:
            patch.setattr(records, "_BLOCK", block)
            found = [line for line in lines_backwards(file) if line]
        assert found[::-1] == [line for line in lines if line]


@given(
    st.lists(OBJECTS.map(encode_record) | st.binary(max_size=20) | st.just(b"\n"), max_size=6),
    st.integers(0, 40),
)
def test_end_of_records(pieces: list[bytes], cut: int) -> None:
    """The last whole record is found from behind where it is found from the beginning."""
    content = b"".join(pieces)
    content = content[: max(0, len(content) - cut)]
    with opened(content) as file:
        ends = [end for record, end in records_with_ends(file) if record is not None]
        end = max(ends, default=0)
        assert end_of_records(file) == (min(end, len(content)), end > len(content))


def test_long_line_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is longer than any of ours is not kept in memory, and costs only itself."""
    monkeypatch.setattr(records, "MAX_RECORD", 1000)
    record = encode_record({"seq": 1})
    with opened(record + b"x" * 300_000 + b"\n" + record) as file:
        assert list(records_forwards(file)) == [{"seq": 1}, None, {"seq": 1}]
        backwards = [line for line in lines_backwards(file) if line]
    assert backwards == [record[:-1], b"?", record[:-1]]


def test_unknown_types() -> None:
    """An option that JSON does not know is written as a string."""
    assert decode_record(encode_record({"at": Path("/x")})) == {"at": "/x"}


def test_descriptor_position_is_not_used(tmp_path: Path) -> None:
    """Reading does not depend on, or change, where the descriptor stands."""
    path = tmp_path / "file"
    path.write_bytes(encode_record({"seq": 1}))
    readers: list[Callable[[int], Any]] = [records_forwards, lines_backwards]
    with path.open("rb") as file:
        os.lseek(file.fileno(), 5, os.SEEK_SET)
        for reader in readers:
            assert list(reader(file.fileno()))
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 5

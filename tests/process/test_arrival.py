"""The index of arrivals: what it says, how large it gets, and what a damaged one is worth."""

from __future__ import annotations

import functools
import math
import os
import tempfile
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks._process import arrival
from eventbus_tasks._process.arrival import ENTRY, Arrival, ArrivalIndex, ArrivalReader

from .conftest import Host, wait_until

WORDS = {"stdout": 0, "stderr": 1}


@pytest.fixture
def file() -> Iterator[int]:
    """An empty file."""
    with tempfile.TemporaryFile() as made:
        yield made.fileno()


def everything(descriptor: int) -> list[Arrival]:
    """Read a whole index."""
    reader = ArrivalReader(descriptor)
    found = []
    while arrivals := reader.read():
        found += arrivals
    return found


def has_more_than(descriptor: int, count: int) -> bool:
    """Return whether an index has more than some entries."""
    return len(everything(descriptor)) > count


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.floats(0.0, 0.02)), max_size=60),
    st.integers(0, 5),
)
def test_order_and_ends(notes: list[tuple[int, int, float]], cut: int) -> None:
    """Each stream grows to its end, changes are kept, and a torn tail costs one entry only."""
    with tempfile.TemporaryFile() as made:
        index = ArrivalIndex(made.fileno())
        ends, now = [0, 0], 100.0
        changes: list[int] = []
        for stream, count, pause in notes:
            now += pause
            ends[stream] += count
            index.note(stream, ends[stream], now)
            index.tick(now)
            if count and changes[-1:] != [stream]:
                changes.append(stream)
        index.finish(ends, now)
        found = everything(made.fileno())
        assert {
            stream: max((a.end for a in found if WORDS[a.stream] == stream), default=0)
            for stream in (0, 1)
        } == dict(enumerate(ends))
        seen: list[int] = []
        for one in found:
            if seen[-1:] != [WORDS[one.stream]]:
                seen.append(WORDS[one.stream])
        assert seen == changes
        for stream in (0, 1):
            mine = [a for a in found if WORDS[a.stream] == stream]
            assert [a.start for a in mine] == [0, *(a.end for a in mine)][: len(mine)]
        size = os.fstat(made.fileno()).st_size
        os.ftruncate(made.fileno(), max(0, size - cut))
        assert everything(made.fileno()) == (found[:-1] if cut and found else found)


def test_one_stream_costs_little(file: int) -> None:
    """A flood of one stream has an entry for every hundredth of a second, the last one in time."""
    index = ArrivalIndex(file)
    for step in range(10_000):
        index.note(0, step + 1, step / 10_000)
        index.tick(step / 10_000)
    assert index.deadline < math.inf
    index.tick(index.deadline)
    assert index.deadline == math.inf
    found = everything(file)
    assert 90 <= len(found) <= 110
    assert found[-1].end == 10_000


def test_it_has_a_largest_size(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that take turns for ever fill no disk."""
    monkeypatch.setattr(arrival, "LARGEST", 100 * ENTRY.size)
    index = ArrivalIndex(file)
    for step in range(1, 1000):
        index.note(step % 2, step, float(step))
    index.finish([2000, 2000], 2000.0)
    assert os.fstat(file).st_size == 100 * ENTRY.size


def test_what_cannot_be_true_is_passed_over(file: int) -> None:
    """Entries that go backwards are left out."""
    for end in (10, 5, 20):
        os.write(file, ENTRY.pack(end << 1, 7_000_000))
    assert [(a.start, a.end, a.at) for a in everything(file)] == [(0, 10, 7.0), (10, 20, 7.0)]


@pytest.mark.anyio
@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_a_guardian_writes_it(host: Host, capture: str) -> None:
    """The order in which a guardian has seen bytes is the order in which they were written."""
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    code = """
import os, sys
for line in sys.stdin: os.write(int(line[0]), line[1:].encode())
"""
    index = host.log()
    began = time.time()
    run = host.python(code, separate=True, capture=capture, stdin=theirs, arrivals=index)
    order = [1, 2, 2, 1, 2, 1, 1]
    for number, stream in enumerate(order):
        os.write(ours, f"{stream}line {number}\n".encode())
        name = {1: "stdout", 2: "stderr"}[stream]
        await run.output_has(f"line {number}\n".encode(), name)
        # In the log is not seen yet, where the program writes there by itself.
        wait_until(functools.partial(has_more_than, index, number))
    os.close(ours)
    ended = await run.finish()
    found = everything(index)
    os.close(index)
    assert [{"stdout": 1, "stderr": 2}[a.stream] for a in found] == order
    assert {a.stream: a.end for a in found} == dict(ended.sizes)
    assert all(began - 0.001 <= a.at <= time.time() for a in found)
    assert [a.at for a in found] == sorted(a.at for a in found)

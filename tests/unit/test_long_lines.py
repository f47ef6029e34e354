"""Lines over 16 MiB come in pieces; here the limit is 16 bytes, so that there are many."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import (
    LineSplitter,
    LogFiles,
    OutputReceived,
    TaskOutput,
    _derived,
    decode_line,
    lines,
    output,
)
from eventbus_tasks._derived import LineNumbers, output_lines
from eventbus_tasks.events import life
from eventbus_tasks.lines import MAX_LINE, decode_lines, piece_end
from eventbus_tasks.output import StreamCursor
from eventbus_tasks.testing.strategies import output_bytes, split


def reference(data: bytes) -> list[bytes]:
    """Return the lines of everything that was written, without any cleverness."""
    found = data.split(b"\n")
    return found if found[-1] else found[:-1]


def feed(parts: list[bytes]) -> list[tuple[bytes, bool]]:
    """Return what a splitter makes of chunks."""
    splitter = LineSplitter()
    found = [line for part in parts for line in splitter.feed(part)]
    return found + splitter.finish()


SMALL = 16


@pytest.fixture(autouse=True, scope="module")
def small_limit() -> Iterator[None]:
    """Cut lines at 16 bytes instead of 16 MiB, everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (lines, output, _derived, life):
            patch.setattr(module, "MAX_LINE", SMALL)
        yield


long_text = st.text(
    st.sampled_from("ab\xe4\u20ac\U0001f600\n"), min_size=SMALL // 2, max_size=SMALL * 6
)


def long_bytes() -> st.SearchStrategy[bytes]:
    """Return output with lines longer than the limit."""
    return st.one_of(
        long_text.map(str.encode),
        st.binary(min_size=SMALL, max_size=SMALL * 5),
        output_bytes(),
    )


@given(long_text)
def test_pieces_never_cut_a_character(text: str) -> None:
    """Valid UTF-8 stays valid in each piece, and the pieces make up the whole line."""
    for position, line in enumerate(reference(text.encode())):
        found = feed([line])
        assert b"".join(piece for piece, _ in found) == line
        assert [truncated for _, truncated in found] == [True] * (len(found) - 1) + [False] * (
            len(found) > 0
        )
        for piece, truncated in found:
            assert piece.decode("utf-8")
            assert len(piece) <= SMALL
            if truncated:
                assert len(piece) > SMALL - 4
        assert position >= 0


@given(long_bytes(), st.lists(st.integers(0, 200), max_size=8))
def test_pieces_do_not_depend_on_chunks(data: bytes, cuts: list[int]) -> None:
    """Also over-long lines are cut at the same places whatever the chunks are."""
    assert feed(split(data, cuts)) == feed([data])


@given(long_bytes())
def test_decode_lines_agrees_with_the_splitter(data: bytes) -> None:
    """Both ways to cut over-long lines cut at the same places."""
    wanted = [
        piece.decode("utf-8", "replace") if truncated else decode_line(piece)
        for piece, truncated in feed([data])
    ]
    assert list(decode_lines(data, last=True)) == wanted


@given(st.binary(min_size=SMALL + 1, max_size=SMALL * 3), st.integers(0, SMALL))
def test_piece_end(data: bytes, start: int) -> None:
    """A piece ends at most three bytes before the limit, never behind it."""
    end = piece_end(data, start)
    assert start + SMALL - 3 <= end <= start + SMALL


@given(long_bytes(), st.lists(st.integers(0, 200), max_size=10), st.data())
def test_events_hold_every_line_once(data: bytes, cuts: list[int], more: st.DataObject) -> None:
    """Whatever the ranges, merged or not, their lines are those of the whole, with its numbers."""
    wanted = []
    number = 1
    for piece, truncated in feed([data]):
        text = piece.decode("utf-8", "replace") if truncated else decode_line(piece)
        wanted.append((number, text, truncated))
        number += not truncated
    flags = st.booleans()
    events = _events(data, cuts)
    merged: list[OutputReceived] = []
    for event in events:
        if more.draw(flags) and merged:
            merged[-1] = merged[-1].merge(event)
        else:
            merged.append(event)
    for told in (events, merged):
        assert b"".join(event.data for event in told) == data
        assert [text for event in told for text in event.lines] == [text for _, text, _ in wanted]
        numbers = LineNumbers()
        found = [line for event in told for line in output_lines(event, numbers)]
        assert [(line.number, line.text, line.truncated) for line in found] == wanted


def _events(data: bytes, cuts: list[int]) -> list[OutputReceived]:
    """Return the events that the engine would make of a log that grows in these steps."""
    log = os.memfd_create("log")
    output = TaskOutput()
    output.attach(LogFiles(stdout=log))
    cursor = StreamCursor(output, "stdout")
    os.write(log, data)
    events = []
    for size in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        while (found := cursor.advance(SMALL * 2, size)) is not None:
            start, end, line_start, _ = found
            events.append(
                OutputReceived(
                    stream="stdout", start=start, end=end, line_start=line_start, source=output
                )
            )
    if cursor.line_start < cursor.position:
        end = cursor.position
        events.append(
            OutputReceived(
                stream="stdout",
                start=end,
                end=end,
                line_start=cursor.line_start,
                last=True,
                source=output,
            )
        )
    return events


def test_the_real_limit() -> None:
    """The limit is 16 MiB: a line as long as that is whole, a longer one comes in pieces."""
    assert MAX_LINE == 16 * 1024 * 1024
    assert SMALL == lines.MAX_LINE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_LINE", MAX_LINE)
        exact = b"x" * MAX_LINE
        assert feed([exact, b"\n"]) == [(exact, False)]
        cut = feed([exact[:-1] + "\xe4".encode() + b"\n"])
        assert [(len(piece), truncated) for piece, truncated in cut] == [
            (MAX_LINE - 1, True),
            (2, False),
        ]

"""Cutting bytes into lines, compared with the plainest way to do it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import LineSplitter, decode_line
from eventbus_tasks.lines import decode_lines
from eventbus_tasks.testing.strategies import chunks, output_bytes


def reference(data: bytes) -> list[bytes]:
    """Return the lines of everything that was written, without any cleverness."""
    found = data.split(b"\n")
    return found if found[-1] else found[:-1]


def reference_text(line: bytes) -> str:
    """Return a line as text."""
    return re.sub(rb"\r\Z", b"", line).decode("utf-8", "replace")


def feed(parts: list[bytes]) -> list[tuple[bytes, bool]]:
    """Return what a splitter makes of chunks."""
    splitter = LineSplitter()
    found = [line for part in parts for line in splitter.feed(part)]
    return found + splitter.finish()


@given(chunks())
def test_splitter_agrees_with_the_reference(parts: list[bytes]) -> None:
    """However bytes are cut into chunks, the lines are those of the whole."""
    assert feed(parts) == [(line, False) for line in reference(b"".join(parts))]


@given(output_bytes())
def test_decode_lines_agrees_with_the_reference(data: bytes) -> None:
    """Decoding many lines at once gives what decoding each by itself gives."""
    wanted = [reference_text(line) for line in reference(data)]
    assert list(decode_lines(data, last=True)) == wanted
    complete = wanted if data.endswith(b"\n") or not data else wanted[:-1]
    assert list(decode_lines(data)) == complete


@given(st.binary(max_size=20))
def test_decode_line(data: bytes) -> None:
    """Exactly one carriage return before the line ending belongs to the ending."""
    line = data.replace(b"\n", b"")
    assert decode_line(line) == reference_text(line)
    assert decode_line(line + b"\r") == line.decode("utf-8", "replace")


def test_only_line_feeds_end_lines() -> None:
    """What Python's own `splitlines` takes for endings, and a lone carriage return, are not."""
    odd = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\rh"
    assert decode_lines(f"{odd}\n".encode()) == (odd,)

"""Foreign text in the readable file, and on the terminal."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from eventbus_tasks_disk.cleaning import OutputCleaner
from eventbus_tasks_disk.markdown import Section, header_value, write_markdown
from hypothesis import example, given
from hypothesis import strategies as st

from eventbus_tasks import terminal_safe

PARTS = st.sampled_from(
    [
        *("`", "``", "```", "\n", "\r", "\r\n", " ", "a", "é", "\U0001f600", "~~~", "#"),
        *("\x1b", "\x1b[", "\x1b[31m", "\x1b]0;t", "\x07", "\x1b\\", "\\", "\x9b", "\x9d", "\x9c"),
        *("[", "]", "0;1", "m", "\x00", "\u202e", "\u2028", "\x1bP", "\x1b(", "B"),
    ]
)
BYTES = st.lists(PARTS | st.text(max_size=3), max_size=40).map(
    lambda parts: "".join(parts).encode("utf-8", "surrogatepass")
) | st.binary(max_size=100)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut bytes into pieces."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def clean(chunks: Iterable[bytes]) -> str:
    """Clean output that comes in pieces."""
    cleaner = OutputCleaner()
    return "".join([*map(cleaner.feed, chunks), cleaner.finish()])


def write(*sections: Section, facts: dict[str, Any] | None = None) -> str:
    """Write a readable file and return it."""
    with tempfile.TemporaryFile() as file:
        write_markdown(file.fileno(), "Title", facts or {}, sections)
        return os.pread(file.fileno(), 1 << 30, 0).decode()


@given(BYTES, st.lists(st.integers(0, 400), max_size=6))
@example(b"\x1b]0;title\x1b\\after", [10, 11])
@example(b"a\x1b[3", [2])
@example("\u20ac".encode(), [1, 2])
@example(b"\r\n", [1])
def test_cleaning(data: bytes, places: list[int]) -> None:
    """Output is cleaned line by line, and the result does not depend on how it was cut."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    expected = "\n".join(map(terminal_safe, text.split("\n")))
    assert clean([data]) == expected
    assert clean(cut(data, places)) == expected
    assert clean(data[i : i + 1] for i in range(len(data))) == expected


def test_cleaning_is_prompt() -> None:
    """Nothing is held back that is complete: a prompt without a line ending is shown."""
    cleaner = OutputCleaner()
    assert cleaner.feed(b"\x1b[1mName: ") == "Name: "
    assert cleaner.feed(b"\xe2\x82") == ""
    assert cleaner.feed(b"\xac") == "€"


def test_endless_sequence() -> None:
    """A sequence that is never completed swallows neither the lines behind it nor the memory."""
    cleaner = OutputCleaner()
    shown = "".join(cleaner.feed(b"\x1b]0;" + b"x" * 100_000) for _ in range(20))
    assert len(cleaner._rest) <= 200_000
    shown += cleaner.feed(b"\nnext line\n")
    assert shown.endswith("\nnext line\n")


def test_cleaning_takes_linear_time() -> None:
    """Input that would make a careless search go back and forth is no worse than any other."""
    data = "\x9d".encode() * 30_000 + b"\x07" + b"\x1b[" * 30_000 + b"\x1b]" * 30_000
    assert clean(cut(data, range(0, len(data), 1000))) == ""


@given(BYTES, st.lists(st.integers(0, 400), max_size=6))
@example(b"````\n# out\n", [2])
@example(b"``\x1b[0m`", [])
def test_fence(data: bytes, places: list[int]) -> None:
    """No output can close the fence that it stands in, and all of it is there."""
    chunks = cut(data, places)
    text = write(Section(title="Output", size=len(data), chunks=lambda *_: chunks))
    assert text.startswith("# Title\n\n```yaml\n```\n\n## Output\n\n")
    body = text.removeprefix("# Title\n\n```yaml\n```\n\n## Output\n\n")
    opening, _, rest = body.partition("\n")
    fence = opening.removesuffix("text")
    assert set(fence) == {"`"}
    inside = rest.removesuffix(f"{fence}\n")
    assert fence not in inside
    shown = clean([data])
    assert inside == (shown if shown.endswith("\n") or not shown else shown + "\n")


def test_text_that_changes() -> None:
    """A log that is changed while it is copied does not get out of its fence, either."""
    versions = iter([b"```\n", b"`````\n", b"````\n"])
    text = write(Section(title="Output", size=4, chunks=lambda *_: [next(versions)]))
    assert text.endswith("``````text\n````\n``````\n")
    growing = iter(range(3, 100))
    with pytest.raises(OSError, match="does not stop changing"):
        write(Section(title="Output", size=4, chunks=lambda *_: [b"`" * next(growing)]))


@given(st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
@example("\x7f\x9b\u202e\u2028\udc80\x00")
def test_header_value(value: Any) -> None:
    """A value in the header is one line of JSON without anything that a terminal acts on."""
    text = header_value(value)
    assert json.loads(text) == value
    assert terminal_safe(text) == text
    assert "\n" not in text
    text.encode()


def test_memory(tmp_path: Path) -> None:
    """An output that is larger than the memory that we may use is written all the same."""
    size = 192 * 1024 * 1024
    code = f"""
import os, resource, sys
from eventbus_tasks_disk.markdown import Section, write_markdown
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {size // 4}, resource.RLIM_INFINITY))
line = b"x" * 1023 + b"\\n"
def chunks(begin, end):
    for _ in range({size} // (256 * 1024)):
        yield line * 256
    yield b"`" * 1000
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
write_markdown(file, "Large", {{}}, [Section(title="Output", size=0, chunks=chunks)])
"""
    path = tmp_path / "large.md"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True)
    assert path.stat().st_size > size
    with path.open("rb") as file:
        assert file.read(2000).split(b"\n")[7] == b"`" * 1001 + b"text"
    path.unlink()


def test_limit() -> None:
    """Of a text over the limit the beginning and the end are shown, and what is left out."""
    data = bytes(range(65, 91)) * 4

    def chunks(begin: int, end: int) -> list[bytes]:
        return [data[begin:end]]

    section = Section(title="Output", size=len(data), chunks=chunks)
    with tempfile.TemporaryFile() as file:
        write_markdown(file.fileno(), "Title", {}, [section], limit=40)
        text = os.pread(file.fileno(), 10_000, 0).decode()
    body = text.partition("## Output\n\n")[2]
    assert body == (
        f"```text\n{data[:10].decode()}\n```\n\n"
        "*64 bytes (offsets 10 to 74) are left out here; see the raw log.*\n\n"
        f"```text\n{data[-30:].decode()}\n```\n"
    )

"""Writes the readable file of a task: a header, and foreign text that cannot get out of it.

Everything in the header is JSON, one line for each fact, and everything else that is foreign
stands in a fence that is longer than any run of backticks in it. Texts are copied piece by
piece, so their size does not matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final

from eventbus_tasks import terminal_safe
from eventbus_tasks_disk.cleaning import OutputCleaner

__all__ = ["Section", "header_value", "write_markdown"]

_RUNS: Final = re.compile("`+")
_TRIES: Final = 5
_BUFFER: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A text with a title.

    Attributes:
        title: Ours, not foreign.
        size: Bytes of the text.
        chunks: Gives the bytes of the text from one offset to another, each time it is called.
    """

    title: str
    size: int
    chunks: Callable[[int, int], Iterable[bytes]]


def write_markdown(
    descriptor: int,
    title: str,
    facts: Mapping[str, Any],
    sections: Sequence[Section],
    limit: int = 0,
) -> None:
    """Write the file.

    Args:
        descriptor: An empty file; stays open.
        title: Ours, not foreign.
        facts: The header: JSON data by name.
        sections: The texts.
        limit: Bytes of a text that are shown; of a longer one the first quarter of that and, for
            the rest, its end are, and between them it says how much is left out. 0: no limit.

    Raises:
        OSError: It cannot be written, or a text does not stop changing.
    """
    with open(descriptor, "wb", buffering=_BUFFER, closefd=False) as file:
        file.write(f"# {title}\n\n```yaml\n".encode())
        lines = (f"{name}: {header_value(value)}\n" for name, value in facts.items())
        file.writelines(line.encode() for line in lines)
        file.write(b"```\n")
        for section in sections:
            file.write(f"\n## {section.title}\n\n".encode())
            if not limit or section.size <= limit:
                _write_fenced(file, section.title, partial(section.chunks, 0, section.size))
                continue
            first, last = limit // 4, section.size - (limit - limit // 4)
            _write_fenced(file, section.title, partial(section.chunks, 0, first))
            omission = f"{last - first} bytes (offsets {first} to {last}) are left out here"
            file.write(f"\n*{omission}; see the raw log.*\n\n".encode())
            _write_fenced(file, section.title, partial(section.chunks, last, section.size))


def header_value(value: Any) -> str:
    """Return JSON in one line, without any character that would be dangerous to show."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(
        character
        if terminal_safe(character)
        else json.dumps(character)[1:-1].replace("\x7f", "\\u007f")
        for character in text
    )


def _write_fenced(file: BinaryIO, title: str, chunks: Callable[[], Iterable[bytes]]) -> None:
    begin = file.tell()
    fence = 3
    for _ in range(_TRIES):
        longest = _try_fenced(file, chunks(), fence)
        if longest < fence:
            return
        # Seldom enough to be cheaper than to read every text twice. Whoever changes the text
        # between two tries (it may be a log that is still written) does not get out of it.
        fence = longest + 1
        file.seek(begin)
        file.truncate()
    raise OSError(f"the text of {title!r} does not stop changing")


def _try_fenced(file: BinaryIO, chunks: Iterable[bytes], fence: int) -> int:
    """Write the text in a fence, and return the length of the longest run of backticks."""
    cleaner = OutputCleaner()
    longest = run = 0  # run: at the end of what was written
    last = ""
    _write_backticks(file, fence)
    file.write(b"text\n")
    for text in _cleaned(chunks, cleaner):
        longest = max(longest, run + _length_at_start(text))
        if "`" * (longest + 1) in text:
            longest = max(map(len, _RUNS.findall(text)))
        tail = len(text) - len(text.rstrip("`"))
        run = tail + (run if tail == len(text) else 0)
        last = text[-1]
        file.write(text.encode())
    if last not in ("", "\n"):
        file.write(b"\n")
    _write_backticks(file, fence)
    file.write(b"\n")
    return longest


def _length_at_start(text: str) -> int:
    return len(text) - len(text.lstrip("`"))


def _cleaned(chunks: Iterable[bytes], cleaner: OutputCleaner) -> Iterable[str]:
    for chunk in chunks:
        if text := cleaner.feed(chunk):
            yield text
    if text := cleaner.finish():
        yield text


def _write_backticks(file: BinaryIO, count: int) -> None:
    # In pieces: a text may consist of backticks alone.
    while count > 0:
        piece = min(count, _BUFFER)
        file.write(b"`" * piece)
        count -= piece

"""Lines that show by themselves whether they are whole: the format of journal and index.

A record is one line: a JSON object in ASCII whose first member is ``"crc32"``, eight hexadecimal
digits. It is the CRC-32 of the object without that member: of ``{`` and everything behind the
comma, up to ``}``, the line ending excluded. So a torn or changed line is noticed, and any JSON
tool can still read the file.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = [
    "MAX_RECORD",
    "decode_record",
    "encode_record",
    "end_of_records",
    "lines_backwards",
    "records_forwards",
    "records_with_ends",
    "to_json",
    "with_checksum",
]

MAX_RECORD: Final = 128 * 1024 * 1024
"""A longer line is none of ours: nobody's memory is filled with it."""

_HEAD: Final = re.compile(rb'\{"crc32":"([0-9a-f]{8})",')
_HEAD_LENGTH: Final = len('{"crc32":"00000000",')
_BLOCK: Final = 64 * 1024
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), default=str)


def encode_record(data: Mapping[str, Any]) -> bytes:
    """Return a record, with its line ending.

    Args:
        data: JSON data, not empty. What JSON does not know is written as a string, because an
            option that somebody made up must not cost a task its history.

    Raises:
        ValueError: It refers to itself, or is empty.
    """
    if not data:
        raise ValueError("a record needs something in it")
    return with_checksum(to_json(data))


def to_json(data: Mapping[str, Any]) -> str:
    """Return JSON as it stands in records, in ASCII.

    Raises:
        ValueError: It refers to itself.
    """
    return _ENCODER.encode(data)


def with_checksum(text: str) -> bytes:
    """Return the record of a JSON object in ASCII that is not empty."""
    body = text.encode("ascii")
    return b'{"crc32":"%08x",%s\n' % (zlib.crc32(body), body[1:])


def decode_record(line: bytes) -> dict[str, Any] | None:
    """Return the data of a record, without its checksum, or ``None`` if it is not whole."""
    line = line.removesuffix(b"\n")
    head = _HEAD.match(line)
    if head is None:
        return None
    if zlib.crc32(line[_HEAD_LENGTH:], zlib.crc32(b"{")) != int(head[1], 16):
        return None
    try:
        data = json.loads(b"{" + line[_HEAD_LENGTH:])
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def records_forwards(descriptor: int) -> Iterator[dict[str, Any] | None]:
    """Yield the data of every line of a file, and ``None`` for one that is not whole.

    Raises:
        OSError: The file cannot be read.
    """
    for record, _ in records_with_ends(descriptor):
        yield record


def records_with_ends(descriptor: int) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Yield the same, and where each line ends: behind its line ending.

    Of a last line without one that is an offset behind the end of the file.

    Raises:
        OSError: The file cannot be read.
    """
    end = 0
    for line, length in _lines(descriptor):
        end += length + 1
        if length:
            yield decode_record(line), end


def _lines(descriptor: int) -> Iterator[tuple[bytes, int]]:
    position = 0
    rest: list[bytes] = []
    length = 0
    while block := os.pread(descriptor, _BLOCK, position):
        position += len(block)
        pieces = block.split(b"\n")
        for piece in pieces[:-1]:
            length += len(piece)
            yield _joined([*rest, piece], length), length
            rest, length = [], 0
        length += len(pieces[-1])
        if length <= MAX_RECORD:
            rest.append(pieces[-1])
    if length:
        yield _joined(rest, length), length


def lines_backwards(descriptor: int) -> Iterator[bytes]:
    """Yield the lines of a file, the last one first, reading no more than is asked for.

    Raises:
        OSError: The file cannot be read.
    """
    for line, _ in _lines_backwards(descriptor):
        yield line


def end_of_records(descriptor: int) -> tuple[int, bool]:
    """Return where the last whole record of a file ends, and whether its line ending is missing.

    Only what lies behind it is read, so it takes no longer for a large file.

    Raises:
        OSError: The file cannot be read.
    """
    end = os.fstat(descriptor).st_size
    for number, (line, length) in enumerate(_lines_backwards(descriptor)):
        if line and decode_record(line) is not None:
            return (end + 1, False) if number else (end, True)
        end -= length + 1
    return 0, False


def _lines_backwards(descriptor: int) -> Iterator[tuple[bytes, int]]:
    position = os.fstat(descriptor).st_size
    rest: list[bytes] = []  # the end of a line whose beginning was not read yet
    length = 0
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        pieces = os.pread(descriptor, size, position).split(b"\n")
        length += len(pieces[-1])
        if length <= MAX_RECORD:
            rest.append(pieces[-1])
        if len(pieces) > 1:
            yield _joined(rest[::-1], length), length
            yield from ((piece, len(piece)) for piece in reversed(pieces[1:-1]))
            rest, length = [pieces[0]], len(pieces[0])
    if length:
        yield _joined(rest[::-1], length), length


def _joined(pieces: list[bytes], length: int) -> bytes:
    return b"?" if length > MAX_RECORD else b"".join(pieces)

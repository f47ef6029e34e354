"""A program, its arguments and its environment, as the kernel takes them: for `vfork`.

The host writes it, where time and memory are cheap, and the guardian needs to look at next to
nothing of it: a head of numbers, the places of all strings in one row, and the strings. Each of
them ends with a NUL byte, as the kernel wants it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

__all__ = ["PLACES", "encode", "find_programs"]

PLACES: Final = 4
"""Words (of 8 bytes) at the beginning: how many strings there are of each kind, that is paths of
the program, arguments and variables; and the umask.

The places follow, relative to the first byte of all: that of the working directory, those of the
paths, of the arguments and of the variables. The last two rows end with a zero.
"""

_WORD: Final = 8


def encode(
    cwd: bytes,
    programs: Sequence[bytes],
    argv: Sequence[bytes],
    variables: Sequence[bytes],
    umask: int,
) -> bytes:
    """Return a program as one piece.

    Args:
        cwd: Where it works, and what relative paths are relative to.
        programs: Paths under which it is looked for, in this order.
        argv: Its arguments.
        variables: Its environment: each name with its value.
        umask: Its file mode mask.
    """
    strings = [cwd, *programs, *argv, *variables]
    first = _WORD * (PLACES + len(strings) + 2)
    *places, _ = accumulate([len(string) + 1 for string in strings], initial=first)
    places.insert(1 + len(programs) + len(argv), 0)
    words = (len(programs), len(argv), len(variables), umask, *places, 0)
    return struct.pack(f"={len(words)}Q", *words) + b"\0".join(strings) + b"\0"


def find_programs(name: bytes, path: bytes | None) -> list[bytes]:
    """Return the paths under which a program is tried, as seen from the task's directory.

    Args:
        name: What it is called.
        path: ``PATH`` of the task, if it has one.
    """
    if b"/" in name:
        return [name]
    if path is None:
        path = os.fsencode(os.defpath)
    return [(entry + b"/" if entry else b"./") + name for entry in path.split(b":")]

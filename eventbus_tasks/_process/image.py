"""A program, its arguments and its environment, as the kernel takes them: for `vfork`.

The host writes it, where time and memory are cheap, and the guardian needs to look at next to
nothing of it: a head of numbers, the places of all strings in one row, and the strings. Each of
them ends with a NUL byte, as the kernel wants it.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

__all__ = ["PLACES", "encode", "find_programs"]

_HEAD: Final = struct.Struct("=QQQQ")
"""How many strings there are of each kind: paths of the program, arguments, variables; the umask.

The places follow, relative to the first byte of the head: that of the working directory, those of
the paths, of the arguments and of the variables. The last two rows end with a zero.
"""

PLACES: Final = 4
"""How many words come before the places."""


def encode(
    cwd: bytes,
    paths: Sequence[bytes],
    argv: Sequence[bytes],
    env: Mapping[bytes, bytes],
    umask: int,
) -> bytes:
    """Return a program as one piece.

    Args:
        cwd: Where it works, and what relative paths are relative to.
        paths: Under which it is looked for, in this order.
        argv: Its arguments.
        env: Its environment.
        umask: Its file mode mask.
    """
    variables = [name + b"=" + value for name, value in env.items()]
    strings = [cwd, *paths, *argv, *variables]
    places = 8 * (len(strings) + 2)
    starts = array("Q", accumulate([len(s) + 1 for s in strings], initial=_HEAD.size + places))
    starts[-1] = 0
    starts.insert(1 + len(paths) + len(argv), 0)
    head = _HEAD.pack(len(paths), len(argv), len(variables), umask)
    return b"".join((head, starts.tobytes(), b"\0".join(strings), b"\0"))


def find_programs(name: bytes, env: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the paths under which a program is tried, as seen from the task's directory."""
    if b"/" in name:
        return [name]
    path = env.get(b"PATH")
    if path is None:
        path = os.fsencode(os.defpath)
    return [(entry + b"/" if entry else b"./") + name for entry in path.split(b":")]

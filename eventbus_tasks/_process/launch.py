"""What a host asks its warden for: a guardian, for a task.

The request says what warden and guardian have to know. The rest, such as the program and its
environment, is in a `wire.LaunchSpec` and, as the kernel takes it, in an `image`. Both travel in
one file, with a NUL byte in between, and the guardian looks at as little of it as it can: it copies
each page of memory that it writes to, and to read anything is to write next to it.

For the same reason a request is no JSON like the other messages. It travels within one program
only, from the host to the warden that it has started itself.
"""

from __future__ import annotations

import errno
import marshal
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from eventbus_tasks._process import image
from eventbus_tasks._process.ladder import Policy
from eventbus_tasks._process.marker import MARK
from eventbus_tasks._process.wire import LaunchSpec

__all__ = ["MOST", "LaunchRequest", "decode", "encode", "file_of", "image_of", "restored"]

MOST: Final = 128 * 1024
"""Bytes that no request is larger than: a policy with all the steps that it can have takes half."""

_FORMAT: Final = 4
"""Of `marshal`: all versions of Python from 3.4 on read it."""


@dataclass(slots=True)
class LaunchRequest:
    """A guardian is to be forked; nobody changes it.

    Attributes:
        task: Number under which host and warden talk about it.
        uid: The mark of its processes.
        policy: How it is ended.
        capture: ``"pipe"``, ``"file"`` or ``"pty"``.
        pty_size: Columns and lines of the terminal.
        nofile: Soft limit of open files; ``None`` for the one the warden was started with.
        rendezvous: Path of the socket at which the guardian is asked, or ``None``.
        pipes: Streams that are captured through pipes; the warden makes them.
        image: Where in the file of the specification the `image` of the program begins.
        descriptors: Which descriptors travel with the request: their places in `Descriptors`.
    """

    task: int
    uid: str
    policy: Policy
    capture: str
    pty_size: Sequence[int]
    nofile: int | None
    rendezvous: str | None
    pipes: Sequence[str]
    image: int
    descriptors: Sequence[int]


def encode(request: LaunchRequest) -> bytes:
    """Return a request as one packet.

    Raises:
        ValueError: It is too large: its policy has too many steps.
        TypeError: Something in it is neither text nor a number.
    """
    values = (
        request.task,
        request.uid,
        request.policy.plain(),
        request.capture,
        request.pty_size,
        request.nofile,
        request.rendezvous,
        request.pipes,
        request.image,
        request.descriptors,
    )
    packet = marshal.dumps(_exactly(values), _FORMAT)
    if len(packet) > MOST:
        raise ValueError("the termination policy has too many steps")
    return packet


def image_of(spec: LaunchSpec) -> bytes:
    """Return the program of a specification, which can be encoded, as it will be executed."""
    # By the names as they will be: of two that are spelt differently here the last one counts.
    env = {os.fsencode(name): os.fsencode(value) for name, value in spec.env.items()}
    env[MARK.encode()] = spec.uid.encode()
    variables = [name + b"=" + value for name, value in env.items()]
    argv = list(map(os.fsencode, spec.argv))
    programs = image.find_programs(argv[0], env.get(b"PATH"))
    return image.encode(os.fsencode(spec.cwd), programs, argv, variables, spec.umask)


def file_of(specification: bytes, program: bytes) -> int:
    """Return a file that exists nowhere else, with a specification, and its `image` if that fits.

    The limit for the size of files is for those in memory, too; without an image the program will
    be forked.

    Raises:
        OSError: There is no descriptor or no memory to be had, or the limit is lower.
    """
    descriptor = os.memfd_create("ebt-launch", os.MFD_CLOEXEC)
    try:
        _write(descriptor, specification + b"\0")
        try:
            _write(descriptor, program)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            os.ftruncate(descriptor, len(specification) + 1)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.write(descriptor, data[done:])


def _exactly(value: Any) -> Any:
    """Return a value as one of Python's own types.

    Members of enumerations are not among them, nor are numbers of other libraries; and those that
    offer their memory `marshal` would write as bytes.

    Raises:
        TypeError: It is neither text nor a number nor a sequence of those.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, (tuple, list)):
        return tuple(map(_exactly, value))
    raise TypeError(f"{value!r} cannot be sent to a warden")


def decode(packet: bytes) -> LaunchRequest:
    """Return the request in a packet of `encode`.

    Raises:
        ValueError, EOFError, TypeError: The packet is not complete.
    """
    return restored(marshal.loads(packet))


def restored(values: Sequence[Any]) -> LaunchRequest:
    """Return the request whose plain values these are."""
    request = LaunchRequest(*values)
    request.policy = Policy.from_plain(request.policy)  # type: ignore[arg-type]
    return request

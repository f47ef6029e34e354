"""What travels to a guardian beside its specification."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from eventbus_tasks._process import linux

__all__ = ["PLACES", "Descriptors", "be_a_guardian", "close_all", "close_others", "unlock_all"]


@dataclass(slots=True)
class Descriptors:
    """What a guardian is given; it owns all of it.

    Attributes:
        control: Socket to the host.
        bell: To be rung after new output.
        spec: What to run.
        stdin: Standard input of the program.
        stdout: Log of standard output.
        host: The host's process.
        stderr: Log of standard error, where it is kept apart.
        stdout_pipe: Where standard output is read, unless the program writes the log itself.
        stdout_end: The other end of that, for the program.
        stderr_pipe: The same for standard error.
        stderr_end: The same for standard error.
        lock: The project's lock.
        end_record: The durable record.
        rendezvous: Socket at which others find the guardian.
        arrivals: Where it is noted in which order output arrives.
        warden: Socket to the warden, which all guardians share.
        board: File whose bytes are locked to share memory with the warden, which owns it.
    """

    control: int
    bell: int
    spec: int
    stdin: int
    stdout: int
    host: int
    stderr: int | None = None
    stdout_pipe: int | None = None
    stdout_end: int | None = None
    stderr_pipe: int | None = None
    stderr_end: int | None = None
    lock: int | None = None
    end_record: int | None = None
    rendezvous: int | None = None
    arrivals: int | None = None
    warden: int | None = None
    board: int | None = None

    def give_pipe(self, stream: str, pipe: int, end: int) -> None:
        """Add a pipe for a stream."""
        if stream == "stdout":
            self.stdout_pipe, self.stdout_end = pipe, end
        else:
            self.stderr_pipe, self.stderr_end = pipe, end

    def take_pipe(self, stream: str) -> tuple[int, int]:
        """Return where a stream is read, and where the program writes it.

        Raises:
            OSError: There is no pipe for it.
        """
        if stream == "stdout":
            pipe, end = self.stdout_pipe, self.stdout_end
        else:
            pipe, end = self.stderr_pipe, self.stderr_end
        if pipe is None or end is None:
            raise OSError(errno.EBADF, f"no pipe was made for {stream}")
        return pipe, end

    def numbers(self, *, but: Collection[int] = ()) -> list[int]:
        """Return every descriptor that is there, but some."""
        named = [getattr(self, name) for name in self.__slots__]
        return [number for number in named if number is not None and number not in but]


PLACES: Final = {name: place for place, name in enumerate(Descriptors.__slots__)}
"""In which order `Descriptors` takes them."""


def be_a_guardian(kept: Sequence[int]) -> None:
    """Become what every guardian is, and close every descriptor but these, which are in order.

    Raises:
        OSError: The kernel refuses that descendants without a parent become ours.
    """
    linux.become(b"ebt-guardian")
    close_others(kept)


def close_others(kept: Sequence[int]) -> None:
    """Close every descriptor but these, which are in order."""
    last = -1
    for number in kept:
        if number > last + 1:
            os.closerange(last + 1, number)
        last = number
    linux.close_from(last + 1)


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors; a negative number is none.

    Some file systems tell only then that something could not be written. Those who write hear of
    that by `os.fsync`; the number is free whatever is said.
    """
    for descriptor in descriptors:
        if descriptor >= 0:
            _close(descriptor)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise


def unlock_all(descriptors: Iterable[int]) -> None:
    """Release the locks that descriptors hold, for every copy of them, and close them."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # nothing to release there
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        _close(descriptor)

"""The standard streams of ``ebt``: there from the first write on, and honest to the last one."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Final

from eventbus_tasks import EventbusTasksError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["OutputError", "ensure_standard_streams", "give_up_unwritten"]

_READER_GONE: Final = (errno.EPIPE, errno.EIO)
"""Of a pipe, and of a terminal: not an error, and with exit codes of their own."""


class OutputError(EventbusTasksError):
    """Standard output cannot be written.

    Not an `OSError`: whoever catches those has files and directories of tasks in mind.
    """


class _Output(io.FileIO):
    """Standard output, which tells its own failures from those of any other file."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some bytes, and return how many.

        Raises:
            OutputError: They cannot be written.
            OSError: Whoever read them has gone away.
        """
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _READER_GONE:
                raise
            raise OutputError(f"the output cannot be written: {error.strerror}") from error


def ensure_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed, and let output that fails be told.

    Otherwise the next file or socket that is opened gets its number, and what is meant for a
    terminal would be written there.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    stream = sys.stdout
    if stream is sys.__stdout__ and isinstance(stream, io.TextIOWrapper):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(1, "w", closefd=False)),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )


def give_up_unwritten() -> None:
    """Let nothing be left that cannot be written: Python would exit with 120 instead of our code.

    Of standard error too: what a terminal that has gone was to be told is still in its buffer.
    """
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OutputError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)

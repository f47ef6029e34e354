"""A task at a terminal of its own: the guardian holds the other end of it.

What the program writes is read from the terminal and written to the log, never waiting for the
disk's blessing: what cannot be written is counted as lost, as with pipes. What is to be typed
comes through the same descriptor that would have become the program's standard input; its end
becomes an end of file (Ctrl-D), which a terminal has no other way to tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
from typing import Final

from eventbus_tasks._process.capture import Gap, PipeCapture

__all__ = ["Pty", "open_pty", "take_terminal"]

_READ: Final = 64 * 1024
_TYPED: Final = 4096
_TYPED_PER_TURN: Final = 16
_EOT: Final = b"\x04"
_IUTF8: Final = 0o40000
"""Erasing takes back a whole character; `termios` has no name for it before Python 3.13."""


def open_pty(columns: int, lines: int) -> tuple[int, int]:
    """Return both ends of a new terminal: ours, and the program's.

    Raises:
        OSError: There is none to be had.
    """
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise OSError(error.errno, f"no terminal to be had: {error.strerror}") from error
    try:
        attributes = termios.tcgetattr(slave)
        attributes[0] |= _IUTF8
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        _set_size(slave, columns, lines)
    except (OSError, termios.error):
        os.close(master)
        os.close(slave)
        raise
    return master, slave


def take_terminal(descriptor: int) -> None:
    """Make a terminal the controlling one of this session, whose leader we are.

    Raises:
        OSError: It belongs to another session.
    """
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def _set_size(terminal: int, columns: int, lines: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


class Pty(PipeCapture):
    """Captures what is written to a terminal, and types what there is to be typed."""

    def __init__(
        self,
        stream: str,
        ends: tuple[int, int],
        source: int,
        log: int,
        bell: int,
        gap: Gap,
        *,
        keep: int | None = None,
    ) -> None:
        """Take over both ends of a terminal, and where its input comes from.

        The program's end stays open until `hang_up`: without it, a program that closes its
        terminal for a moment would look like the end of the output.
        """
        master, self._slave = ends
        super().__init__(stream, master, log, bell, gap, keep=keep)
        self._can_splice = False
        self._capacity = 1  # a terminal gives out its bytes in small pieces: there may be more
        self._source = source
        self._typing = b""
        self._line_begun = False
        self._hurry = False
        self._poll = select.epoll()
        self._poll.register(master, select.EPOLLIN)
        self._waits_to_type = False
        self._source_is_file = False
        try:
            os.set_blocking(source, False)
            self._poll.register(source, select.EPOLLIN)
        except PermissionError:
            self._source_is_file = True
            self._hurry = True
        self._waits_for_source = not self._source_is_file

    # -- what the guardian asks ------------------------------------------------------------------

    def poll_fd(self, now: float) -> int | None:
        """Return one descriptor for the terminal and for what is to be typed."""
        return None if self._eof else self._poll.fileno()

    def deadline(self) -> float | None:
        """Return when to go on without waiting for anything."""
        return 0.0 if self._hurry and not self._eof else super().deadline()

    def move(self, now: float) -> bool:
        """Type what there is to be typed, and take what was written."""
        if not self._eof:
            self._type()
        return super().move(now)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size; the kernel tells the program (SIGWINCH)."""
        if self._slave >= 0:
            with contextlib.suppress(OSError):
                _set_size(self._slave, columns, lines)

    def hang_up(self) -> None:
        """Nobody of the family is left: what is written already is the rest."""
        self._stop_typing()
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1

    def close(self) -> None:
        """Report what is lost and not reported yet, and close everything."""
        self.hang_up()
        super().close()
        self._poll.close()

    # -- output ----------------------------------------------------------------------------------

    def _write(self) -> int:
        data = self._take()
        return self._put(data) if data else 0

    def _take(self) -> bytes:
        """Read a piece; nothing at the end.

        Raises:
            BlockingIOError: There is nothing now.
        """
        try:
            return os.read(self._pipe, _READ)
        except BlockingIOError:
            raise
        except OSError:  # EIO: nobody has the other end any more
            return b""

    def _discard(self) -> bool:
        try:
            data = self._take()
        except BlockingIOError:
            return False
        if not data:
            self._end()
            return False
        self._lose(len(data))
        return True

    def _grow(self) -> None:
        """Nothing: the kernel decides how much a terminal holds."""

    # -- input -----------------------------------------------------------------------------------

    def _type(self) -> None:
        """Type as much as the terminal takes, but not for ever."""
        self._hurry = False
        for _ in range(_TYPED_PER_TURN):
            if self._typing:
                try:
                    self._typing = self._typing[os.write(self._pipe, self._typing) :]
                except BlockingIOError:
                    break
                except OSError:
                    self._stop_typing()
            elif self._source < 0:
                break
            else:
                try:
                    self._take_typing(os.read(self._source, _TYPED))
                except BlockingIOError:
                    break
        else:
            self._hurry = True
        self._wait_for_what_is_missing()

    def _take_typing(self, data: bytes) -> None:
        if data:
            self._typing = data
            self._line_begun = data[-1:] not in (b"\n", b"\r")
        else:
            self._stop_typing()
            # The first one only hands over a line that was begun.
            self._typing = self._end_of_file() * (1 + self._line_begun)

    def _end_of_file(self) -> bytes:
        try:
            attributes = termios.tcgetattr(self._slave)
        except termios.error:
            return _EOT
        character = attributes[6][termios.VEOF]
        return character if attributes[3] & termios.ICANON and character != b"\0" else _EOT

    def _stop_typing(self) -> None:
        self._typing = b""
        if self._source >= 0:
            self._wait_for_source(False)
            os.close(self._source)
            self._source = -1

    def _wait_for_what_is_missing(self) -> None:
        self._wait_for_source(self._source >= 0 and not self._typing)
        if self._waits_to_type != bool(self._typing):
            self._waits_to_type = bool(self._typing)
            mask = select.EPOLLIN | (select.EPOLLOUT if self._typing else 0)
            self._poll.modify(self._pipe, mask)

    def _wait_for_source(self, wanted: bool) -> None:
        # Not only a mask of nothing: a pipe that was closed would be reported all the same.
        if self._source_is_file or wanted == self._waits_for_source:
            return
        self._waits_for_source = wanted
        if wanted:
            self._poll.register(self._source, select.EPOLLIN)
        else:
            self._poll.unregister(self._source)

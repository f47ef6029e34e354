"""Sending packets without ever waiting for the reader."""

from __future__ import annotations

import errno
import socket
from collections import deque

__all__ = ["Outbox"]


_LATER = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR))


class Outbox:
    """A packet socket with a queue for what it does not take at once; true while one waits."""

    def __init__(self, connection: socket.socket) -> None:
        """Send over a connected, non-blocking packet socket."""
        self._connection = connection
        self._queue: deque[bytes] = deque()

    def __bool__(self) -> bool:
        """Whether packets wait to be sent."""
        return bool(self._queue)

    def send(self, packet: bytes) -> None:
        """Send a packet, after all that wait already."""
        self._queue.append(packet)
        self.flush()

    def flush(self) -> bool:
        """Send what the socket takes and return whether that was anything.

        When the reader has gone the queue is dropped: its end shows on the reading side.
        """
        moved = False
        while self._queue:
            try:
                self._connection.send(self._queue[0])
            except OSError as error:
                if error.errno in _LATER:
                    break
                if error.errno != errno.EMSGSIZE:
                    self._queue.clear()
                    break
            self._queue.popleft()
            moved = True
        return moved

    def discard(self) -> None:
        """Forget what waits."""
        self._queue.clear()

"""Sending packets without ever waiting for the reader."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Sequence

from eventbus_tasks._process.descriptors import close_all

__all__ = ["Outbox"]


_LATER = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EINTR))


class Outbox:
    """A packet socket with a queue for what it does not take at once; true while one waits."""

    def __init__(self, connection: socket.socket) -> None:
        """Send over a connected, non-blocking packet socket."""
        self._connection = connection
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()

    def __bool__(self) -> bool:
        """Whether packets wait to be sent."""
        return bool(self._queue)

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a packet, after all that wait already.

        Args:
            packet: The packet.
            descriptors: Travel with it, and are closed here.
        """
        self._queue.append((packet, descriptors))
        self.flush()

    def flush(self) -> bool:
        """Send what the socket takes and return whether that was anything.

        When the reader has gone the queue is dropped: its end shows on the reading side.
        """
        moved = False
        while self._queue:
            packet, descriptors = self._queue[0]
            try:
                if descriptors:
                    socket.send_fds(self._connection, [packet], descriptors)
                else:
                    self._connection.send(packet)
            except OSError as error:
                if error.errno in _LATER:
                    break
                if error.errno != errno.EMSGSIZE:
                    self.discard()
                    break
            self._forget()
            moved = True
        return moved

    def discard(self) -> None:
        """Forget what waits."""
        while self._queue:
            self._forget()

    def _forget(self) -> None:
        close_all(self._queue.popleft()[1])

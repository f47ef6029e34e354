"""Sending packets without ever waiting for the reader."""

from __future__ import annotations

import _socket
import array
import errno
import socket
from collections import deque
from collections.abc import Sequence

from eventbus_tasks._process.descriptors import close_all

__all__ = ["Outbox"]


_LATER = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EINTR))


class Outbox:
    """A packet socket with a queue for what it does not take at once.

    Attributes:
        queue: What waits: packets, and the descriptors that travel with them.
    """

    def __init__(self, connection: _socket.socket) -> None:
        """Send over a connected, non-blocking packet socket."""
        self._connection = connection
        self.queue: deque[tuple[bytes, Sequence[int]]] = deque()

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a packet, after all that wait already.

        Args:
            packet: The packet.
            descriptors: Travel with it, and are closed here.
        """
        if not self.queue and not descriptors:
            try:
                self._connection.send(packet)
            except OSError:
                pass  # `flush` meets it, too
            else:
                return
        self.queue.append((packet, descriptors))
        self.flush()

    def flush(self) -> bool:
        """Send what the socket takes and return whether that was anything.

        When the reader has gone the queue is dropped: its end shows on the reading side.
        """
        moved = False
        while self.queue:
            packet, descriptors = self.queue[0]
            try:
                if descriptors:
                    rights = array.array("i", descriptors)
                    travelling = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                    self._connection.sendmsg([packet], travelling)
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
        while self.queue:
            self._forget()

    def _forget(self) -> None:
        close_all(self.queue.popleft()[1])

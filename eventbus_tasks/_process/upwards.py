"""What a guardian says to the warden from which it was forked, by a socket that all share."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Final

__all__ = ["WardenLink", "receive"]

_PACKET: Final = 1024


class WardenLink:
    """The guardian's end. Nothing here waits."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor."""
        self._descriptor = descriptor
        self._socket: socket.socket | None = None

    def entrust(self, stream: str, pipe: int) -> bool:
        """Give the warden a copy of a pipe in which bytes of a stream may be.

        Returns:
            Whether it has it.
        """
        return self._send(stream, [pipe])

    def announce_ladder(self) -> bool:
        """Tell the warden that a ladder has begun: it looks after it from now on.

        Returns:
            Whether it knows.
        """
        return self._send("", [])

    def _send(self, stream: str, descriptors: Sequence[int]) -> bool:
        if self._socket is None:
            # Most guardians never say anything, and need no object for that.
            self._socket = socket.socket(fileno=self._descriptor)
        packet = json.dumps([os.getpid(), stream]).encode()
        try:
            socket.send_fds(self._socket, [packet], descriptors)
        except OSError:
            return False
        return True


def receive(connection: socket.socket) -> tuple[int, str, list[int]] | None:
    """Take the next message at the warden's end, if there is one.

    Returns:
        Number of the guardian, stream, pipe; without those two it has begun a ladder.
    """
    try:
        data, pipes, _, _ = socket.recv_fds(connection, _PACKET, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    pid, stream = json.loads(data)
    return pid, stream, pipes

"""What a guardian says to the warden from which it was forked, by a socket that all share."""

from __future__ import annotations

import json
import os
import socket
from typing import Final

__all__ = ["WardenLink", "receive"]

_PACKET: Final = 1024


class WardenLink:
    """The guardian's end. Nothing here waits."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor."""
        self._socket = socket.socket(fileno=descriptor)

    def entrust(self, stream: str, pipe: int) -> bool:
        """Give the warden a copy of a pipe in which bytes of a stream may be.

        Returns:
            Whether it has it.
        """
        try:
            socket.send_fds(self._socket, [json.dumps([os.getpid(), stream]).encode()], [pipe])
        except OSError:
            return False
        return True


def receive(connection: socket.socket) -> tuple[int, str, int] | None:
    """Take the next message at the warden's end: number of the guardian, stream, pipe."""
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, _PACKET, 1, socket.MSG_CMSG_CLOEXEC)
        (pipe,) = descriptors
        pid, stream = json.loads(data)
    except (OSError, ValueError):
        return None  # nothing there, or the pipe got lost on its way
    return pid, stream, pipe

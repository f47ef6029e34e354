"""What a guardian said arrives, although it went with requests unread."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from eventbus_tasks._process import wire
from eventbus_tasks._process.handle import GuardianLink


def test_last_words_survive_a_reset() -> None:
    """A reset by unread requests loses none of the messages that were sent before it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    link = GuardianLink(1, ours, os.eventfd(0), ["true"])
    try:
        theirs.send(wire.encode(wire.LeaderExited(return_code=7, at=1.0)))
        link.stop("cancelled")
        theirs.close()
        (message,) = link.poll()
    finally:
        link.close()
    assert isinstance(message, wire.LeaderExited)
    assert message.return_code == 7


def test_kernel_tells_the_reset_first() -> None:
    """The kernel reports the reset before the packets: the reason for the test above."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        theirs.send(b"last words")
        ours.send(b"unread")
        theirs.close()
        with pytest.raises(OSError, match="reset") as caught:
            ours.recv(100)
        assert caught.value.errno == errno.ECONNRESET
        assert ours.recv(100) == b"last words"

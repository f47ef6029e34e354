"""Waking a coroutine from any thread, on any event loop."""

from __future__ import annotations

import contextlib
import socket

import anyio

__all__ = ["Waker"]


class Waker:
    """A bell: `ring` from anywhere, `wait` in one coroutine at a time.

    A socket pair, because watching a descriptor is what every event loop can do.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def ring(self) -> None:
        """Wake whoever waits, now or next. From any thread; never blocks."""
        with contextlib.suppress(OSError):  # full is as good as rung; closed has nobody to wake
            self._writer.send(b"\0")

    async def wait(self, seconds: float | None = None) -> None:
        """Return when the bell has been rung since the last time, or after so many seconds.

        Cancellation: loses no ring.
        """
        with anyio.move_on_after(float("inf") if seconds is None else max(0.0, seconds)):
            await anyio.wait_readable(self._reader)
        with contextlib.suppress(BlockingIOError):
            while len(self._reader.recv(4096)) == 4096:
                pass

    def close(self) -> None:
        """Give the descriptors back. Nobody may be waiting."""
        self._reader.close()
        self._writer.close()

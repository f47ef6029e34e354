"""Writing to a descriptor whose reader may be slow, stopped, or gone."""

from __future__ import annotations

import os
import threading
from typing import Final

import anyio
import anyio.lowlevel

__all__ = ["Outlet", "OutletError"]

_ENOUGH: Final = 1024 * 1024
"""Bytes that may wait for the reader; whoever writes more waits with them."""

_TURN: Final = 64 * 1024
"""Bytes after which others on the event loop get their turn."""


class OutletError(Exception):
    """The descriptor cannot be written to.

    Attributes:
        cause: What the system says.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


class Outlet:
    """Writes in a thread of its own, so that a reader who stops reading stops nothing else.

    The descriptor is not made non-blocking: others share it. The thread is a daemon: one that
    is stuck in a write does not keep the program from ending.

    Args:
        descriptor: Where to write; it stays open.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._in_flight = 0
        self._this_turn = 0
        self._closed = False
        self._changed = threading.Condition()
        self._error: OSError | None = None
        self._progress = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._broken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._work, name="ebt output", daemon=True)
        self._thread.start()

    async def write(self, data: bytes) -> None:
        """Hand over some bytes; waits only if a lot of them are not written yet.

        Not every call is a checkpoint: small pieces are cheap.

        Raises:
            OutletError: Nothing can be written any more.

        Cancellation: the bytes are handed over all the same.
        """
        self.put(data)
        self._this_turn += len(data)
        if self._this_turn >= _TURN or self._error is not None:
            self._this_turn = 0
            await self._wait_below(_ENOUGH)

    def put(self, data: bytes) -> None:
        """Hand over a few bytes, without ever waiting. May be called from any thread."""
        with self._changed:
            if self._error is None:
                self._waiting += data
                self._changed.notify()

    @property
    def is_idle(self) -> bool:
        """Whether everything is written."""
        return not self._waiting and not self._in_flight

    async def flush(self) -> None:
        """Wait until everything is written.

        Raises:
            OutletError: Nothing can be written any more.
        """
        await self._wait_below(1)

    async def wait_broken(self) -> OSError:
        """Wait until nothing can be written any more, and say why. For one waiter."""
        await anyio.wait_readable(self._broken)
        assert self._error is not None
        return self._error

    def close(self) -> None:
        """Let the thread end once it has written what is waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    async def _wait_below(self, limit: int) -> None:
        while self._error is None and len(self._waiting) + self._in_flight >= limit:
            await anyio.wait_readable(self._progress)
            try:
                os.eventfd_read(self._progress)
            except BlockingIOError:
                continue
        if self._error is not None:
            raise OutletError(self._error)
        await anyio.lowlevel.checkpoint()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                data = memoryview(bytes(self._waiting))
                self._waiting.clear()
                self._in_flight = len(data)
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError as error:
                self._error = error
                os.eventfd_write(self._broken, 1)
            self._in_flight = 0
            os.eventfd_write(self._progress, 1)
            if self._error is not None:
                return

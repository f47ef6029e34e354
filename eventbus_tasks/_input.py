"""Standard input that stays open: bytes go to a running program for as long as it wants some."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel

from eventbus_tasks.errors import InputClosedError

__all__ = ["TaskInput"]

LOOK: Final = 0.25
"""Seconds between two looks at a full pipe that nobody has reported to be writable: not every
event loop tells that the reader has gone."""


class TaskInput:
    """The write end of a task's standard input. Belongs to the loop of its engine."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._decided = anyio.Event()  # open, or never to be
        self._turn = anyio.Lock()
        self._why = "the task has not been started"
        self.resize: Callable[[int, int], None] | None = None  # of its terminal, if it has one
        _open.add(self)

    def open(self, descriptor: int) -> None:
        """Take over the write end of the pipe."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._decided.set()

    async def decided(self) -> None:
        """Wait until it is known whether it is open: until the task is started, or has ended."""
        if not self._decided.is_set():
            await self._decided.wait()

    async def send(self, data: bytes) -> None:
        """Write bytes, when the task has been started, and wait until the pipe has taken them.

        Raises:
            InputClosedError: It is not open, or not any more, or nobody reads it.
        """
        await self.drain(bytearray(data))

    async def drain(self, data: bytearray) -> None:
        """Do what `send` does, taking away from the beginning of `data` what was written.

        Cancellation: what is left in `data` was not written.

        Raises:
            InputClosedError: It is not open, or not any more, or nobody reads it.
        """
        await self.decided()
        async with self._turn:  # what one call sends is not mixed with what others do
            while True:
                if self._descriptor < 0:
                    raise InputClosedError(self._why)
                if not data:
                    break
                try:
                    # The beginning of an array of bytes goes without the rest being moved.
                    del data[: os.write(self._descriptor, data)]
                except BlockingIOError:
                    await self._wait()
                except OSError as error:
                    self.shut(f"nobody reads it any more: {error.strerror}")
        await anyio.lowlevel.checkpoint()

    async def _wait(self) -> None:
        with (
            anyio.move_on_after(LOOK),
            contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, OSError),
        ):
            await anyio.wait_writable(self._descriptor)

    async def close(self) -> None:
        """Let the task read the end of its input, behind everything that is being sent."""
        await self._decided.wait()
        async with self._turn:
            self.shut("it was closed")

    def shut(self, why: str) -> None:
        """Close it at once, and say why to whoever sends something from now on."""
        if self._descriptor >= 0 or not self._decided.is_set():
            self._why = why
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            # The loop may have gone, and with it whoever waits.
            with contextlib.suppress(RuntimeError, LookupError):
                anyio.notify_closing(descriptor)
            os.close(descriptor)
        self._decided.set()


_open: Final[weakref.WeakSet[TaskInput]] = weakref.WeakSet()


def _close_in_fork() -> None:
    """A forked copy of the host must not keep the input of a task open."""
    for one in list(_open):
        if one._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(one._descriptor)
            one._descriptor = -1


os.register_at_fork(after_in_child=_close_in_fork)

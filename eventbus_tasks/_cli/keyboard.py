"""``ebt run -i``: hands the terminal of whoever has called us over to the task."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import time
import tty
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.abc

from eventbus_tasks import InputClosedError

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from eventbus_tasks import Task

__all__ = ["ESCAPE", "Keyboard", "window_size"]

ESCAPE: Final = b"\x1d"
"""Ctrl-]: three times within a second stops the task, whatever it makes of its keys."""

_TIMES: Final = 3
_WITHIN: Final = 1.0
_AHEAD: Final = 1024
"""Pieces that are kept for a program that does not read; what is typed beyond that is lost."""

_CALM: Final = b"\x1b[?1049l\x1b>\x1b[0m" + b"".join(
    b"\x1b[?%d%c" % (mode, b"h"[0] if mode == 25 else b"l"[0])
    for mode in (1, 25, 1000, 1002, 1003, 1006, 2004)
)
"""What a program takes back by itself if it is not killed: second screen, hidden cursor, keypad,
marked pastes, the mouse, colours."""


class Keyboard:
    """The local terminal, in the hands of a task that has one of its own.

    Used as an async context manager; the terminal is as before when the block is left, however.

    Args:
        task: Gets the keys, and the size of the window.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._before: list[Any] | None = None
        self._begun = False
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        """Be ready; nothing is changed before `begin`."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Give the terminal back."""
        self._group.cancel_scope.cancel()
        try:
            return await self._group.__aexit__(exc_type, exc, traceback)
        finally:
            # Not before nobody reads keys any more: a line that is not complete is none to read.
            self._restore()

    def begin(self) -> None:
        """Hand the terminal over: the program runs. Only the first call counts."""
        if self._begun:
            return
        self._begun = True
        with contextlib.suppress(termios.error):  # it is gone: a signal says so
            self._before = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)
        keys, typed = anyio.create_memory_object_stream[bytes](_AHEAD)
        self._group.start_soon(self._read_keys, keys)
        self._group.start_soon(self._send_keys, typed)
        self._group.start_soon(self._follow_size)

    def _restore(self) -> None:
        before, self._before = self._before, None
        if before is None:
            return
        outcome = self._task.outcome
        with contextlib.suppress(termios.error, OSError):
            if outcome is None or outcome.return_code is None or outcome.return_code < 0:
                os.write(1, _CALM)
            termios.tcsetattr(0, termios.TCSANOW, before)

    async def _read_keys(self, keys: MemoryObjectSendStream[bytes]) -> None:
        escapes: list[float] = []
        with keys:
            while True:
                await anyio.wait_readable(0)
                if not select.select((0,), (), (), 0)[0]:
                    continue  # gone since; a read would hold up everything
                try:
                    data = os.read(0, 4096)
                except BlockingIOError:
                    continue
                except OSError:
                    return
                if not data:
                    return
                for key in data:
                    escapes = [*escapes, time.monotonic()] if key == ESCAPE[0] else []
                    if len(escapes) >= _TIMES and escapes[-1] - escapes[-_TIMES] <= _WITHIN:
                        self._task.cancel_nowait()
                with contextlib.suppress(anyio.WouldBlock, anyio.BrokenResourceError):
                    keys.send_nowait(data)

    async def _send_keys(self, typed: MemoryObjectReceiveStream[bytes]) -> None:
        with contextlib.suppress(InputClosedError), typed:
            async for data in typed:
                await self._task.send(data)
            await self._task.close_input()

    async def _follow_size(self) -> None:
        with anyio.open_signal_receiver(signal.SIGWINCH) as resized:
            self._pass_on_size()
            async for _ in resized:
                self._pass_on_size()

    def _pass_on_size(self) -> None:
        size = window_size()
        if size is not None:
            self._task.resize(*size)


def window_size() -> tuple[int, int] | None:
    """Return columns and lines of the local terminal, if there is one and it says so."""
    for descriptor in (1, 2, 0):
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(descriptor)
            if columns and lines:
                return columns, lines
    return None

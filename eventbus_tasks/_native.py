"""Living through what may come at any moment: native cancellation, and Ctrl-C in foreign code.

On asyncio anybody may call ``Task.cancel`` on any task, and `asyncio.run` does so with every task
when its main function returns. No shield of anyio holds that back. Code that must not be
interrupted catches it, takes it back, and goes on.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

__all__ = ["absorb", "endure", "redeliver"]

T = TypeVar("T")


def absorb() -> None:
    """Take back a native cancellation that was just caught, so that later scopes work again.

    Must only be called within a shielded scope: there, a cancellation can only be a native one.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return
    try:
        task = asyncio.current_task()
    except RuntimeError:  # on trio, where nothing native can happen
        return
    while task is not None and task.cancelling():
        task.uncancel()


async def endure(wait: Callable[[], Awaitable[T]]) -> T:
    """Await something again and again until it was not interrupted; within a shielded scope.

    Args:
        wait: Begins to wait anew each time; must lose nothing when it is interrupted.
    """
    while True:
        try:
            return await wait()
        except anyio.get_cancelled_exc_class():
            absorb()


def redeliver(error: BaseException) -> None:
    """Pass on a Ctrl-C that happened to arrive in foreign code: it belongs to the program."""
    if isinstance(error, KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)

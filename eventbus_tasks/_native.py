"""Living through what may come at any moment: native cancellation, and Ctrl-C in foreign code.

On asyncio anybody may call ``Task.cancel`` on any task, and `asyncio.run` does so with every task
when its main function returns. No shield of anyio holds that back. Code that must not be
interrupted catches it, takes it back, and goes on.

Trio raises a Ctrl-C in whatever code happens to run. In a task of the engine it would end what
others wait for, so there it is passed on to the program's main task.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

import anyio

__all__ = [
    "absorb",
    "endure",
    "error_text",
    "loop_caller",
    "redeliver",
    "undisturbed",
    "wait_at_most",
]

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


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


def error_text(error: BaseException) -> str:
    """Return the type and the words of an error of foreign code, which may fail to find them."""
    with contextlib.suppress(Exception):
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__}, which cannot say what it is"


def undisturbed(
    function: Callable[[*Arguments], Coroutine[Any, Any, object]],
) -> Callable[[*Arguments], Coroutine[Any, Any, object]]:
    """Return the function of an engine's own task in such a form that trio raises no Ctrl-C in it.

    The main task of the program gets it instead, as soon as it has its turn. On asyncio there is
    nothing to do: its runner cancels the main task.

    Args:
        function: An async function, to be started in a task group.
    """
    trio = sys.modules.get("trio")
    if trio is None:
        return function

    async def protected(*arguments: *Arguments) -> None:
        await function(*arguments)

    # It marks the code of this frame; trio looks for the nearest mark above the interrupted one.
    guarded: Callable[[*Arguments], Coroutine[Any, Any, object]]
    guarded = trio.lowlevel.enable_ki_protection(protected)
    return guarded


def loop_caller() -> Callable[[Callable[[], object]], object]:
    """Return what has a function called soon in this event loop, from any thread.

    It raises `RuntimeError` once the loop is closed. A descriptor of its own for each thing that
    is waited for would cost several times as much.
    """
    trio = sys.modules.get("trio")
    caller: Callable[[Callable[[], object]], object]
    if trio is not None and trio.lowlevel.in_trio_task():
        caller = trio.lowlevel.current_trio_token().run_sync_soon
    else:
        caller = sys.modules["asyncio"].get_running_loop().call_soon_threadsafe
    return caller


async def wait_at_most(seconds: float, event: anyio.Event) -> None:
    """Wait until an event is set, or the time is over; then it may have been set by that.

    For what is done hundreds of times a second: on asyncio a timer costs a tenth of a scope.
    """
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        with anyio.move_on_after(seconds):
            await event.wait()
        return
    loop = sys.modules["asyncio"].get_running_loop()
    timer = loop.call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()

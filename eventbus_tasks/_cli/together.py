"""Waiting for several things at a time, in a command that Ctrl-C still ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["run_together"]

T = TypeVar("T")


def run_together(functions: Sequence[Callable[[], T]]) -> list[T]:
    """Call functions that block, each in a thread, and return their results in order.

    The threads do not keep the program alive: an interrupt ends it at once.

    Raises:
        Exception: What the first of them has raised.
    """
    results: list[list[T]] = [[] for _ in functions]
    errors: list[Exception] = []

    def call(number: int) -> None:
        try:
            results[number].append(functions[number]())
        except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(error)

    threads = [
        threading.Thread(target=call, args=(number,), daemon=True)
        for number in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [result[0] for result in results]

"""`leak_guard`: whatever a test begins it also ends, or it fails and says what is left."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Belongings", "LeakError", "leak_guard"]

POOL_THREADS: Final = ("AnyIO worker thread", "Trio thread")
"""Beginnings of the names of threads that event loops keep for the next call."""


class LeakError(AssertionError):
    """Something was left behind.

    Attributes:
        left: What, by kind (``processes``, ``descriptors``, ``threads``), readable.
    """

    def __init__(self, left: dict[str, list[str]]) -> None:
        super().__init__(left)
        self.left = left

    def __str__(self) -> str:
        kinds = [f"{kind}: {', '.join(items)}" for kind, items in self.left.items()]
        return "left behind: " + "; ".join(kinds)


@dataclass(frozen=True, slots=True)
class Belongings:
    """What this process has right now.

    Attributes:
        processes: Children of all threads, zombies included: number and command line.
        descriptors: Open descriptors: number and what it is.
        threads: Threads, but for those that event loops keep in reserve.
    """

    processes: frozenset[str]
    descriptors: frozenset[str]
    threads: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        """Take stock."""
        return cls(
            processes=frozenset(_processes()),
            descriptors=frozenset(_descriptors()),
            threads=frozenset(
                f"{thread.ident} {thread.name}"
                for thread in threading.enumerate()
                if not thread.name.startswith(POOL_THREADS)
            ),
        )

    def new_since(self, before: Belongings) -> dict[str, list[str]]:
        """Return what is there now and was not there before, by kind; empty if nothing."""
        found = {
            "processes": self.processes - before.processes,
            "descriptors": self.descriptors - before.descriptors,
            "threads": self.threads - before.threads,
        }
        return {kind: sorted(items) for kind, items in found.items() if items}


def _processes() -> Iterator[str]:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # that thread has just ended
            for pid in Path(f"/proc/self/task/{thread}/children").read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                yield f"{pid} {command.decode(errors='replace').strip()[:200] or '(zombie)'}"


def _descriptors() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the directory
            yield f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}"


@contextlib.contextmanager
def leak_guard(timeout: float = 5.0) -> Iterator[Belongings]:
    """Check that the block leaves no child, descriptor or thread behind.

    Args:
        timeout: Seconds that something may take to go after the block has ended.

    Raises:
        LeakError: Says what is left. Not raised over an exception of the block itself.
    """
    before = Belongings.now()
    yield before
    deadline = time.monotonic() + timeout
    pause = 0.001
    while left := Belongings.now().new_since(before):
        if time.monotonic() > deadline:
            raise LeakError(left)
        # Again each time: what a frame that is just ending still holds, is free a moment later.
        gc.collect()
        time.sleep(pause)
        pause = min(2 * pause, 0.25)

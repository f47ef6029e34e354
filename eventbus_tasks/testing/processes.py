"""Who a process is, for tests: by number and start time, so that nobody is mistaken."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Identity", "living", "wait_until_gone"]


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """One process, for ever: a number alone may pass to another one.

    Attributes:
        pid: Its number.
        start_time: Clock ticks between the start of the system and its own.
    """

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Return who has this number now.

        Raises:
            ProcessLookupError: Nobody.
        """
        fields = _stat(pid)
        if fields is None:
            raise ProcessLookupError(f"there is no process {pid}")
        return cls(pid, int(fields[19]))

    @property
    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[19]) == self.start_time and fields[0] not in "ZX"

    @property
    def parent(self) -> int | None:
        """Number of its parent, or ``None`` when it is gone."""
        fields = _stat(self.pid)
        if fields is None or int(fields[19]) != self.start_time:
            return None
        return int(fields[1])

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped by a signal."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[19]) == self.start_time and fields[0] == "T"

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, if it is still there."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in brackets may hold brackets itself: only the last one counts.
    return text.rpartition(b")")[2].decode().split()


def living(who: Iterable[Identity]) -> tuple[Identity, ...]:
    """Return those that still run."""
    return tuple(identity for identity in who if identity.is_alive)


def wait_until_gone(who: Iterable[Identity], timeout: float = 10.0) -> None:
    """Wait until none of them runs any more; blocks.

    Args:
        who: The processes.
        timeout: Seconds after which somebody is taken for left behind.

    Raises:
        AssertionError: Names those that are still there.
    """
    everybody = tuple(who)
    deadline = time.monotonic() + timeout
    while left := living(everybody):
        if time.monotonic() > deadline:
            raise AssertionError(f"still alive after {timeout:g} s: {left}")
        time.sleep(0.002)

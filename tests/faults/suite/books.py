"""Projects of a scene, and the books that the processes in them keep about themselves."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["PATIENCE", "Book", "Member", "Project", "is_alive", "stat_of", "until_true"]

PATIENCE: Final = 60.0
"""Seconds until something that does not come is given up; nothing is ever measured by it."""

Member = tuple[int, int]  # number and start time: a number alone is used again

AGENT: Final = Path(__file__).parents[1] / "programs" / "agent.py"


def stat_of(pid: int) -> list[str]:
    """Return what the kernel says about a process, from its state on; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_alive(member: Member) -> bool:
    """Whether anything of a process can still run.

    One whose main thread has ended is shown as ``Z`` while its other threads work.
    """
    fields = stat_of(member[0])
    if not fields or int(fields[19]) != member[1]:
        return False
    return fields[0] not in "ZX" or int(fields[17]) > 1


def until_true(condition: Callable[[], object], what: str = "it", limit: float = PATIENCE) -> None:
    """Look until something is true; blocks."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"{what} did not become true"
        time.sleep(0.005)


class Book:
    """What the processes of a family write down about themselves.

    Args:
        path: Directory of the book.
    """

    def __init__(self, path: Path) -> None:
        self.book = path

    @property
    def members(self) -> list[Member]:
        """Everybody who has ever worked here."""
        try:
            entries = (self.book / "members").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [tuple(map(int, entry.split())) for entry in entries]
        return [(pid, start) for pid, start in found]

    @property
    def alive(self) -> list[Member]:
        """Those who can still run."""
        return [member for member in self.members if is_alive(member)]

    @property
    def ledgers(self) -> dict[int, int]:
        """For each process that writes lines, how many it is sure to have written."""
        found = {}
        for path in self.book.glob("ledger-*"):
            with contextlib.suppress(ValueError):  # made, and not written yet
                found[int(path.name.partition("-")[2])] = int(path.read_text())
        return found


class Project(Book):
    """A directory where tasks work, and beside it the book of those who work there.

    Args:
        scene: Directory of the scene.
        name: Its name there.
    """

    def __init__(self, scene: Path, name: str) -> None:
        super().__init__(scene / "books" / name)
        self.name = name
        self.directory = scene / "projects" / name
        if not self.book.exists():
            self.directory.mkdir(parents=True)
            self.book.mkdir(parents=True)

    @classmethod
    def all(cls, scene: Path) -> list[Project]:
        """Return every project of a scene."""
        books = scene / "books"
        return [cls(scene, path.name) for path in books.iterdir()] if books.exists() else []

    def argv(self, code: str) -> list[str]:
        """Return the command of an agent that executes `code`; see ``programs/agent.py``."""
        return [sys.executable, "-I", "-S", str(AGENT), str(self.book), code]

    def flag(self, name: str) -> None:
        """Make a flag that an agent waits for."""
        (self.book / name).touch()

    def has(self, name: str) -> bool:
        """Whether an agent has made a flag."""
        return (self.book / name).exists()

    def text(self, name: str) -> str:
        """Return what an agent has written into a flag."""
        return (self.book / name).read_text()

    def is_free(self) -> bool:
        """Whether the lock can be taken; if so, nobody of the family may be alive."""
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return True  # the scene has removed it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alive = self.alive
            assert not alive, f"{self.name} is free while {alive} live"
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

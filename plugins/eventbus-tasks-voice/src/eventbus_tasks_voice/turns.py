"""Whose turn it is to speak, between all processes of a user on a machine.

The turn is the project lock of a directory: a synthesizer is a task that works in it. So it is
held by the guardian of that task, not by this process, and is free exactly when the synthesizer
and everything that it has started are gone, whatever has happened to this process meanwhile. A
speaker that hangs gives it up at its deadline, which the guardian keeps.

Should even a guardian hang (somebody has stopped it), its turn expires: those who have waited
too long for one and the same holder go on to the next directory, all to the same one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["Turns"]

_PREFIX: Final = "turn-"


class Turns:
    """The directory that stands for the turn to speak.

    Args:
        directory: Where it is made; private to the user.
        expiry: Seconds after which a holder is taken for hung.
    """

    def __init__(self, directory: Path, expiry: float) -> None:
        self._directory = directory
        self._expiry = expiry
        self._holder: tuple[Path, str] | None = None
        self._held_since = 0.0

    def current(self) -> Path:
        """Return the directory whose lock is the turn now.

        Raises:
            OSError: It cannot be made.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._make(max(self._numbers(), default=1))

    def taken_by(self, turn: Path, holder: str, now: float) -> None:
        """Note that somebody else has a turn; give up on one who has had it for too long.

        Args:
            turn: The directory.
            holder: Who has it: any word that is different for the next holder.
            now: Seconds of a clock that does not run backwards.

        Raises:
            OSError: The next directory cannot be made.
        """
        if (turn, holder) != self._holder:
            self._holder, self._held_since = (turn, holder), now
        elif now - self._held_since > self._expiry:
            # The number follows from the turn that is given up, and numbers only grow: so whoever
            # comes late to this decision changes nothing.
            self._make(int(turn.name.removeprefix(_PREFIX)) + 1)

    def _numbers(self) -> list[int]:
        found = (name.removeprefix(_PREFIX) for name in os.listdir(self._directory))
        return [int(number) for number in found if number.isdecimal()]

    def _make(self, number: int) -> Path:
        path = self._directory / f"{_PREFIX}{number}"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

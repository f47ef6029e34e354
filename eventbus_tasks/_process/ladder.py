"""The stop ladder as a pure clockwork: given the time, it says which rung is due."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import starmap
from operator import attrgetter
from typing import Any, Final

__all__ = ["KILL", "Ladder", "Policy", "Rung", "plain_rung", "rungs_of"]

KILL_EVERY: Final = 0.1
"""Seconds between two rounds of SIGKILL: forks may have slipped through the last one."""

KILL_EVERY_LATER: Final = 1.0
"""The same, once the family has been reported as unkillable."""

KILL_WAIT: Final = 5.0
"""Seconds after the first SIGKILL until those who are left are taken for unkillable."""


@dataclass(slots=True, unsafe_hash=True)
class Rung:
    """One signal, whom it goes to, and how long it may take; nobody changes it."""

    signal: int
    scope: str
    grace: float


plain_rung: Final = attrgetter(*Rung.__slots__)
"""Gives a rung as plain values, of which `Rung` makes it again."""

KILL: Final = Rung(int(signal.SIGKILL), "tree", KILL_EVERY)


@dataclass(slots=True)
class Policy:
    """A termination policy as the guardian reads it; nobody changes it."""

    rungs: tuple[Rung, ...] = (Rung(int(signal.SIGTERM), "tree", 5.0),)
    kill_wait: float = KILL_WAIT
    drain: float = 0.3
    exit_grace: float = 0.2
    after_exit: str = "kill"
    on_host_death: str = "kill"
    timeout: float | None = None
    idle_timeout: float | None = None
    max_output: int | None = None
    keep: str = "stop"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """Read a policy from its JSON form; absent keys mean the defaults above.

        Raises:
            TypeError: An unknown key.
            KeyError: A step without its parts.
        """
        values = dict(data)
        steps = values.pop("steps", None)
        if steps is not None:
            values["rungs"] = rungs_of(steps)
        return cls(**values)

    def plain(self) -> tuple[Any, ...]:
        """Return it as plain values, for `from_plain`."""
        return (
            tuple(map(plain_rung, self.rungs)),
            *[getattr(self, field.name) for field in fields(self)[1:]],
        )

    @classmethod
    def from_plain(cls, values: Sequence[Any]) -> Policy:
        """Return the policy of which these are the plain values."""
        return cls(tuple(starmap(Rung, values[0])), *values[1:])


def rungs_of(steps: Iterable[Mapping[str, Any]]) -> tuple[Rung, ...]:
    """Read rungs from their JSON form.

    Raises:
        KeyError: A step without a signal.
    """
    return tuple(
        Rung(int(step["signal"]), str(step.get("scope", "tree")), float(step.get("grace", 5.0)))
        for step in steps
    )


class Ladder:
    """Which signal is due, and when; it knows no processes and sends nothing.

    SIGKILL to the whole tree follows the last rung and is repeated until nobody asks again.

    Attributes:
        deadline: When to look again.
    """

    def __init__(self, rungs: Sequence[Rung], *, kill_wait: float, now: float) -> None:
        """Begin a ladder whose first rung is due at `now`."""
        self._rungs = deque(rungs)
        self.deadline = now
        self._kill_wait = kill_wait
        self._killing_since: float | None = None
        self._for_leader = False

    @classmethod
    def resumed(
        cls,
        rungs: Sequence[Rung],
        *,
        kill_wait: float,
        due: float,
        killing_since: float | None,
        for_leader: bool,
    ) -> Ladder:
        """Go on where another ladder was, as `standing` tells it."""
        ladder = cls(rungs, kill_wait=kill_wait, now=due)
        ladder._killing_since = killing_since
        ladder._for_leader = for_leader
        return ladder

    def standing(self) -> tuple[tuple[Rung, ...], float, float | None, bool]:
        """Return what `resumed` needs to go on: rungs, due, killing since, for the leader."""
        return tuple(self._rungs), self.deadline, self._killing_since, self._for_leader

    def advance(self, now: float) -> Rung | None:
        """Return the rung that is due, once, or ``None``."""
        if now < self.deadline:
            return None
        if self._rungs:
            rung = self._rungs.popleft()
            self.deadline = now + rung.grace
            self._for_leader = rung.scope == "leader"
            return rung
        self._for_leader = False
        if self._killing_since is None:
            self._killing_since = now
        self.deadline = now + (KILL_EVERY_LATER if self.given_up(now) else KILL_EVERY)
        return KILL

    def skip(self, now: float) -> None:
        """Do not wait out the grace of the last rung: it has reached nobody."""
        if self._killing_since is None:
            self.deadline = now

    def leader_left(self, until: float) -> None:
        """End a rung that was meant for the leader, which has ended, no later than at `until`."""
        if self._for_leader:
            self.deadline = min(self.deadline, until)

    def shorten(self, rungs: Sequence[Rung], now: float) -> None:
        """Go on with other rungs if they come to SIGKILL sooner; otherwise change nothing."""
        if self._killing_since is None and sum(r.grace for r in rungs) < self.remaining(now):
            self._rungs = deque(rungs)
            self.deadline = now

    def remaining(self, now: float) -> float:
        """Return the seconds until SIGKILL."""
        if self._killing_since is not None:
            return 0.0
        return max(0.0, self.deadline - now) + sum(rung.grace for rung in self._rungs)

    def given_up(self, now: float) -> bool:
        """Return whether SIGKILL has had its time and those who are left resist it."""
        return self._killing_since is not None and now >= self._killing_since + self._kill_wait

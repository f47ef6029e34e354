"""What guardian and warden both know of a ladder, so that each rung is climbed by one of them.

A guardian can hang in a call: its disk is frozen, or somebody has stopped it. Then the warden
climbs in its place, and for that has to know how far the guardian has come, without asking it. So
each guardian has a slot in memory that it shares with its warden: the ladder, what else decides
about it, and whether the guardian sleeps because it has nothing to do. A rung belongs to the one
who has written under the lock of the slot that it has taken it, before sending anything.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import mmap
import os
import time
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Final

from eventbus_tasks._process.ladder import Ladder, Policy, Rung, plain_rung

__all__ = ["Board", "Slot", "State"]

_SIZE: Final = 2048
_SLOTS: Final = 4096
_LENGTH: Final = 2  # bytes in which the length of a state is written
_IDLE, _TAKEN, _STATE = 0, 1, 2
_TRIES: Final = 50


@dataclass(slots=True)
class State:
    """What a slot says. Times are those of the monotonic clock, which all processes share.

    Attributes:
        rungs: What is left of the ladder; all of it while there is none.
        kill_wait: Seconds after which SIGKILL has had its time.
        exit_grace: Seconds that those get whom the leader leaves behind.
        due: When the next rung is due; ``None`` while nobody is to be stopped.
        killing_since: When SIGKILL was sent first.
        for_leader: Whether the last rung was for the leader only.
        reason: Why the task is stopped.
        leader: Number and start time of the leader, once there is one.
        stops: How many requests of the host have been heard.
        time_limit: When the task has to end.
        kills_for_host: Whether the death of the host ends the task.
        over: Whether there is nobody left to be stopped.
    """

    rungs: tuple[Rung, ...]
    kill_wait: float
    exit_grace: float
    due: float | None = None
    killing_since: float | None = None
    for_leader: bool = False
    reason: str | None = None
    leader: tuple[int, int] | None = None
    stops: int = 0
    time_limit: float | None = None
    kills_for_host: bool = False
    over: bool = False

    def take(self, ladder: Ladder) -> None:
        """Describe this ladder from now on."""
        self.rungs, self.due, self.killing_since, self.for_leader = ladder.standing()

    def ladder(self) -> Ladder | None:
        """Return the ladder that is described, if there is one."""
        if self.due is None:
            return None
        return Ladder.resumed(
            self.rungs,
            kill_wait=self.kill_wait,
            due=self.due,
            killing_since=self.killing_since,
            for_leader=self.for_leader,
        )


class Slot:
    """The part of the memory that belongs to one guardian.

    Attributes:
        memory: The whole memory.
        idle_at: Where in it is whether the guardian waits for something to do.
        taken_at: Where in it is whether the warden has climbed since the guardian last looked.
    """

    def __init__(self, memory: Any, offset: int, lock: int) -> None:
        """Use a part of a memory; `lock` is a file whose bytes are locked, or -1 for no lock."""
        self.memory = memory
        self.idle_at = offset + _IDLE
        self.taken_at = offset + _TAKEN
        self._offset = offset
        self._lock = lock
        self._held = False

    @classmethod
    def private(cls) -> Slot:
        """Return a slot of nobody else's."""
        return cls(bytearray(_SIZE), 0, -1)

    @property
    def offset(self) -> int:
        """Where it begins."""
        return self._offset

    @property
    def idle(self) -> bool:
        """Whether the guardian waits for something to do."""
        return bool(self.memory[self.idle_at])

    @idle.setter
    def idle(self, value: bool) -> None:
        self.memory[self.idle_at] = value

    @property
    def taken(self) -> bool:
        """Whether the warden has climbed since the guardian has last looked."""
        return bool(self.memory[self.taken_at])

    @taken.setter
    def taken(self, value: bool) -> None:
        self.memory[self.taken_at] = value

    def acquire(self) -> bool:
        """Take the lock, which is one byte of a file; not twice at once.

        Returns:
            ``False`` if the other one, who holds it, does not let go. It is held for microseconds;
            whoever does not let go was stopped while holding it.
        """
        if self._lock < 0:
            return True
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._offset)
            except OSError:
                time.sleep(0.001)
            else:
                self._held = True
                break
        return self._held

    def release(self) -> None:
        """Let go of the lock, if it was taken."""
        if self._held:
            self._held = False
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, self._offset)

    def locked(self) -> contextlib.AbstractContextManager[bool]:
        """Hold the lock; gives what `acquire` returns. It may be used again, not twice at once."""
        return _Locked(self)

    def read(self) -> State | None:
        """Return what is written there, if anything that can be understood."""
        start = self._offset + _STATE
        length = self.memory[start] | self.memory[start + 1] << 8
        if not length:
            return None
        start += _LENGTH
        try:
            text = bytes(self.memory[start : start + length]).decode()
            rungs, *others = ast.literal_eval(text)
            return State(tuple(starmap(Rung, rungs)), *others)
        except (ValueError, SyntaxError, TypeError):
            return None

    def write(self, state: State) -> None:
        """Replace what is written there; a state that is too long leaves nothing."""
        # As Python writes it: shorter ways to do this take memory of the C library, which is spread
        # over more pages. The other side rarely reads it.
        data = repr(
            (
                list(map(plain_rung, state.rungs)),
                state.kill_wait,
                state.exit_grace,
                state.due,
                state.killing_since,
                state.for_leader,
                state.reason,
                state.leader,
                state.stops,
                state.time_limit,
                state.kills_for_host,
                state.over,
            )
        ).encode()
        memory, start = self.memory, self._offset + _STATE
        length = len(data)
        # Whoever is killed in the middle of this leaves nothing, rather than half of it.
        memory[start] = memory[start + 1] = 0
        if length <= _SIZE - _STATE - _LENGTH:
            first = start + _LENGTH
            memory[first : first + length] = data
            memory[start + 1] = length >> 8
            memory[start] = length & 0xFF

    def introduce(self, policy: Policy, begun: float) -> None:
        """Write down how a task begins, for a guardian that has not got to it.

        Args:
            policy: Of the task.
            begun: When its guardian was made.
        """
        state = State(policy.rungs, policy.kill_wait, policy.exit_grace)
        if policy.timeout is not None:
            state.time_limit = begun + policy.timeout
        state.kills_for_host = policy.on_host_death == "kill"
        self.write(state)

    def clear(self) -> None:
        """Make it as it was before anybody has used it."""
        self.memory[self._offset : self._offset + _STATE + _LENGTH] = bytes(_STATE + _LENGTH)


class _Locked:
    """The lock of a slot is held."""

    __slots__ = ("_slot",)

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def __enter__(self) -> bool:
        return self._slot.acquire()

    def __exit__(self, *_: object) -> None:
        self._slot.release()


class Board:
    """The memory of a warden, from which guardians inherit it.

    Attributes:
        descriptor: The file that guardians need for the locks; its owner must not close it before
            them.
    """

    def __init__(self) -> None:
        """Make it; pages are used when they are written.

        Raises:
            OSError: There is no descriptor or no memory left.
        """
        # The file is empty, so that no limit of file sizes applies; it is only there to be locked.
        self.descriptor = os.memfd_create("ebt-board", os.MFD_CLOEXEC)
        self._memory = mmap.mmap(-1, _SLOTS * _SIZE)
        self._free = list(range(0, _SLOTS * _SIZE, _SIZE))[::-1]

    def take(self) -> Slot | None:
        """Return a slot for a new guardian, if there is one left."""
        if not self._free:
            return None
        slot = Slot(self._memory, self._free.pop(), self.descriptor)
        slot.clear()
        return slot

    def at(self, offset: int) -> Slot:
        """Return a slot that was taken, in a process that shares the memory."""
        return Slot(self._memory, offset, self.descriptor)

    def give_back(self, slot: Slot) -> None:
        """Take back the slot of a guardian that has gone."""
        self._free.append(slot.offset)

    def close(self) -> None:
        """Release it; slots that were taken must not be used any more."""
        self._memory.close()
        os.close(self.descriptor)

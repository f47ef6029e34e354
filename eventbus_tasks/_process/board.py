"""What guardian and warden both know of a ladder, so that each rung is climbed by one of them.

A guardian can hang in a call: its disk is frozen, or somebody has stopped it. Then the warden
climbs in its place, and for that has to know how far the guardian has come, without asking it. So
each guardian has a slot in memory that it shares with its warden: the ladder, what else decides
about it, and whether the guardian sleeps because it has nothing to do. A rung belongs to the one
who has written under the lock of the slot that it has taken it, before sending anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import struct
import time
from dataclasses import dataclass
from typing import Any, Final

from eventbus_tasks._process.ladder import Ladder, Rung

__all__ = ["Board", "Slot", "State"]

_SIZE: Final = 2048
_SLOTS: Final = 4096
_LENGTH: Final = struct.Struct("<H")
_IDLE, _TAKEN, _STATE = 0, 1, 2
_TRIES: Final = 50


@dataclass(slots=True, kw_only=True)
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
        leader: Number and start time of the leader; it has ended when there are none.
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


class _Locked:
    """One byte of a file is locked; -1 is a file that nobody else knows."""

    __slots__ = ("_file", "_held", "_offset")

    def __init__(self, file: int, offset: int) -> None:
        self._file = file
        self._offset = offset
        self._held = False

    def __enter__(self) -> bool:
        if self._file < 0:
            return True
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._offset)
            except OSError:
                time.sleep(0.001)
            else:
                self._held = True
                break
        return self._held

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._held = False
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._offset)


class Slot:
    """The part of the memory that belongs to one guardian."""

    def __init__(self, memory: Any, offset: int, lock: int) -> None:
        """Use a part of a memory; `lock` is a file whose bytes are locked, or -1 for no lock."""
        self._memory = memory
        self._offset = offset
        self._lock = lock

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
        return bool(self._memory[self._offset + _IDLE])

    @idle.setter
    def idle(self, value: bool) -> None:
        self._memory[self._offset + _IDLE] = value

    @property
    def taken(self) -> bool:
        """Whether the warden has climbed since the guardian has last looked."""
        return bool(self._memory[self._offset + _TAKEN])

    @taken.setter
    def taken(self, value: bool) -> None:
        self._memory[self._offset + _TAKEN] = value

    def flags(self) -> tuple[Any, int, int]:
        """Return where the two above are, for whoever needs them often: a memory, two places."""
        return self._memory, self._offset + _IDLE, self._offset + _TAKEN

    def locked(self) -> contextlib.AbstractContextManager[bool]:
        """Hold the lock; gives ``False`` if the other one, who holds it, does not let go.

        It is held for microseconds; whoever does not let go was stopped while holding it. What is
        returned may be used again, when the lock is not held.
        """
        return _Locked(self._lock, self._offset)

    def read(self) -> State | None:
        """Return what is written there, if anything that can be understood."""
        start = self._offset + _STATE
        (length,) = _LENGTH.unpack_from(self._memory, start)
        start += _LENGTH.size
        try:
            data = json.loads(bytes(self._memory[start : start + length]))
            data["rungs"] = tuple(Rung(*rung) for rung in data["rungs"])
            leader = data["leader"]
            data["leader"] = None if leader is None else (leader[0], leader[1])
            return State(**data)
        except (ValueError, TypeError, KeyError):
            return None

    def write(self, state: State) -> None:
        """Replace what is written there; a state that is too long leaves nothing."""
        plain = {name: getattr(state, name) for name in State.__slots__}
        plain["rungs"] = [(rung.signal, rung.scope, rung.grace) for rung in state.rungs]
        data = json.dumps(plain, separators=(",", ":")).encode()
        start = self._offset + _STATE
        if len(data) > _SIZE - _STATE - _LENGTH.size:
            data = b""
        _LENGTH.pack_into(self._memory, start, len(data))
        start += _LENGTH.size
        self._memory[start : start + len(data)] = data

    def clear(self) -> None:
        """Make it as it was before anybody has used it."""
        self._memory[self._offset : self._offset + _STATE + _LENGTH.size] = bytes(
            _STATE + _LENGTH.size
        )


class Board:
    """The memory of a warden, from which guardians inherit it."""

    def __init__(self) -> None:
        """Make it; pages are used when they are written.

        Raises:
            OSError: There is no descriptor or no memory left.
        """
        # The file is empty, so that no limit of file sizes applies; it is only there to be locked.
        self._file = os.memfd_create("ebt-board", os.MFD_CLOEXEC)
        self._memory = mmap.mmap(-1, _SLOTS * _SIZE)
        self._free = list(range(0, _SLOTS * _SIZE, _SIZE))[::-1]

    @property
    def descriptor(self) -> int:
        """The file that guardians need for the locks; its owner must not close it before them."""
        return self._file

    def take(self) -> Slot | None:
        """Return a slot for a new guardian, if there is one left."""
        if not self._free:
            return None
        slot = Slot(self._memory, self._free.pop(), self._file)
        slot.clear()
        return slot

    def give_back(self, slot: Slot) -> None:
        """Take back the slot of a guardian that has gone."""
        self._free.append(slot.offset)

    def close(self) -> None:
        """Release it; slots that were taken must not be used any more."""
        self._memory.close()
        os.close(self._file)

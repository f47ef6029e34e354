"""Whose orphans those are that guardians leave to the warden when they are killed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from eventbus_tasks._process.family import Process, states
from eventbus_tasks._process.marker import read_mark

__all__ = ["Ownership"]


class Ownership:
    """Tells the orphans of several tasks apart, as far as that is possible.

    A process belongs to the task of its parent; one that fell to the warden itself belongs to the
    task whose mark it carries. What is known of a process is kept, because one that is being
    killed shows no environment any more. An orphan without a mark may belong to any of the tasks,
    so all of them have to wait for it.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._known: dict[tuple[int, int], str] = {}

    def share(self, orphans: Sequence[Process], uids: Collection[str]) -> dict[str, list[Process]]:
        """Return for each task which of the orphans are, or may be, its own.

        Args:
            orphans: Everybody who was found, parents before their children.
            uids: The tasks in question.
        """
        shares: dict[str, list[Process]] = {uid: [] for uid in uids}
        known: dict[tuple[int, int], str] = {}
        owners: dict[int, str | None] = {}
        for process in orphans:
            key = (process.pid, process.start_time)
            owner = self._known.get(key) or owners.get(process.parent) or _mark_of(process)
            owners[process.pid] = owner
            if owner is not None:
                # Also while one task alone is in question: when there is another, it may be gone.
                known[key] = owner
            if owner in shares:
                shares[owner].append(process)
            else:
                for share in shares.values():
                    share.append(process)
        self._known = known
        return shares


def _mark_of(process: Process) -> str | None:
    # The memory of one that sleeps uninterruptibly may be locked for as long as it sleeps.
    return None if "D" in states(process.pid) else read_mark(process.pid)

"""Which task is meant on the command line: by number, name, or the beginning of its UUID."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from eventbus_tasks import EventbusTasksError, RunningTask, TaskRecord

__all__ = ["HELP", "AmbiguousTaskError", "choose"]

HELP: Final = "number or name of a task, or the beginning of its UUID"

_MIN_PREFIX: Final = 4
_MAX_CANDIDATES: Final = 10

T = TypeVar("T", RunningTask, TaskRecord)


class AmbiguousTaskError(EventbusTasksError):
    """More than one task may be meant.

    Attributes:
        wanted: What was asked for.
        candidates: A line for each of them.
    """

    def __init__(self, wanted: str, candidates: tuple[str, ...]) -> None:
        super().__init__(wanted, candidates)
        self.wanted = wanted
        self.candidates = candidates

    def __str__(self) -> str:
        more = len(self.candidates) - _MAX_CANDIDATES
        lines = [f"{self.wanted!r} may be any of {len(self.candidates)} tasks:"]
        lines += [f"  {line}" for line in self.candidates[:_MAX_CANDIDATES]]
        lines += [f"  and {more} more"] if more > 0 else []
        return "\n".join(lines)


def choose(tasks: Iterable[T], wanted: str, *, latest: bool = False) -> T | None:
    """Return the task that is meant, or ``None``.

    Upper and lower case are the same. A part of a name is enough if nothing fits better.

    Args:
        tasks: Those that may be meant, the latest first where `latest` is set.
        wanted: What was given.
        latest: Of those that fit equally well, take the first one.

    Raises:
        AmbiguousTaskError: More than one fits equally well.
    """
    word = wanted.casefold()
    exact: list[T] = []
    named: list[T] = []
    partly: list[T] = []
    for task in tasks:
        name = task.ref.name.casefold()
        if task.ref.uid == word or str(task.ref.id) == wanted:
            exact.append(task)
        elif name == word:
            named.append(task)
        elif word and (
            (len(word) >= _MIN_PREFIX and task.ref.uid.startswith(word)) or word in name
        ):
            partly.append(task)
    for group in (exact, named, partly):
        if len(group) > 1 and not latest:
            raise AmbiguousTaskError(wanted, tuple(map(_line, group)))
        if group:
            return group[0]
    return None


def choose_all(tasks: Sequence[RunningTask], words: Iterable[str]) -> list[RunningTask | str]:
    """Return the task for each word, or the word where there is none.

    Raises:
        AmbiguousTaskError: A word may mean more than one.
    """
    return [choose(tasks, word) or word for word in words]


def _line(task: RunningTask | TaskRecord) -> str:
    created = "" if task.created_at is None else f"{task.created_at:%Y-%m-%d %H:%M:%S}"
    return (
        f"{task.ref.id:>4}  {task.ref.uid[:8]}  {task.ref.name}  {created}  {task.ref.project_dir}"
    )

"""The sentences: how durations, numbers, ends and several ends at once are said in English."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from eventbus_tasks import (
    AgentInputRequired,
    Reason,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
)
from eventbus_tasks_voice.announcements import Announcement, Kind
from eventbus_tasks_voice.cleaning import speakable, spoken_name

if TYPE_CHECKING:
    from eventbus_tasks import Outcome, TaskEvent

__all__ = ["describe", "spoken_duration", "spoken_list", "spoken_number", "together"]

_SMALL: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
    *("seventeen", "eighteen", "nineteen"),
)
_TENS: Final = (
    *("", "", "twenty", "thirty", "forty", "fifty"),
    *("sixty", "seventy", "eighty", "ninety"),
)

MOST_NAMES: Final = 4
"""So many names are said in one list; more cannot be remembered by listening."""

_LONGEST_MESSAGE: Final = 80

_BECAUSE: Final[Mapping[Reason, str]] = {
    Reason.TIMED_OUT: "because it took too long",
    Reason.IDLE: "because it went quiet",
    Reason.OUTPUT_LIMIT: "because it wrote too much",
}


def spoken_number(number: int) -> str:
    """Return a number in words: ``"ten thousand two"``; in digits from a million on."""
    if number < 0 or number >= 1_000_000:
        return str(number)
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return f"{_TENS[tens]} {_SMALL[ones]}" if ones else _TENS[tens]
    size, word = (100, "hundred") if number < 1000 else (1000, "thousand")
    head, rest = divmod(number, size)
    return f"{spoken_number(head)} {word}" + (f" {spoken_number(rest)}" if rest else "")


def spoken_duration(seconds: float) -> str:
    """Return how long something took, as exactly as one wants to hear it."""
    if seconds < 1:
        return "less than a second"
    if seconds < 59.5:
        return _amount(round(seconds), "second")
    minutes = round(seconds / 60)
    if minutes < 60:
        return _amount(minutes, "minute")
    if minutes < 24 * 60:
        hours, minutes = divmod(minutes, 60)
        return _amount(hours, "hour") + (f" and {_amount(minutes, 'minute')}" if minutes else "")
    days, hours = divmod(round(minutes / 60), 24)
    return _amount(days, "day") + (f" and {_amount(hours, 'hour')}" if hours else "")


def _amount(number: int, unit: str) -> str:
    return f"{spoken_number(number)} {unit}" + ("" if number == 1 else "s")


def spoken_list(items: Sequence[str]) -> str:
    """Return ``"A"``, ``"A and B"`` or ``"A, B and C"``."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def describe(event: TaskEvent, took: float | None) -> str | None:
    """Say an event in one short sentence, or ``None`` if it is not worth one.

    Args:
        event: What has happened.
        took: Seconds that the task has run, if known.
    """
    name = spoken_name(event.task.name)
    after = "" if took is None else f" after {spoken_duration(took)}"
    match event:
        case TaskCompleted():
            return f"{name} is done{after}"
        case TaskCancelled():
            return f"{name} was cancelled{after}"
        case TaskFailed():
            return f"{name} {_failure(event.outcome, after)}"
        case AgentInputRequired(kind="permission"):
            return f"{name} needs your permission"
        case AgentInputRequired():
            return f"{name} has a question for you"
    return None


def _failure(outcome: Outcome, after: str) -> str:
    reason = outcome.reason
    if reason in _BECAUSE:
        return f"was stopped{after} {_BECAUSE[reason]}"
    if reason in (Reason.SPAWN_FAILED, Reason.PLUGIN_ERROR):
        return "could not be started"
    if reason is Reason.NO_RESULT:
        return f"ended{after} without an answer"
    if reason is Reason.AGENT_ERROR:
        # What the agent itself says is worth hearing; exit codes and signals are not.
        message = speakable(next(iter(outcome.message.splitlines()), ""), _LONGEST_MESSAGE)
        return f"failed{after}" + (f": {message}" if message else "")
    return f"failed{after}"


# The order in which several things are said, and how: for names, and for a number of tasks.
_VERBS: Final[Mapping[Kind, tuple[str, str]]] = {
    Kind.INPUT: ("needs you", "need you"),
    Kind.FAILED: ("failed", "failed"),
    Kind.CANCELLED: ("was cancelled", "were cancelled"),
    Kind.COMPLETED: ("finished", "finished"),
}


def together(announcements: Iterable[Announcement], counted: Mapping[Kind, int]) -> str:
    """Say several announcements in one sentence.

    Args:
        announcements: Those whose names are known.
        counted: How many more there are of each kind.

    Returns:
        The text of the only one; ``"three tasks finished: A, B and C"``; ``"A failed and two
        others finished"``. Every one is either named or counted.
    """
    known = list(announcements)
    if len(known) == 1 and not any(counted.values()):
        return known[0].text
    names: dict[Kind, list[str]] = {kind: [] for kind in _VERBS}
    for item in known:
        names[item.kind].append(item.name or "a task")
    totals = Counter({kind: len(names[kind]) + counted.get(kind, 0) for kind in _VERBS})
    kinds = [kind for kind in _VERBS if totals[kind]]
    if len(kinds) == 1:
        return _all_of_a_kind(kinds[0], names[kinds[0]], totals[kinds[0]])
    clauses: list[str] = []
    for kind in kinds:
        clauses.append(_clause(kind, names[kind], totals[kind], first=not clauses))
    return spoken_list(clauses)


def _all_of_a_kind(kind: Kind, names: list[str], total: int) -> str:
    text = f"{_number_of(total, 'task')} {_VERBS[kind][total > 1]}"
    if len(names) == total <= MOST_NAMES:
        return f"{text}: {spoken_list(names)}"
    if kind is not Kind.COMPLETED and names:
        return f"{text}, among them {spoken_list(names[: MOST_NAMES - 1])}"
    return text


def _clause(kind: Kind, names: list[str], total: int, *, first: bool) -> str:
    verb = _VERBS[kind][total > 1]
    named = len(names) == total and total <= (MOST_NAMES - 1 if first else 1)
    if named:
        return f"{spoken_list(names)} {verb}"
    return f"{_number_of(total, 'task' if first else 'other')} {verb}"


def _number_of(number: int, word: str) -> str:
    return f"{spoken_number(number)} {word}" + ("" if number == 1 else "s")

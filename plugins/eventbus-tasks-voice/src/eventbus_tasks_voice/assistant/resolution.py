"""Which task, or which project, somebody means: "the auth one", "task 3", "the one in shop".

Pure functions over plain data. What cannot be told apart is returned as it is: the caller asks.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from eventbus_tasks import TaskStatus
from eventbus_tasks_voice.wording import spoken_number

__all__ = ["KnownTask", "Resolution", "labels", "resolve_project", "resolve_task", "words_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """A task as people speak of it.

    Attributes:
        uid: What tells it from all others.
        number: Its number in the engine.
        name: The name by which it is called now.
        original: The name it was started with.
        project: The spoken name of its project.
        status: Where it is in its life.
    """

    uid: str
    number: int
    name: str
    original: str
    project: str
    status: TaskStatus

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self.status.is_terminal


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a reference may mean.

    Attributes:
        candidates: Whatever fits best, oldest first; nothing fits when it is empty.
        certain: Whether it fits as it was said, not only nearly.
    """

    candidates: tuple[KnownTask, ...]
    certain: bool = True

    @property
    def one(self) -> KnownTask | None:
        """The task that is meant, if there is no doubt."""
        return self.candidates[0] if self.certain and len(self.candidates) == 1 else None


_FILLER_WORDS: Final = (
    "a about again an and are called currently did do for go going has have how i is it its job "
    "jobs me my named now number of on one ones our please project run runs s still task tasks "
    "that the their there these thing this those to was we which who with you your"
)
_FILLERS: Final = frozenset(_FILLER_WORDS.split())
_PLACES: Final = frozenset({"in", "inside", "at", "from", "under", "within"})
_LATEST: Final = frozenset({"last", "latest", "newest", "recent", "most"})
_PRONOUNS: Final = frozenset({"it", "that", "this"})
_NUMBERED: Final = frozenset({"task", "job", "number", "no", "nr"})
_NUMBER_WORDS: Final = {spoken_number(number): number for number in range(1, 20)}
_STOPPED: Final = frozenset({TaskStatus.CANCELLED, TaskStatus.STOPPING})
_RUNNING: Final = frozenset(status for status in TaskStatus if not status.is_terminal)
_STATUSES: Final = {
    "running": _RUNNING,
    "active": _RUNNING,
    "failed": frozenset({TaskStatus.FAILED}),
    "broken": frozenset({TaskStatus.FAILED}),
    "cancelled": _STOPPED,
    "canceled": _STOPPED,
    "stopped": _STOPPED,
    "completed": frozenset({TaskStatus.COMPLETED}),
    "done": frozenset({TaskStatus.COMPLETED}),
    "successful": frozenset({TaskStatus.COMPLETED}),
    "finished": frozenset(TaskStatus) - _RUNNING,
    "ended": frozenset(TaskStatus) - _RUNNING,
}

_EXACT, _PREFIX, _SIMILAR, _NOT = 3, 2, 1, 0
_ALIKE: Final = 0.75
_WORD: Final = re.compile(r"[^\W_]+")


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text as they compare: without case, accents and punctuation."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return tuple(_WORD.findall("".join(c for c in decomposed if not unicodedata.combining(c))))


def resolve_task(
    reference: str,
    known: Sequence[KnownTask],
    *,
    mentioned: str | None = None,
    prefer: Callable[[KnownTask], bool] = lambda task: task.is_running,
) -> Resolution:
    """Find out which task is meant.

    Args:
        reference: What was said. "It" is the task that was spoken of last; nothing at all means
            the only one that can be meant.
        known: The tasks, oldest first.
        mentioned: The uid of the task that was spoken of last.
        prefer: Which tasks are meant where others fit as well.
    """
    said = words_of(reference)
    content = _content(said)
    exact = [task for task in known if said and _content(words_of(task.name)) == content]
    exact = exact or [
        task for task in known if said and _content(words_of(task.original)) == content
    ]
    if exact:
        return _settle(exact, prefer)
    number = _number_in(said)
    if number is not None:
        return Resolution(tuple(task for task in known if task.number == number))
    if len(said) == 1 and said[0].isdecimal():
        numbered = [task for task in known if str(task.number) == said[0]]
        if numbered:
            return Resolution(tuple(numbered))

    vocabulary = {word for task in known for word in _words_for(task)}
    latest = any(word in _LATEST and word not in vocabulary for word in said)
    pool = list(known)
    rest: list[str] = []
    for word in said:
        if word not in vocabulary and word in _STATUSES:
            pool = [task for task in pool if task.status in _STATUSES[word]]
        elif not (word not in vocabulary and word in _LATEST):
            rest.append(word)
    words = [word for word in rest if word not in _FILLERS and word not in _PLACES]
    if words:
        found, certain = _matching(rest, words, pool)
        if latest:
            found = found[-1:]
        return _settle(found, prefer) if certain else Resolution(tuple(found), certain=False)
    if latest:
        return Resolution(tuple(pool[-1:]))
    if _PRONOUNS & set(said):
        spoken_of = tuple(task for task in pool if task.uid == mentioned)
        if spoken_of:
            return Resolution(spoken_of)
    return _settle(pool, prefer)


def resolve_project(said: str, projects: Sequence[str]) -> tuple[str, ...]:
    """Return the names of projects that may be meant: one, several, or none.

    Args:
        said: What was said; nothing means the only project there is.
        projects: The names of all projects.
    """
    wanted = words_of(said)
    if not wanted:
        return tuple(projects)
    words = _content(wanted)
    exact = tuple(name for name in projects if _content(words_of(name)) == words)
    if exact:
        return exact
    rated = [(_quality(words, words_of(name)), name) for name in projects]
    best = max((quality for quality, _ in rated), default=_NOT)
    return tuple(name for quality, name in rated if quality == best and best != _NOT)


def labels(tasks: Sequence[KnownTask], shorten: Callable[[str], str]) -> list[str]:
    """Return a name for each task that tells it from the others, as short as possible.

    Args:
        tasks: The tasks to tell apart.
        shorten: Makes a spoken name of a name.
    """
    names = [shorten(task.name) for task in tasks]
    result = []
    for position, task in enumerate(tasks):
        same = [i for i, name in enumerate(names) if name == names[position]]
        if len(same) == 1:
            result.append(names[position])
        elif sum(tasks[i].project == task.project for i in same) == 1:
            result.append(f"{names[position]} in {shorten(task.project)}")
        else:
            result.append(f"task {task.number}, {names[position]}")
    return result


def _number_in(said: Sequence[str]) -> int | None:
    """Return the number in "task 3" or "number three"."""
    for before, word in itertools.pairwise(said):
        if before in _NUMBERED:
            if word.isdecimal() and len(word) < 10:
                return int(word)
            if word in _NUMBER_WORDS and len(said) <= 3:
                return _NUMBER_WORDS[word]
    return None


def _content(said: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out the words that carry no meaning here, unless there are no others."""
    return tuple(w for w in said if w not in _FILLERS and w not in _PLACES) or said


def _words_for(task: KnownTask) -> tuple[str, ...]:
    return (*words_of(task.name), *words_of(task.original), *words_of(task.project))


def _matching(
    said: Sequence[str], words: Sequence[str], pool: Sequence[KnownTask]
) -> tuple[list[KnownTask], bool]:
    """Return the tasks that fit best, and whether they fit every word."""
    place = next((i for i, word in enumerate(said) if word in _PLACES), len(said))
    before = [word for word in said[:place] if word in words]
    behind = [word for word in said[place + 1 :] if word in words]
    readings: list[Callable[[KnownTask], int]] = [lambda task: _quality(words, _words_for(task))]
    if behind:

        def with_place(task: KnownTask) -> int:
            names = (*words_of(task.name), *words_of(task.original))
            return min(_quality(before, names), _quality(behind, words_of(task.project)))

        readings.insert(0, with_place)
    for reading in readings:
        rated = [(reading(task), task) for task in pool]
        best = max((quality for quality, _ in rated), default=_NOT)
        if best != _NOT:
            return [task for quality, task in rated if quality == best], best != _SIMILAR
    counted = [
        (sum(_quality([word], _words_for(task)) > _SIMILAR for word in words), task)
        for task in pool
    ]
    most = max((count for count, _ in counted), default=0)
    return [task for count, task in counted if count == most and most], False


def _quality(wanted: Sequence[str], offered: Sequence[str]) -> int:
    """How well all wanted words are found among the offered ones: as well as the worst of them."""
    return min(
        (max((_fit(word, other) for other in offered), default=_NOT) for word in wanted),
        default=_EXACT,
    )


@functools.lru_cache(maxsize=4096)
def _fit(word: str, other: str) -> int:
    if word == other:
        return _EXACT
    shorter = min(len(word), len(other))
    if shorter >= 3:
        stem, other_stem = (w.removesuffix("s") if len(w) > 3 else w for w in (word, other))
        if stem.startswith(other_stem) or other_stem.startswith(stem):
            return _PREFIX
    if shorter >= 4:
        matcher = difflib.SequenceMatcher(None, word, other)
        # Cheap upper bounds first: this runs on an event loop.
        bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)
        if all(bound() >= _ALIKE for bound in bounds):
            return _SIMILAR
    return _NOT


def _settle(found: Sequence[KnownTask], prefer: Callable[[KnownTask], bool]) -> Resolution:
    """Leave out what is not meant where several tasks fit."""
    preferred = [task for task in found if prefer(task)]
    if preferred and len(found) > 1:
        found = preferred
    if len({(words_of(task.name), task.project) for task in found}) == 1:
        # The same work again: of several runs the newest is meant.
        running = [task for task in found if task.is_running]
        found = (running or list(found))[-1:]
    return Resolution(tuple(found))

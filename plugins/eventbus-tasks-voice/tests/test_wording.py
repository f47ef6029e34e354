"""The sentences."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from eventbus_tasks_voice.announcements import Kind
from eventbus_tasks_voice.wording import describe, spoken_duration, spoken_number, together
from hypothesis import given
from hypothesis import strategies as st
from voice_kit import news

from eventbus_tasks import (
    AgentInputRequired,
    Outcome,
    Reason,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskRef,
    TaskRemoved,
)

REF = TaskRef(id=7, uid="u-7", name="fix-login", agent="claude", project_dir="/srv/app")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ended(cls: type[TaskEvent], reason: Reason, message: str = "") -> TaskEvent:
    """Return a terminal event."""
    outcome = Outcome(reason=reason, message=message)
    return cls(task=REF, seq=9, at=NOW, outcome=outcome)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "less than a second"),
        (1.2, "one second"),
        (42, "forty two seconds"),
        (59.9, "one minute"),
        (150, "two minutes"),
        (3599, "one hour"),
        (7380, "two hours and three minutes"),
        (90_000, "one day and one hour"),
    ],
)
def test_duration_in_words(seconds: float, words: str) -> None:
    """A duration is said as exactly as one wants to hear it."""
    assert spoken_duration(seconds) == words


@given(st.floats(0, 1e8))
def test_every_duration_has_words(seconds: float) -> None:
    """Any duration is said, without figures."""
    words = spoken_duration(seconds)
    assert words
    assert not any(char.isdigit() for char in words)


def test_numbers_in_words() -> None:
    """Numbers are said as words."""
    assert spoken_number(0) == "zero"
    assert spoken_number(10_002) == "ten thousand two"
    assert len({spoken_number(number) for number in range(3000)}) == 3000


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (ended(TaskCompleted, Reason.EXITED), "fix login is done after two minutes"),
        (ended(TaskCancelled, Reason.CANCELLED), "fix login was cancelled after two minutes"),
        (
            ended(TaskFailed, Reason.EXIT_CODE, "exit status 2"),
            "fix login failed after two minutes",
        ),
        (
            ended(TaskFailed, Reason.TIMED_OUT),
            "fix login was stopped after two minutes because it took too long",
        ),
        (ended(TaskFailed, Reason.SPAWN_FAILED, "no /bin/x"), "fix login could not be started"),
        (
            ended(TaskFailed, Reason.AGENT_ERROR, "**API** error in /srv/app/x.py\nmore"),
            "fix login failed after two minutes: API error in x.py",
        ),
        (
            ended(TaskFailed, Reason.NO_RESULT),
            "fix login ended after two minutes without an answer",
        ),
        (
            AgentInputRequired(task=REF, kind="permission", prompt="rm -rf /"),
            "fix login needs your permission",
        ),
        (
            AgentInputRequired(task=REF, kind="question", prompt="?"),
            "fix login has a question for you",
        ),
        (TaskRemoved(task=REF), None),
    ],
)
def test_event_in_a_sentence(event: TaskEvent, sentence: str | None) -> None:
    """An event is name, outcome and duration: never a number, path or command."""
    assert describe(event, 120) == sentence


def test_every_reason_has_a_sentence() -> None:
    """Whatever a task ended of can be said, also when nobody knows how long it took."""
    for reason in Reason:
        cls = {"completed": TaskCompleted, "failed": TaskFailed, "cancelled": TaskCancelled}[
            reason.status.value
        ]
        sentence = describe(ended(cls, reason, "m"), None)
        assert sentence
        assert "None" not in sentence


C, F, X, Q = Kind.COMPLETED, Kind.FAILED, Kind.CANCELLED, Kind.INPUT


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([("A", C)], "A completed"),
        ([("A", C), ("B", C), ("C", C)], "three tasks finished: A, B and C"),
        ([(name, C) for name in "ABCDEF"], "six tasks finished"),
        ([("A", F), ("B", F)], "two tasks failed: A and B"),
        ([(name, F) for name in "ABCDEF"], "six tasks failed, among them A, B and C"),
        ([("A", F), ("B", C), ("C", C)], "A failed and two others finished"),
        ([("B", C), ("A", F)], "A failed and B finished"),
        (
            [("A", F), ("B", F), ("C", X), ("D", C), ("E", C)],
            "A and B failed, C was cancelled and two others finished",
        ),
        ([("A", Q), ("B", Q)], "two tasks need you: A and B"),
        ([("A", Q), ("B", F)], "A needs you and B failed"),
    ],
)
def test_several_in_one_sentence(parts: list[tuple[str, Kind]], sentence: str) -> None:
    """Several ends are told together: names while they are few, numbers when they are many."""
    assert together([news(name, kind) for name, kind in parts], {}) == sentence


def test_those_only_counted_are_told() -> None:
    """What was too much to be kept is still said as a number."""
    assert together([news("A")], {Kind.COMPLETED: 9_999}) == "ten thousand tasks finished"
    assert together([], {Kind.FAILED: 1}) == "one task failed"

"""Events as data: stamping, merging, the registry, and reading back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, timedelta, timezone
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import (
    EVENT_TYPES,
    AgentMessage,
    OutputReceived,
    OutputUnavailableError,
    TaskCompleted,
    TaskEvent,
    TaskRef,
    TaskStopping,
    event_from_dict,
    register_event,
)
from eventbus_tasks.testing.strategies import outcomes, policies

from .conftest import NOW, REF, stamped

refs = st.builds(
    TaskRef,
    id=st.integers(1, 2**40),
    uid=st.uuids().map(str),
    name=st.text(max_size=20),
    agent=st.text(max_size=10),
    project_dir=st.text(max_size=20),
)
times = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))]))


@given(refs, st.integers(0, 2**50), times, outcomes(), policies(), st.text())
def test_round_trip(ref: TaskRef, seq: int, at: Any, outcome: Any, policy: Any, text: str) -> None:
    """Any event becomes JSON, as one line, and the same event again."""
    for event in (
        TaskCompleted(outcome=outcome),
        TaskStopping(reason="cancelled", policy=policy),
        AgentMessage(text=text, start=3, end=9),
        OutputReceived(stream="stderr", start=1, end=2, line_start=0, last=True, first_seq=7),
    ):
        sent = event.stamp(ref, seq, at)
        line = json.dumps(sent.to_dict())
        assert "\n" not in line
        again = event_from_dict(json.loads(line))
        assert again == sent
        assert again.at == at


def test_unknown_keys_are_ignored() -> None:
    """What a later version has added does not keep an older one from reading."""
    data = stamped(AgentMessage(text="x")).to_dict()
    assert event_from_dict({**data, "mood": "good"}) == stamped(AgentMessage(text="x"))


def test_unknown_event() -> None:
    """An event of a plugin that is not there is a KeyError with its name."""
    with pytest.raises(KeyError, match=r"no\.such"):
        event_from_dict({"event": "no.such"})


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=10))
def test_merge_is_the_span(sizes: list[int]) -> None:
    """Merged ranges are one range from the first to the last, with the span of numbers."""
    events = []
    position = 0
    for seq, size in enumerate(sizes, 1):
        events.append(
            stamped(
                OutputReceived(
                    stream="stdout", start=position, end=position + size, line_start=position // 2
                ),
                seq,
            )
        )
        position += size
    merged = events[0]
    for event in events[1:]:
        merged = merged.merge(event)
    assert (merged.start, merged.end, merged.line_start) == (0, position, 0)
    assert (merged.seq, merged.at) == (len(sizes), NOW)
    assert merged.first_seq == (1 if len(sizes) > 1 else 0)


def test_data_of_an_event_that_was_read_back() -> None:
    """An event from a journal has no log: that is said, and nothing else is wrong with it."""
    event = event_from_dict(
        stamped(OutputReceived(stream="stdout", start=0, end=5, line_start=0)).to_dict()
    )
    assert isinstance(event, OutputReceived)
    for name in ("data", "text", "lines"):
        with pytest.raises(OutputUnavailableError):
            getattr(event, name)
    message = event_from_dict(stamped(AgentMessage(text="x")).to_dict())
    assert isinstance(message, AgentMessage)
    with pytest.raises(OutputUnavailableError):
        _ = message.raw


def test_register() -> None:
    """An event class of a plugin is found under its wire name; registering again does no harm."""

    @register_event
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Custom(TaskEvent):
        """Something of a plugin."""

        name: ClassVar[str] = "test.custom"
        value: int

    try:
        assert EVENT_TYPES["test.custom"] is Custom
        assert register_event(Custom) is Custom
        event = stamped(Custom(value=3))
        assert event_from_dict(event.to_dict()) == event
        assert event.task == REF

        @dataclass(frozen=True, slots=True, kw_only=True)
        class Other(TaskEvent):
            name: ClassVar[str] = "test.custom"

        with pytest.raises(ValueError, match="belongs to"):
            register_event(Other)
        assert EVENT_TYPES["test.custom"] is Custom
    finally:
        del EVENT_TYPES["test.custom"]


def test_register_refuses() -> None:
    """Classes that cannot be events are refused with the reason."""

    @dataclass(kw_only=True)
    class Thawed:
        name: ClassVar[str] = "test.thawed"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Nameless(TaskEvent):
        pass

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Inherited(AgentMessage):
        pass

    no_events: list[Any] = [Thawed, int, "text"]
    for wrong in no_events:
        with pytest.raises(TypeError, match="frozen dataclass"):
            register_event(wrong)
    for unnamed in (Nameless, Inherited):
        with pytest.raises(ValueError, match="wire name"):
            register_event(unnamed)


def test_what_cannot_travel_is_refused() -> None:
    """A live object in an event is an error when it is serialised, not a wrong line."""
    event = stamped(AgentMessage(text=object()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be part of an event"):
        event.to_dict()

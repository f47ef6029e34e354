"""`subscribe(after=…)`: what has happened, then what happens, without a gap and nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import (
    EventStream,
    HistoryUnavailableError,
    OutputLine,
    OutputReceived,
    SignalSent,
    Stream,
    Task,
    TaskCompleted,
    TaskEnded,
    TaskEvent,
    TaskStarted,
    _history,
    event_from_dict,
    hookimpl,
)
from eventbus_tasks._delivery import Mailbox
from eventbus_tasks._history import History

from .conftest import GUARD, MemoryJournal, Stage

pytestmark = pytest.mark.anyio


class Readable(MemoryJournal):
    """A journal that can be read back, as from a file: without the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def read_after(self, seq: int) -> Sequence[TaskEvent]:
        if self.lost < 0:
            raise OSError("the file is gone")
        read = [event_from_dict(event.to_dict()) for event in self.events]
        return [event for event in read if event.seq > seq and event.seq != self.lost]


class ReadablePlugin:
    """Opens readable journals."""

    def __init__(self) -> None:
        self.journals: dict[str, Readable] = {}

    @hookimpl
    def ebt_open_journal(self, task: Task) -> Readable:
        return self.journals.setdefault(task.uid, Readable())


async def take(stream: EventStream[Any]) -> list[TaskEvent]:
    """Return everything up to the end of a stream."""
    with anyio.fail_after(GUARD):
        return [event async for event in stream]


def check_whole(events: list[TaskEvent], after: int, text: str) -> None:
    """Assert that events continue a number without a gap and none twice, with all output."""
    number = after
    data = b""
    for event in events:
        first = event.seq
        if isinstance(event, OutputReceived):
            first = event.first_seq or event.seq
            data += event.data
        assert first == number + 1
        number = event.seq
    assert isinstance(events[-1], TaskEnded)
    assert text.encode().endswith(data)
    if after <= 2:
        assert data.decode() == text


@pytest.mark.parametrize("readable", [False, True])
async def test_from_any_event_on(
    stage: Stage, readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever one subscribes and from whichever event on, the story is whole from there."""
    monkeypatch.setattr("eventbus_tasks._chronicle.LIMIT", 3)
    plugin = ReadablePlugin()
    plugins = {"a-readable": plugin} if readable else {}
    streams: list[tuple[int, EventStream[TaskEvent]]] = []
    text = "".join(f"line {number}\n" for number in range(40))
    async with stage.engine(plugins=plugins) as engine:
        task, puppet = await stage.start(engine)
        for start in range(0, len(text), 50):
            puppet.say(text[start : start + 50])
            await stage.recorder.until(OutputReceived, task)
            wanted = (0, 1, 2, stage.recorder.events[-1].seq)
            streams += [(after, engine.subscribe(task=task, after=after)) for after in wanted]
        puppet.exit(0)
        await task.wait()
        last = stage.recorder.of(TaskCompleted, task)[0].seq
        streams += [(after, engine.subscribe(task=task, after=after)) for after in range(last)]
        for after, stream in streams:
            check_whole(await take(stream), after, text)
        assert await take(engine.subscribe(task=task, after=last)) == []
        lines = await take(engine.subscribe(OutputLine, task=task, after=0))
    assert [line.text for line in lines if isinstance(line, OutputLine)] == text.split("\n")[:-1]
    if readable:
        plugin.journals.clear()


async def test_subscribing_within_a_receiver(stage: Stage) -> None:
    """Who subscribes while an event is being delivered gets that event once."""
    streams: list[tuple[int, EventStream[TaskEvent]]] = []
    async with stage.engine() as engine:

        def subscribe(event: TaskEvent) -> None:
            if event.journaled:
                streams.extend(
                    (after, engine.subscribe(task=event.task, after=after))
                    for after in (0, event.seq - 1, event.seq)
                )

        engine.signals.any_event.connect(subscribe)
        task, puppet = await stage.start(engine)
        puppet.say("x\n")
        puppet.exit(0)
        await task.wait()
        for after, stream in streams:
            events = await take(stream)
            if events:
                check_whole(events, after, "x\n")
            else:
                assert after == stage.recorder.of(TaskEnded, task)[0].seq


async def test_only_some_classes(stage: Stage) -> None:
    """A replay has only the classes that were asked for."""
    async with stage.engine() as engine:
        task, _ = await stage.start(engine)
        await task.cancel()
        events = await take(engine.subscribe(TaskStarted, SignalSent, task=task, after=0))
    assert [type(event) for event in events] == [TaskStarted, SignalSent]


async def test_what_the_journal_lacks_is_said(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that are neither remembered nor in the journal are no silent gap."""
    monkeypatch.setattr("eventbus_tasks._chronicle.LIMIT", 1)
    plugin = ReadablePlugin()
    async with stage.engine(plugins={"a-readable": plugin}) as engine:
        task, _ = await stage.start(engine)
        await task.cancel()
        for lost in (1, 2, -1):
            plugin.journals[task.uid].lost = lost
            with pytest.raises(HistoryUnavailableError):
                await take(engine.subscribe(task=task, after=0))


async def test_what_cannot_be_asked(stage: Stage) -> None:
    """A number without its task, and a number below zero, are refused."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        with pytest.raises(ValueError, match="of the task"):
            engine.subscribe(after=0)
        with pytest.raises(ValueError, match="of the task"):
            engine.subscribe(task=task, after=-1)
        puppet.exit(0)


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr", "other"]), st.integers(1, 50))),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(20, 200),
)
def test_history(kinds: list[tuple[Any, int]], after: int, up_to: int, limit: int) -> None:
    """What is remembered of output covers the same numbers and bytes as the events did."""
    history = History()
    ends = {"stdout": 0, "stderr": 0}
    events: list[TaskEvent] = []
    for seq, (kind, size) in enumerate(kinds, 1):
        event: TaskEvent
        if kind == "other":
            event = SignalSent(seq=seq, signal=15, pids=())
        else:
            start = ends[kind]
            ends[kind] += size
            event = OutputReceived(
                seq=seq, stream=kind, start=start, end=ends[kind], line_start=start
            )
        events.append(event)
        history.add(event)
    wanted = [event for event in events if after < event.seq <= up_to]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_history, "MERGE_LIMIT", limit)
        found = list(history.between(after, up_to))
    covered: list[int] = []
    for event in found:
        if not isinstance(event, OutputReceived):
            covered.append(event.seq)
            continue
        covered.extend(range(event.first_seq or event.seq, event.seq + 1))
        parts = [part for part in wanted if (event.first_seq or event.seq) <= part.seq <= event.seq]
        assert all(isinstance(part, OutputReceived) for part in parts)
        assert parts[0].start == event.start  # type: ignore[attr-defined]
        assert parts[0].line_start == event.line_start  # type: ignore[attr-defined]
        assert parts[-1].end == event.end  # type: ignore[attr-defined]
        assert event.end - event.start <= limit or len(parts) == 1
    assert covered == [event.seq for event in wanted]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=120), st.integers(0, 130))
def test_history_of_a_long_run(sizes: list[int], after: int) -> None:
    """Of a run that never ends, older numbers are merged for good; what is told is right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_history, "MERGE_LIMIT", 100)
        patch.setattr(_history, "EXACT", 8)
        history = History()
        ends = [0]
        for seq, size in enumerate(sizes, 1):
            start = ends[-1]
            ends.append(start + size)
            history.add(
                OutputReceived(
                    seq=seq, stream="stdout", start=start, end=ends[-1], line_start=start
                )
            )
        try:
            found = list(history.between(after, len(sizes)))
        except HistoryUnavailableError:
            assert 0 < after < len(sizes) - 8
            return
    number, end = min(after, len(sizes)), ends[min(after, len(sizes))]
    for event in found:
        assert isinstance(event, OutputReceived)
        assert (event.first_seq or event.seq) == number + 1
        assert (event.start, event.line_start) == (end, end)
        assert event.end == ends[event.seq]
        number, end = event.seq, event.end
    assert number == len(sizes)


async def test_two_streams_in_a_crowded_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """However two streams take turns, what waits for a slow consumer is a few entries."""
    monkeypatch.setattr("eventbus_tasks._delivery.CROWDED", 10)
    mailbox = Mailbox()
    streams: tuple[Stream, Stream] = ("stdout", "stderr")
    for number in range(1000):
        for stream in streams:
            mailbox.put(
                OutputReceived(
                    seq=number, stream=stream, start=number, end=number + 1, line_start=0
                )
            )
    mailbox.put(SignalSent(seq=2000, signal=15, pids=()))
    mailbox.close()
    assert len(mailbox) <= 13
    ends = {"stdout": 0, "stderr": 0}
    last: Any = None
    while (entry := await mailbox.get()) is not None:
        last = entry[0]
        if isinstance(last, OutputReceived):
            assert last.start == ends[last.stream]
            ends[last.stream] = last.end
    assert ends == {"stdout": 1000, "stderr": 1000}
    assert isinstance(last, SignalSent)

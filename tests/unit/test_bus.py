"""How events reach receivers: order, isolation, merging; without engine and processes."""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import blinker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import (
    HandlerFailed,
    LogFiles,
    Outcome,
    OutputLine,
    OutputReceived,
    Reason,
    TaskCompleted,
    TaskEnded,
    TaskEvent,
    TaskOutput,
    TaskRemoved,
    TaskSignals,
    TaskStarted,
)
from eventbus_tasks._bus import Bus
from eventbus_tasks._delivery import MERGE_LIMIT, Mailbox

from .conftest import OTHER, REF, stamped

STARTED = stamped(TaskStarted(pid=1, argv=("true",)))
ENDED = stamped(TaskCompleted(outcome=Outcome(reason=Reason.EXITED, return_code=0)), 9)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Failures of receivers are logged; that is not what is looked at here."""
    caplog.set_level(logging.CRITICAL, "eventbus_tasks")


@pytest.fixture
def bus() -> Bus:
    """A bus."""
    return Bus()


@pytest.fixture
def signals(bus: Bus) -> TaskSignals:
    """Its signals."""
    return TaskSignals(bus)


def test_connection_order_across_signals(bus: Bus, signals: TaskSignals) -> None:
    """Receivers are called in the order in which they were connected, whatever their signal."""
    calls: list[str] = []
    signals.any_event.connect(lambda event: calls.append("any"))
    signals.task_started.connect(lambda event: calls.append("started"))
    signals.of(TaskEvent).connect(lambda event: calls.append("of"))
    signals.task_started.connect(lambda event: calls.append("again"))
    bus.emit(STARTED)
    assert calls == ["any", "started", "of", "again"]


def test_families(bus: Bus, signals: TaskSignals) -> None:
    """The signal of a base class has the events of all classes derived from it."""
    calls: list[str] = []
    signals.task_ended.connect(lambda event: calls.append("ended"))
    signals.task_completed.connect(lambda event: calls.append("completed"))
    signals.task_failed.connect(lambda event: calls.append("failed"))
    bus.emit(ENDED)
    assert calls == ["ended", "completed"]


def test_same_receiver_twice(bus: Bus, signals: TaskSignals) -> None:
    """Each connection stands for itself: one receiver may have several."""
    calls: list[TaskEvent] = []
    first = signals.task_started.connect(calls.append)
    signals.task_started.connect(calls.append)
    bus.emit(STARTED)
    first.close()
    first.close()
    bus.emit(STARTED)
    assert len(calls) == 3


def test_subscription_as_context(bus: Bus, signals: TaskSignals) -> None:
    """A subscription in a `with` block ends with it."""
    calls: list[TaskEvent] = []
    with signals.task_started.connect(calls.append):
        bus.emit(STARTED)
    bus.emit(STARTED)
    assert calls == [STARTED]


def test_only_one_task(bus: Bus, signals: TaskSignals) -> None:
    """A connection for a task has events of that task only."""
    calls: list[TaskEvent] = []
    signals.any_event.connect(calls.append, task=OTHER)
    bus.emit(STARTED)
    other = stamped(TaskRemoved(), task=OTHER)
    bus.emit(other)
    assert calls == [other]


@pytest.mark.parametrize(
    "fault", [ValueError("no"), SystemExit(1), GeneratorExit(), BaseException()]
)
def test_raising_receiver_is_isolated(bus: Bus, signals: TaskSignals, fault: BaseException) -> None:
    """Whatever one receiver raises, the next ones are called, and the failure is told."""
    calls: list[TaskEvent] = []
    failures: list[HandlerFailed] = []

    def broken(event: TaskEvent) -> None:
        raise fault

    signals.handler_failed.connect(failures.append)
    signals.task_started.connect(broken)
    signals.task_started.connect(calls.append)
    bus.emit(STARTED)
    assert calls == [STARTED]
    (failure,) = failures
    assert failure.error.startswith(type(fault).__name__)
    assert "broken" in failure.where
    assert (failure.task, failure.seq) == (REF, STARTED.seq)


def test_keyboard_interrupt_is_passed_on(bus: Bus, signals: TaskSignals) -> None:
    """Ctrl-C that arrives in a receiver reaches the program, after all receivers were called."""
    calls: list[TaskEvent] = []

    def interrupted(event: TaskEvent) -> None:
        raise KeyboardInterrupt

    signals.task_started.connect(interrupted)
    signals.task_started.connect(calls.append)
    with pytest.raises(KeyboardInterrupt):
        _ = [bus.emit(STARTED), bus.emit(STARTED)]
    bus.emit(ENDED)
    signals.any_event.connect(calls.append)
    bus.emit(ENDED)
    # The bus works as before.
    assert calls[-1] == ENDED


def test_nested_events_come_in_order(bus: Bus, signals: TaskSignals) -> None:
    """An event that a receiver causes comes after the present one, for every receiver."""
    first: list[str] = []
    second: list[str] = []

    def cause(event: TaskEvent) -> None:
        first.append(event.name)
        if isinstance(event, TaskStarted):
            bus.emit(stamped(TaskRemoved()))
            first.append("emitted")

    signals.any_event.connect(cause)
    signals.any_event.connect(lambda event: second.append(event.name))
    bus.emit(STARTED)
    assert first == ["task.started", "emitted", "task.removed"]
    assert second == ["task.started", "task.removed"]


def test_disconnect_during_delivery(bus: Bus, signals: TaskSignals) -> None:
    """Who is disconnected while an event is delivered does not get it; who is connected neither."""
    calls: list[str] = []

    def change(event: TaskEvent) -> None:
        subscription.close()
        signals.task_started.connect(lambda event: calls.append("new"))

    signals.task_started.connect(change)
    subscription = signals.task_started.connect(lambda event: calls.append("old"))
    bus.emit(STARTED)
    assert calls == []
    bus.emit(STARTED)
    assert calls == ["new"]


def test_weak_receivers(bus: Bus, signals: TaskSignals) -> None:
    """A weak receiver is gone with its object; a strong one, the default, stays."""
    calls: list[str] = []

    class Listener:
        def __init__(self, name: str) -> None:
            self.name = name

        def hear(self, event: TaskEvent) -> None:
            calls.append(self.name)

    weak, strong = Listener("weak"), Listener("strong")
    subscription = signals.task_started.connect(weak.hear, weak=True)
    signals.task_started.connect(strong.hear)
    bus.emit(STARTED)
    assert calls == ["weak", "strong"]
    del weak, strong
    gc.collect()
    assert subscription.closed
    bus.emit(STARTED)
    assert calls == ["weak", "strong", "strong"]


def test_weak_function(bus: Bus, signals: TaskSignals) -> None:
    """A function, too, may be held weakly."""
    calls: list[TaskEvent] = []

    def make() -> Any:
        def hear(event: TaskEvent) -> None:
            calls.append(event)

        return hear

    hear = make()
    signals.task_started.connect(hear, weak=True)
    signals.task_started.connect(make(), weak=True)
    gc.collect()
    bus.emit(STARTED)
    assert len(calls) == 1


def test_receiver_must_be_callable(signals: TaskSignals) -> None:
    """What cannot be called is refused when it is connected."""
    with pytest.raises(TypeError, match="callable"):
        signals.task_started.connect("text")  # type: ignore[arg-type]


def test_slow_receiver_is_named_once_for_each_event(signals: TaskSignals, bus: Bus) -> None:
    """A receiver that blocks is named, and telling so to one that blocks too is not endless."""
    bus.overrun_after = -1.0  # everybody is too slow
    calls: list[TaskEvent] = []

    def slow(event: TaskEvent) -> None:
        calls.append(event)
        if len(calls) > 50:
            subscription.close()

    subscription = signals.any_event.connect(slow)
    signals.task_started.connect(lambda event: None)
    bus.emit(STARTED)
    failures = [event for event in calls if isinstance(event, HandlerFailed)]
    assert all(event.overran for event in failures)
    assert 1 <= len(failures) <= 3


# -- blinker ---------------------------------------------------------------------------------------


def test_blinker_receivers_come_after_ours(bus: Bus, signals: TaskSignals) -> None:
    """Those who connect to blinker get sender and event, after our own receivers."""
    calls: list[Any] = []
    sender, stranger = object(), object()

    def through_blinker(task: object, *, event: TaskEvent) -> None:
        calls.append((task, event))

    def filtered(task: object, *, event: TaskEvent) -> None:
        calls.append("filtered")

    def strange(task: object, *, event: TaskEvent) -> None:
        calls.append("strange")

    assert isinstance(signals.task_started.blinker, blinker.Signal)
    signals.task_started.blinker.connect(through_blinker)
    signals.task_started.blinker.connect(filtered, sender=sender)
    signals.task_started.blinker.connect(strange, sender=stranger)
    signals.task_started.connect(lambda event: calls.append("ours"))
    bus.emit(STARTED, sender)
    assert calls[0] == "ours"
    assert sorted(map(str, calls[1:])) == sorted(map(str, ["filtered", (sender, STARTED)]))


def test_blinker_receivers_are_isolated(bus: Bus, signals: TaskSignals) -> None:
    """A blinker receiver that raises stops neither the others nor the engine."""
    calls: list[str] = []
    failures: list[HandlerFailed] = []

    def broken(task: object, **_: object) -> None:
        calls.append("broken")
        raise SystemExit(1)

    def also_broken(task: object, **_: object) -> None:
        calls.append("broken")
        raise RuntimeError

    def wrong_arguments() -> None:
        calls.append("never")

    signals.handler_failed.connect(failures.append)
    for receiver in (broken, also_broken, wrong_arguments):
        signals.any_event.blinker.connect(receiver)
    bus.emit(STARTED, object())
    # Each of the three fails on the event; on `HandlerFailed` itself they fail unheard.
    assert calls.count("broken") >= 2
    assert len([item for item in failures if item.seq == STARTED.seq]) == 3


# -- output lines ----------------------------------------------------------------------------------


@pytest.fixture
def source() -> Iterator[TaskOutput]:
    """A log with three lines and a half."""
    log = os.memfd_create("log")
    os.write(log, b"one\ntwo\nthree\nhalf")
    output = TaskOutput()
    output.attach(LogFiles(stdout=log))
    yield output
    output.close()


def ranges(source: TaskOutput) -> list[OutputReceived]:
    """Return the ranges in which it arrived."""
    return [
        stamped(
            OutputReceived(stream="stdout", start=start, end=end, line_start=line, source=source)
        )
        for start, end, line in [(0, 6, 0), (6, 8, 4), (8, 18, 8)]
    ] + [
        stamped(
            OutputReceived(
                stream="stdout", start=18, end=18, line_start=14, last=True, source=source
            )
        )
    ]


def test_lines_for_sync_receivers(bus: Bus, signals: TaskSignals, source: TaskOutput) -> None:
    """Lines come after the range that completes them, numbered; a broken receiver hides none."""
    calls: list[Any] = []

    def broken(event: OutputLine) -> None:
        raise RuntimeError

    signals.output_line.connect(broken)
    signals.output_line.connect(lambda event: calls.append((event.number, event.text)))
    signals.output_received.connect(lambda event: calls.append(event.end))
    signals.output_line.blinker.connect(
        lambda task, event: calls.append(event.text.upper()), weak=False
    )
    for event in ranges(source):
        bus.emit(event)
    assert calls == [
        *(6, (1, "one"), "ONE"),
        *(8, (2, "two"), "TWO"),
        *(18, (3, "three"), "THREE"),
        *(18, (4, "half"), "HALF"),
    ]


def test_no_lines_for_receivers_of_everything(
    bus: Bus, signals: TaskSignals, source: TaskOutput
) -> None:
    """A receiver of any event is not flooded with lines: it has the ranges."""
    calls: list[TaskEvent] = []
    signals.any_event.connect(calls.append)
    signals.output_line.connect(lambda event: None)
    for event in ranges(source):
        bus.emit(event)
    assert [type(event) for event in calls] == [OutputReceived] * 4


def test_wants_output(bus: Bus, signals: TaskSignals) -> None:
    """Whether anybody looks at output is known: the engine moves larger pieces if not."""
    signals.task_started.connect(lambda event: None)
    assert not bus.wants_output()
    with signals.output_line.connect(lambda event: None):
        assert bus.wants_output()
    assert not bus.wants_output()
    with bus.open_stream((TaskEnded,), None):
        assert bus.wants_output()
    assert not bus.wants_output()
    signals.output_received.blinker.connect(test_wants_output)
    assert bus.wants_output()


# -- mailboxes -------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("stdout", "stderr", "started", "take")),
            st.integers(0, 3),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_merging_loses_and_doubles_nothing(script: list[tuple[str, int, bool]]) -> None:
    """Whatever is merged while a consumer is busy, each byte and event comes once, in order."""
    mailbox = Mailbox()
    ends = {("stdout", REF): 0, ("stderr", REF): 0, ("stdout", OTHER): 0, ("stderr", OTHER): 0}
    sent: list[TaskEvent] = []
    got: list[TaskEvent] = []
    seq = 0
    sizes = (1, 1000, MERGE_LIMIT // 2, MERGE_LIMIT)

    def take() -> None:
        got.append(mailbox._pop()[0])

    for kind, size, other in script:
        task = OTHER if other else REF
        seq += 1
        if kind == "take":
            if len(mailbox):
                take()
            continue
        if kind == "started":
            event: TaskEvent = stamped(TaskStarted(pid=1, argv=()), seq, task)
        else:
            start = ends[kind, task]
            ends[kind, task] = start + sizes[size]
            event = stamped(
                OutputReceived(
                    stream=kind,  # type: ignore[arg-type]
                    start=start,
                    end=start + sizes[size],
                    line_start=start,
                ),
                seq,
                task,
            )
        sent.append(event)
        mailbox.put(event)
    while len(mailbox):
        take()
    for task in (REF, OTHER):
        ours = [event for event in got if event.task == task]
        assert [e for e in ours if isinstance(e, TaskStarted)] == [
            e for e in sent if isinstance(e, TaskStarted) and e.task == task
        ]
        assert [e.seq for e in ours] == sorted(e.seq for e in ours)
        for stream in ("stdout", "stderr"):
            position = 0
            for event in ours:
                if isinstance(event, OutputReceived) and event.stream == stream:
                    assert event.start == position
                    assert event.line_start <= event.start
                    assert event.end - event.start <= MERGE_LIMIT
                    assert event.first_seq <= event.seq
                    position = event.end
            assert position == ends[stream, task]


# -- async receivers -------------------------------------------------------------------------------


@asynccontextmanager
async def working(bus: Bus) -> AsyncIterator[None]:
    """Let a bus have workers."""
    async with anyio.create_task_group() as group:

        async def work(function: Callable[[], Awaitable[None]]) -> None:
            await function()

        def start(function: Callable[[], Awaitable[None]]) -> None:
            group.start_soon(work, function)

        bus.start_worker = start
        yield
        bus.close()
        bus.start_worker = None


@pytest.mark.anyio
async def test_async_receivers_have_their_own_order(bus: Bus, signals: TaskSignals) -> None:
    """A slow async receiver has every event in order and delays no other."""
    slow: list[int] = []
    quick: list[int] = []
    release = anyio.Event()

    async def wait(event: TaskEvent) -> None:
        await release.wait()
        slow.append(event.seq)

    async def note(event: TaskEvent) -> None:
        quick.append(event.seq)

    async with working(bus):
        signals.any_event.connect(wait)
        signals.any_event.connect(note)
        for seq in range(1, 6):
            bus.emit(stamped(TaskRemoved(), seq))
        await anyio.wait_all_tasks_blocked()
        assert (slow, quick) == ([], [1, 2, 3, 4, 5])
        release.set()
    assert slow == [1, 2, 3, 4, 5]


@pytest.mark.anyio
async def test_every_kind_of_async_receiver(bus: Bus, signals: TaskSignals) -> None:
    """Partials, objects and lambdas around async functions are awaited like any other."""
    calls: list[str] = []

    async def note(name: str, event: TaskEvent) -> None:
        await anyio.lowlevel.checkpoint()
        calls.append(name)

    class Listener:
        async def __call__(self, event: TaskEvent) -> None:
            await note("object", event)

        async def hear(self, event: TaskEvent) -> None:
            await note("method", event)

    listener = Listener()
    async with working(bus):
        signals.task_started.connect(functools.partial(note, "partial"))
        signals.task_started.connect(listener)
        signals.task_started.connect(listener.hear)
        signals.task_started.connect(lambda event: note("lambda", event))
        bus.emit(STARTED)
        bus.emit(STARTED)
        await anyio.wait_all_tasks_blocked()
    assert sorted(calls) == sorted(["partial", "object", "method", "lambda"] * 2)


@pytest.mark.anyio
async def test_deliveries_of_the_end(bus: Bus, signals: TaskSignals) -> None:
    """Whoever ends a task can wait until async receivers have had the end."""
    done: list[str] = []

    async def receive(event: TaskEvent) -> None:
        await anyio.lowlevel.checkpoint()
        done.append(event.name)

    async with working(bus):
        signals.any_event.connect(receive)
        signals.task_ended.connect(receive)
        assert bus.emit(STARTED) == []
        deliveries = bus.emit(ENDED)
        assert len(deliveries) == 2
        for delivery in deliveries:
            await delivery.wait()
        # Each has its own worker: between the two there is no order.
        assert sorted(done) == ["task.completed", "task.completed", "task.started"]


@pytest.mark.anyio
async def test_closed_async_receiver_gets_nothing_more(bus: Bus, signals: TaskSignals) -> None:
    """What waits for an async receiver when it is disconnected is given up, and nobody waits."""
    calls: list[TaskEvent] = []
    release = anyio.Event()

    async def receive(event: TaskEvent) -> None:
        calls.append(event)
        await release.wait()

    async with working(bus):
        subscription = signals.any_event.connect(receive)
        bus.emit(STARTED)
        (delivery,) = bus.emit(ENDED)
        await anyio.wait_all_tasks_blocked()
        subscription.close()
        release.set()
        with anyio.fail_after(10):
            await delivery.wait()
    assert calls == [STARTED]


@pytest.mark.anyio
async def test_lines_for_async_receivers(
    bus: Bus, signals: TaskSignals, source: TaskOutput
) -> None:
    """An async receiver of lines has each of them, also when ranges were merged meanwhile."""
    calls: list[tuple[int, str]] = []
    release = anyio.Event()

    async def receive(event: OutputLine) -> None:
        calls.append((event.number, event.text))
        await release.wait()

    async with working(bus):
        signals.output_line.connect(receive)
        for event in ranges(source):
            bus.emit(event)
        await anyio.wait_all_tasks_blocked()
        assert calls == [(1, "one")]
        release.set()
    assert calls == [(1, "one"), (2, "two"), (3, "three"), (4, "half")]


@pytest.mark.anyio
async def test_stream(bus: Bus, signals: TaskSignals, source: TaskOutput) -> None:
    """A stream has the events of its types, lines among them, and ends when the bus closes."""
    stream = bus.open_stream((OutputLine, TaskEnded), None)
    for event in ranges(source):
        bus.emit(event)
    bus.emit(ENDED)
    bus.close()
    with anyio.fail_after(10):
        found = [event async for event in stream]
    assert [event.text for event in found if isinstance(event, OutputLine)] == [
        "one",
        "two",
        "three",
        "half",
    ]
    assert found[-1] == ENDED


@pytest.mark.anyio
async def test_stream_of_a_task_ends_with_it(bus: Bus) -> None:
    """A stream for one task ends after its terminal event, and is forgotten by the bus."""
    stream = bus.open_stream((), REF.uid)
    bus.emit(STARTED)
    bus.emit(stamped(TaskRemoved(), task=OTHER))
    bus.emit(ENDED)
    with anyio.fail_after(10):
        assert [event async for event in stream] == [STARTED, ENDED]
    assert not bus._streams

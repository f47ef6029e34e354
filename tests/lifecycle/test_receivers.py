"""Receivers that misbehave change nothing for anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import sniffio

from eventbus_tasks import (
    EventSignal,
    HandlerFailed,
    Outcome,
    OutputLine,
    OutputReceived,
    Reason,
    Task,
    TaskAccepted,
    TaskCancelled,
    TaskCompleted,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskRemoved,
    TaskStarted,
    TaskStatus,
    TaskStopping,
)

from .conftest import GUARD, Recorder, Stage, check_story, until

pytestmark = pytest.mark.anyio


class ReceiverPanic(BaseException):
    """No `Exception`: what only careless code raises."""


async def whole_life(stage: Stage, engine: TaskEngine) -> Task:
    """Run a task that writes, is asked to stop and ends; check what is always true."""
    later = Recorder()

    async def receive(event: TaskEvent) -> None:
        later(event)

    with (
        engine.signals.any_event.connect(receive),
        engine.subscribe(TaskEvent) as stream,
    ):
        task, puppet = await stage.start(engine)
        puppet.say("one\ntwo\n")
        await stage.recorder.until(OutputReceived, task)
        with anyio.fail_after(GUARD):
            assert await task.cancel()
        streamed: list[TaskEvent] = []
        with anyio.fail_after(GUARD):
            async for event in stream:
                if event.task.uid == task.uid:
                    streamed.append(event)
                if isinstance(event, TaskEnded):
                    break
        await later.until(TaskEnded, task)
    assert task.output.text() == "one\ntwo\n"
    stage.check(task)
    for events in (later.of(TaskEvent, task), streamed):
        check_story([e for e in events if not isinstance(e, HandlerFailed)], task)
    assert not puppet.living()
    return task


def cancelled_error() -> BaseException:
    """Return what cancels code on the backend that runs."""
    if sniffio.current_async_library() == "asyncio":
        return asyncio.CancelledError()
    return ReceiverPanic("trio's own cannot be made by hand")


FAULTS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: RuntimeError("no"),
    "exit": lambda: SystemExit(1),
    "panic": lambda: ReceiverPanic("no"),
    "stop-iteration": StopIteration,
    "generator-exit": GeneratorExit,
    "cancelled": cancelled_error,
    "group": lambda: BaseExceptionGroup("no", [SystemExit(1), ValueError("no")]),
}

MOMENTS: list[type[TaskEvent]] = [
    TaskAccepted,
    TaskStarted,
    OutputReceived,
    OutputLine,
    TaskStopping,
    TaskCancelled,
]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("sync", "exception"), ("sync", "exit"), ("blinker", "exit"), ("blinker", "panic")]
    + [("async", fault) for fault in FAULTS],
)
async def test_receiver_that_raises(stage: Stage, kind: str, fault: str) -> None:
    """A receiver that raises anything, at every event, is named; all others have everything."""
    calls: list[TaskEvent] = []

    def sync(event: TaskEvent) -> None:
        calls.append(event)
        error = FAULTS[fault]()
        raise error

    async def later(event: TaskEvent) -> None:
        calls.append(event)
        await anyio.lowlevel.checkpoint()
        error = FAULTS[fault]()
        raise error

    def like_blinker(sender: Any, event: TaskEvent) -> None:
        sync(event)

    async with stage.engine() as engine:
        for moment in MOMENTS:
            signal: EventSignal[TaskEvent] = engine.signals.of(moment)
            if kind == "blinker":
                signal.blinker.connect(like_blinker)
            else:
                signal.connect(sync if kind == "sync" else later)
        task = await whole_life(stage, engine)
    # Both lines, and one of each other event; the async one may have had merged output.
    assert {type(event) for event in calls} == set(MOMENTS)
    failures = stage.recorder.of(HandlerFailed)
    assert len(failures) == len(calls)
    assert {event.task for event in failures} == {task.ref}


async def test_receiver_of_failures_that_raises(stage: Stage) -> None:
    """A receiver of `HandlerFailed` that raises itself does not begin an endless story."""
    calls: list[TaskEvent] = []

    def broken(event: TaskEvent) -> None:
        calls.append(event)
        raise RuntimeError("no")

    async def broken_later(event: TaskEvent) -> None:
        broken(event)

    async with stage.engine() as engine:
        engine.signals.handler_failed.connect(broken)
        engine.signals.handler_failed.connect(broken_later)
        engine.signals.task_started.connect(broken)
        await whole_life(stage, engine)
    assert len(calls) == 3


async def test_async_receiver_that_never_returns(stage: Stage) -> None:
    """One that hangs at every event delays nobody but those who wait, once, for a deadline."""

    async def hang(event: TaskEvent) -> None:
        await anyio.sleep_forever()

    async with stage.engine(receiver_deadline=0.05) as engine:
        for moment in MOMENTS:
            engine.signals.of(moment).connect(hang)
        for _ in range(3):
            await whole_life(stage, engine)
    overran = [event for event in stage.recorder.of(HandlerFailed) if event.overran]
    # Named once; after that nobody waits for it any more.
    assert len(overran) == 1
    assert "hang" in overran[0].where


async def test_async_receiver_that_swallows_cancellation_once(stage: Stage) -> None:
    """One that does not go at the first request does not keep the engine from closing."""
    asked = 0

    async def stubborn(event: TaskEvent) -> None:
        nonlocal asked
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            asked += 1
            if asked == 1:
                await anyio.sleep_forever()
            raise

    async with stage.engine(receiver_deadline=0.05) as engine:
        engine.signals.task_cancelled.connect(stubborn)
        await whole_life(stage, engine)
    assert asked >= 1


async def test_async_receiver_that_waits_for_the_task(stage: Stage) -> None:
    """Inside a receiver of any event `wait` returns the outcome, and is no deadlock."""
    outcomes: dict[str, Outcome] = {}

    async with stage.engine() as engine:

        async def wait(event: TaskEvent) -> None:
            outcomes[event.name] = await engine.get_task(event.task).wait()

        # One worker each: none may wait for another.
        for moment in MOMENTS:
            engine.signals.of(moment).connect(wait)
        task = await whole_life(stage, engine)
    assert set(outcomes) == {moment.name for moment in MOMENTS}
    assert set(map(id, outcomes.values())) == {id(task.outcome)}


@pytest.mark.parametrize("moment", [TaskAccepted, TaskStarted, OutputReceived, OutputLine])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_receiver_that_cancels_the_task(
    stage: Stage, kind: str, moment: type[TaskEvent]
) -> None:
    """A receiver may cancel the task that it hears of, also from within the event."""
    async with stage.engine() as engine:

        def sync(event: TaskEvent) -> None:
            engine.get_task(event.task).cancel_nowait()

        async def later(event: TaskEvent) -> None:
            await engine.get_task(event.task).cancel()

        engine.signals.of(moment).connect(sync if kind == "sync" else later)
        argv = ["sh", "-c", "echo line; sleep 1000"]
        task = await engine.spawn_task("t", argv=argv, project_dir=stage.project)
        with anyio.fail_after(GUARD):
            outcome = await task.wait()
    assert outcome.reason is Reason.CANCELLED
    stage.check(task)


def cancel_current_task() -> None:
    """Cancel, natively, the asyncio task that runs this."""
    current = asyncio.current_task()
    assert current is not None
    current.cancel()


async def cancels_itself_at_once(event: TaskEvent) -> None:
    """Leave a cancellation pending and return."""
    cancel_current_task()


async def cancels_itself_and_waits(event: TaskEvent) -> None:
    """Meet the cancellation before returning."""
    cancel_current_task()
    await anyio.sleep_forever()


async def cancels_itself_and_swallows_it(event: TaskEvent) -> None:
    """Meet the cancellation and ignore it."""
    cancel_current_task()
    try:
        await anyio.sleep_forever()
    except asyncio.CancelledError:
        return


@pytest.mark.parametrize(
    "receiver", [cancels_itself_at_once, cancels_itself_and_waits, cancels_itself_and_swallows_it]
)
async def test_async_receiver_that_cancels_its_own_task(
    stage: Stage, receiver: Callable[[TaskEvent], Awaitable[None]]
) -> None:
    """An async receiver that cancels the asyncio task it runs in hurts only itself, and goes on."""
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("trio tasks cannot be cancelled from outside of scopes")
    calls: list[TaskEvent] = []

    async def counted(event: TaskEvent) -> None:
        calls.append(event)
        await receiver(event)

    async with stage.engine(receiver_deadline=2.0) as engine:
        for moment in MOMENTS:
            engine.signals.of(moment).connect(counted)
        first = await whole_life(stage, engine)
        second = await whole_life(stage, engine)
    for task in (first, second):
        assert {type(e) for e in calls if e.task.uid == task.uid} == set(MOMENTS)


async def test_sync_receiver_that_cancels_the_task_it_runs_in(stage: Stage) -> None:
    """A sync receiver that cancels the asyncio task it is called from hurts nobody."""
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("trio tasks cannot be cancelled from outside of scopes")
    calls: list[TaskEvent] = []

    def receive(event: TaskEvent) -> None:
        calls.append(event)
        cancel_current_task()

    async with stage.engine() as engine:
        for moment in MOMENTS:
            engine.signals.of(moment).connect(receive)
        await whole_life(stage, engine)
    assert {type(event) for event in calls} == set(MOMENTS)


async def test_receiver_that_cancels_a_scope_of_its_own(stage: Stage) -> None:
    """Scopes that a receiver opens and cancels are its own business."""
    calls: list[TaskEvent] = []

    async def receive(event: TaskEvent) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        calls.append(event)

    async with stage.engine() as engine:
        for moment in MOMENTS:
            engine.signals.of(moment).connect(receive)
        await whole_life(stage, engine)
    assert {type(event) for event in calls} == set(MOMENTS)
    assert not stage.recorder.of(HandlerFailed)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_receiver_that_disconnects_itself(stage: Stage, kind: str) -> None:
    """A receiver that disconnects itself has one event, and the next receiver all of them."""
    first: list[TaskEvent] = []
    second = Recorder()

    async with stage.engine() as engine:

        def connect(moment: type[TaskEvent]) -> None:
            def once(event: TaskEvent) -> None:
                first.append(event)
                subscription.close()

            async def once_later(event: TaskEvent) -> None:
                once(event)

            signal: EventSignal[TaskEvent] = engine.signals.of(moment)
            subscription = signal.connect(once if kind == "sync" else once_later)
            signal.connect(second)

        for moment in MOMENTS:
            connect(moment)
        await whole_life(stage, engine)
        await whole_life(stage, engine)
    assert sorted(event.name for event in first) == sorted(moment.name for moment in MOMENTS)
    for moment in MOMENTS:
        assert len(second.of(moment)) >= 2
    assert not stage.recorder.of(HandlerFailed)


async def test_receiver_that_disconnects_the_next_one(stage: Stage) -> None:
    """Who is disconnected by an earlier receiver of the same event does not get it any more."""
    late = Recorder()
    async with stage.engine() as engine:
        engine.signals.task_started.connect(lambda event: subscription.close())
        subscription = engine.signals.task_started.connect(late)
        await whole_life(stage, engine)
    assert not late.events


async def test_receiver_that_connects_another(stage: Stage) -> None:
    """A receiver that is connected during an event gets the next one, not this one twice."""
    late = Recorder()
    async with stage.engine() as engine:
        engine.signals.task_started.connect(
            lambda event: engine.signals.any_event.connect(late, task=event.task)
        )
        task = await whole_life(stage, engine)
    assert late.events[0].name == "output.received"
    assert isinstance(late.events[-1], TaskEnded)
    assert {event.task for event in late.events} == {task.ref}


async def test_receiver_that_removes_the_task(stage: Stage) -> None:
    """A receiver may remove a task at its end; `TaskRemoved` comes after the end, for everybody."""
    got = Recorder()
    async with stage.engine() as engine:
        engine.signals.task_ended.connect(lambda event: engine.remove_task(event.task))
        engine.signals.any_event.connect(got)
        task = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        outcome = await task.wait()
        assert engine.tasks == ()
    assert outcome.reason is Reason.EXITED
    assert [event.name for event in got.events][-2:] == ["task.completed", "task.removed"]
    assert got.of(TaskRemoved)


async def test_receiver_that_spawns_the_next_task(stage: Stage) -> None:
    """At the terminal event the project is free: a receiver starts the next task in it."""
    tasks: list[Task] = []

    async with stage.engine() as engine:

        async def start_next(event: TaskCompleted) -> None:
            if len(tasks) < 3:
                tasks.append(
                    await engine.spawn_task("next", argv=["true"], project_dir=stage.project)
                )

        engine.signals.task_completed.connect(start_next)
        await engine.spawn_task("first", argv=["true"], project_dir=stage.project)
        await stage.recorder.until(TaskCompleted, count=4)
        assert [task.id for task in tasks] == [2, 3, 4]
    assert not stage.recorder.of(HandlerFailed)
    for task in tasks:
        stage.check(task)


async def test_status_agrees_with_the_event(stage: Stage) -> None:
    """When an event is told the task is in the state that it speaks of."""
    seen: dict[str, TaskStatus] = {}
    async with stage.engine() as engine:

        def look(event: TaskEvent) -> None:
            seen.setdefault(event.name, engine.get_task(event.task).status)

        engine.signals.any_event.connect(look)
        await whole_life(stage, engine)
    assert seen == {
        "task.accepted": TaskStatus.PENDING,
        "task.started": TaskStatus.RUNNING,
        "output.received": TaskStatus.RUNNING,
        "task.stopping": TaskStatus.STOPPING,
        "task.signal_sent": TaskStatus.STOPPING,
        "task.cancelled": TaskStatus.CANCELLED,
    }


async def test_wait_returns_after_the_receivers(stage: Stage) -> None:
    """Who waits for a task outside of receivers goes on when all of them have had its end."""
    done: list[str] = []
    release = anyio.Event()

    async with stage.engine() as engine:

        async def slow(event: TaskEvent) -> None:
            await release.wait()
            done.append("receiver")

        engine.signals.task_completed.connect(slow)
        task = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        await stage.recorder.until(TaskCompleted)
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                await task.wait()
                done.append("waiter")

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert task.outcome is not None
            assert not done
            release.set()
    assert done == ["receiver", "waiter"]


async def test_slow_receiver_gets_merged_output(stage: Stage) -> None:
    """A receiver that is busy while much is written gets few, merged events, and every byte."""
    got = Recorder()
    release = anyio.Event()

    async with stage.engine() as engine:

        async def slow(event: OutputReceived) -> None:
            got(event)
            await release.wait()

        engine.signals.output_received.connect(slow)
        task, puppet = await stage.start(engine)
        puppet.say("0123456789abcde\n")
        await stage.recorder.until(OutputReceived, task)
        written = 16 + sum(puppet.say("0123456789abcde\n", times=4096) for _ in range(20))
        await until(lambda: task.output.size() == written)
        release.set()
        puppet.exit()
        await task.wait()
        events = got.of(OutputReceived)
        assert b"".join(event.data for event in events) == b"0123456789abcde\n" * (written // 16)
        assert sum(len(event.lines) for event in events) == written // 16
    sent = stage.recorder.of(OutputReceived, task)
    assert len(events) < len(sent)
    assert events[-1].seq == sent[-1].seq
    spans = [(event.first_seq or event.seq, event.seq) for event in events]
    assert [number for first, last in spans for number in range(first, last + 1)] == [
        event.seq for event in sent
    ]


async def test_subscribe_to_a_task(stage: Stage) -> None:
    """The iterator over a task's events ends after its terminal event; others do not show."""
    other = stage.new_project("other")
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        with (
            engine.subscribe(TaskEvent, task=task) as stream,
            engine.subscribe(OutputLine) as lines,
        ):
            await (await engine.spawn_task("o", argv=["true"], project_dir=other)).wait()
            puppet.say("one\ntwo\nend")
            puppet.exit()
            with anyio.fail_after(GUARD):
                events = [event async for event in stream]
            assert {event.task for event in events} == {task.ref}
            assert [event.name for event in events if event.name != "output.received"] == [
                "task.completed"
            ]
            texts = []
            with anyio.fail_after(GUARD):
                async for line in lines:
                    texts.append((line.number, line.text))
                    if len(texts) == 3:
                        break
            assert texts == [(1, "one"), (2, "two"), (3, "end")]


async def test_subscribe_ends_with_the_engine(stage: Stage) -> None:
    """An iterator ends when the engine closes, after all that was before."""
    async with stage.engine() as engine:
        stream = engine.subscribe(TaskStarted, TaskEnded)
        await (await engine.spawn_task("t", argv=["true"], project_dir=stage.project)).wait()
    with anyio.fail_after(GUARD):
        assert [event.name async for event in stream] == ["task.started", "task.completed"]


async def test_receiver_of_one_task(stage: Stage) -> None:
    """A receiver that is connected for one task hears of no other."""
    other = stage.new_project("other")
    got = Recorder()
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        engine.signals.any_event.connect(got, task=task.ref)
        await (await engine.spawn_task("o", argv=["true"], project_dir=other)).wait()
        puppet.exit()
        await task.wait()
    assert [event.name for event in got.events] == ["task.completed"]
    assert got.events[0].task == task.ref


async def test_no_receiver_at_all(stage: Stage) -> None:
    """A task that nobody looks at runs and ends like any other, and keeps its output."""
    from eventbus_tasks import Settings

    async with TaskEngine(Settings.load(), load_installed=False) as engine:
        argv = ["sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done"]
        task = await engine.spawn_task("t", argv=argv, project_dir=stage.project)
        outcome = await task.wait()
        assert task.output.tail() == [f"line {i}" for i in range(1000, 2000)]
        assert len(task.output.text().splitlines()) == 2000
    assert outcome.reason is Reason.EXITED

"""Cancelled at the first, second, third … await of a call, until the call completes uncancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

import anyio
import pytest
import sniffio

from eventbus_tasks import Reason, Task, TaskEnded, TaskEngine, TaskStarted

from .conftest import GUARD, QUICK, Stage, until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("native", [False, True])]

T = TypeVar("T")

MOST = 200
"""Awaits that no call here comes near to."""


class CancelledAt(Generic[T]):
    """Awaits something, and cancels whoever awaits it when it suspends for the `number`-th time."""

    def __init__(self, call: Awaitable[T], number: int, cancel: Callable[[], object]) -> None:
        self._call = call
        self._number = number
        self._cancel = cancel
        self.reached = False

    def __await__(self) -> Generator[Any, Any, T]:
        inner = self._call.__await__()
        value: Any = None
        error: BaseException | None = None
        count = 0
        while True:
            try:
                suspended = inner.send(value) if error is None else inner.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            value = error = None
            if count == self._number:
                self.reached = True
                self._cancel()
            count += 1
            try:
                value = yield suspended
            except BaseException as thrown:  # noqa: BLE001 - all of it belongs inside
                error = thrown


async def cancel_at(number: int, native: bool, call: Callable[[], Awaitable[object]]) -> bool:
    """Make a call, cancelled at one of its awaits; return whether it got as far as that."""
    reached = [False]

    async def caller() -> None:
        with anyio.CancelScope() as scope:
            task = asyncio.current_task() if native else None
            cancel = scope.cancel if task is None else task.cancel
            driven = CancelledAt(call(), number, cancel)
            try:
                await driven
            finally:
                reached[0] = driven.reached

    with anyio.fail_after(GUARD):
        if native:
            running = asyncio.ensure_future(caller())
            await asyncio.wait([running])
            assert running.cancelled() or running.exception() is None
        else:
            await caller()
    return reached[0]


def check_backend(native: bool) -> None:
    """Leave out what trio does not have."""
    if native and sniffio.current_async_library() != "asyncio":
        pytest.skip("trio has no other cancellation than by scopes")


async def only_run(engine: TaskEngine, count: int) -> None:
    """Wait until what was cancelled, also on its way to being accepted, has ended."""
    # A caller that is cancelled at once can be back before its request was even looked at.
    await anyio.wait_all_tasks_blocked()
    await until(lambda: engine._active == count)


@pytest.mark.parametrize("when_busy", ["reject", "queue"])
async def test_spawn(stage: Stage, native: bool, when_busy: Any) -> None:
    """A `spawn_task` that is cancelled at any of its awaits leaves no task, process or lock."""
    check_backend(native)
    got: list[Task] = []
    async with stage.engine() as engine:

        async def spawn() -> None:
            got.append(
                await engine.spawn_task(
                    "t",
                    argv=["sleep", "1000"],
                    project_dir=stage.project,
                    policy=QUICK,
                    when_busy=when_busy,
                )
            )

        for number in range(MOST):
            reached = await cancel_at(number, native, spawn)
            if not reached:
                break
            for task in got:  # it was done when the cancellation came
                await task.cancel(now=True)
            await only_run(engine, 0)
        else:
            pytest.fail("no end of awaits")
        await stage.recorder.until(TaskStarted, got[-1])
        await got[-1].cancel(now=True)
    assert number > 0
    for task in engine.tasks:
        assert task.outcome is not None
        assert task.outcome.reason is Reason.CANCELLED
        stage.check(task)


async def test_spawn_into_a_queue(stage: Stage, native: bool) -> None:
    """The same while the project is taken: nobody stays in the queue, and the holder works on."""
    check_backend(native)
    got: list[Task] = []
    async with stage.engine() as engine:
        holder, puppet = await stage.start(engine)

        async def spawn() -> None:
            got.append(
                await engine.spawn_task(
                    "t", argv=["true"], project_dir=stage.project, when_busy="queue"
                )
            )

        for number in range(MOST):
            if not await cancel_at(number, native, spawn):
                break
            for task in got:
                await task.cancel()
            await only_run(engine, 1)
        puppet.exit()
        assert (await got[-1].wait()).reason is Reason.EXITED
        assert (await holder.wait()).reason is Reason.EXITED


async def test_wait(stage: Stage, native: bool) -> None:
    """A `wait` that is cancelled at any of its awaits leaves the task alone."""
    check_backend(native)
    async with stage.engine() as engine:
        for number in range(MOST):
            task, puppet = await stage.start(engine)
            if number:
                puppet.exit()
            if not await cancel_at(number, native, task.wait):
                break
            if not number:
                assert task.is_running
                puppet.exit()
            assert (await task.wait()).reason is Reason.EXITED
            stage.check(task)
        assert number > 0


async def test_cancel(stage: Stage, native: bool) -> None:
    """A `cancel` that is cancelled at any of its awaits has the task ended all the same."""
    check_backend(native)
    async with stage.engine() as engine:
        for number in range(MOST):
            task, puppet = await stage.start(engine)
            reached = await cancel_at(number, native, task.cancel)
            assert (await task.wait()).reason is Reason.CANCELLED
            assert not puppet.living()
            stage.check(task)
            if not reached:
                break
        assert number > 0


async def test_close(stage: Stage, native: bool) -> None:
    """An engine whose closing is cancelled at any await has ended its tasks when it returns."""
    check_backend(native)
    reached = [True]
    tasks: list[Task] = []

    async def host(number: int) -> None:
        with anyio.CancelScope() as scope:
            engine = stage.engine()
            await engine.__aenter__()
            task, _ = await stage.start(engine, project=stage.new_project(f"p{number}"))
            tasks.append(task)
            current = asyncio.current_task() if native else None
            cancel = scope.cancel if current is None else current.cancel
            driven = CancelledAt(engine.__aexit__(None, None, None), number, cancel)
            try:
                await driven
            finally:
                reached[0] = driven.reached

    for number in range(MOST):
        if native:
            running = asyncio.ensure_future(host(number))
            await asyncio.wait([running])
            assert running.cancelled() or running.exception() is None
        else:
            await host(number)
        outcome = tasks[-1].outcome
        assert outcome is not None
        assert outcome.reason is Reason.ENGINE_CLOSED
        assert len(stage.recorder.of(TaskEnded, tasks[-1])) == 1
        assert not stage.puppets[-1].living()
        if not reached[0]:
            break
    assert len(tasks) > 1

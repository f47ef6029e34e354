"""Cancelling tasks and those who wait for them, at every moment."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

from eventbus_tasks import (
    OutputReceived,
    ProjectBusyError,
    Reason,
    Step,
    Task,
    TaskCancelled,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskStatus,
    TaskStopping,
)

from .conftest import GUARD, QUICK, Stage, until

pytestmark = pytest.mark.anyio


async def is_free(stage: Stage, engine: TaskEngine) -> bool:
    """Whether the project can be used."""
    try:
        task = await engine.spawn_task("probe", argv=["true"], project_dir=stage.project)
    except ProjectBusyError:
        return False
    return (await task.wait()).reason is Reason.EXITED


async def until_free(stage: Stage, engine: TaskEngine) -> None:
    """Wait until the project can be used: what is cancelled ends in the background."""
    with anyio.fail_after(GUARD):
        while True:
            if await is_free(stage, engine):
                return
            await anyio.sleep(0.002)


async def settled(engine: TaskEngine) -> None:
    """Wait until no task runs."""
    await until(lambda: not engine.running_tasks)


async def test_cancel_before_the_start(stage: Stage) -> None:
    """A task that is cancelled while it is PENDING starts nothing and frees its project."""
    async with stage.engine() as engine:
        task = await engine.spawn_task("t", argv=["sleep", "1000"], project_dir=stage.project)
        assert task.status is TaskStatus.PENDING
        assert task.cancel_nowait()
        outcome = await task.wait()
        assert await is_free(stage, engine)
    assert (outcome.reason, outcome.return_code) == (Reason.CANCELLED, None)
    assert stage.recorder.names(task) == ["task.accepted", "task.cancelled"]
    stage.check(task)


async def test_cancel_after_some_passes(stage: Stage) -> None:
    """However far its start has come, a task is cancelled, once, and frees its project."""
    tasks = []
    async with stage.engine() as engine:
        for passes in range(12):
            task = await engine.spawn_task(
                "t", argv=["sleep", "1000"], project_dir=stage.project, policy=QUICK
            )
            tasks.append(task)
            for _ in range(passes):
                await anyio.sleep(0.001)
            assert await task.cancel()
    for task in tasks:
        assert len(stage.recorder.of(TaskCancelled, task)) == 1
        stage.check(task)


async def test_cancel_twice(stage: Stage) -> None:
    """Calls that overlap or follow share one ladder and one end."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        puppet.ignore(signal.SIGTERM)
        assert task.cancel_nowait()
        assert task.cancel_nowait()
        assert await task.cancel()
        assert await task.cancel()
        assert not task.cancel_nowait()
    assert len(stage.recorder.of(TaskStopping, task)) == 1
    stage.check(task)


async def test_cancel_from_three_tasks_at_once(stage: Stage) -> None:
    """Three who cancel together all learn that the task was cancelled, and it ends once."""
    answers: list[bool] = []
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        puppet.spawn(session=True)
        async with anyio.create_task_group() as group:
            for now in (False, True, False):

                async def cancel(now: bool = now) -> None:
                    answers.append(await task.cancel(now=now))

                group.start_soon(cancel)
        assert not puppet.living()
    assert answers == [True] * 3
    assert len(stage.recorder.of(TaskStopping, task)) == 1
    stage.check(task)


async def test_second_cancel_shortens_the_ladder(stage: Stage) -> None:
    """A cancel with `now` ends a ladder that would have taken an hour."""
    policy = QUICK.with_changes(steps=(Step(signal=signal.SIGTERM, grace=3600),))
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine, policy=policy)
        puppet.ignore(signal.SIGTERM)
        child = puppet.spawn(daemon=True, wipe_environment=True, ignore=[signal.SIGTERM])
        task.cancel_nowait()
        await stage.recorder.until(TaskStopping, task)
        with anyio.fail_after(GUARD):
            assert await task.cancel(now=True)
        assert not child.is_alive
    stage.check(task)


async def test_cancel_after_the_exit(stage: Stage) -> None:
    """A cancel that comes after the end changes nothing."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        puppet.exit()
        outcome = await task.wait()
        events = list(stage.recorder.of(TaskEvent, task))
        assert not task.cancel_nowait()
        assert not await task.cancel()
        assert not await engine.cancel_task(task.id)
        assert task.outcome is outcome
    assert stage.recorder.of(TaskEvent, task) == events
    assert outcome.reason is Reason.EXITED
    stage.check(task)


async def test_cancel_while_leftovers_are_swept(stage: Stage) -> None:
    """A cancel after the exit of the program, while its family lives, changes nothing."""
    policy = QUICK.with_changes(exit_grace=3600.0)
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine, policy=policy)
        child = puppet.spawn(session=True)
        puppet.exit(0)
        await until(lambda: task.return_code is not None)
        assert not task.cancel_nowait()
        assert task.status is TaskStatus.RUNNING
        child.kill()
        outcome = await task.wait()
    assert outcome.reason is Reason.EXITED
    stage.check(task)


async def test_waiter_is_cancelled(stage: Stage) -> None:
    """Who stops waiting for a task, or for its cancellation, does not stop the task."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        with anyio.move_on_after(0.01) as scope:
            await task.wait()
        assert scope.cancelled_caught
        assert task.status is TaskStatus.RUNNING
        puppet.say("still here\n")
        await stage.recorder.until(OutputReceived, task)
        puppet.exit()
        assert (await task.wait()).reason is Reason.EXITED
    stage.check(task)


async def test_canceller_is_cancelled(stage: Stage) -> None:
    """Who stops waiting for a cancellation leaves it under way."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        puppet.ignore(signal.SIGTERM)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await task.cancel()
        assert (await task.wait()).reason is Reason.CANCELLED
        assert not puppet.living()
    stage.check(task)


async def test_many_waiters(stage: Stage) -> None:
    """Everybody who waits gets the same outcome, also those who come late."""
    outcomes: list[Any] = []
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                outcomes.append(await task.wait())

            for _ in range(5):
                group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            puppet.exit(2)
        outcomes.append(await task.wait())
    assert len(outcomes) == 6
    assert all(outcome is task.outcome for outcome in outcomes)


# -- spawn is cancelled ----------------------------------------------------------------------------


async def test_spawn_is_cancelled(stage: Stage) -> None:
    """A caller may be cancelled at any await of `spawn_task`: no task and no process stays."""
    got: list[Task] = []
    async with stage.engine() as engine:

        async def spawn() -> None:
            got.append(
                await engine.spawn_task(
                    "t", argv=["sleep", "1000"], project_dir=stage.project, policy=QUICK
                )
            )

        for passes in [*range(10), 12, 15, 20, 30, 50]:
            async with anyio.create_task_group() as group:
                group.start_soon(spawn)
                for _ in range(passes):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            for task in got:  # it was quicker, so it is an ordinary task
                await task.cancel()
            await settled(engine)
            await until_free(stage, engine)
    for task in engine.tasks:
        stage.check(task)
    assert {event.outcome.reason for event in stage.recorder.of(TaskEnded)} <= {
        Reason.CANCELLED,
        Reason.EXITED,
    }


async def test_spawn_is_cancelled_natively(stage: Stage) -> None:
    """The same with the cancellation of asyncio tasks, which no scope holds back."""
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("trio has no other cancellation than by scopes")
    async with stage.engine() as engine:
        for passes in [*range(10), 12, 15, 20, 30, 50]:
            spawning = asyncio.ensure_future(
                engine.spawn_task(
                    "t", argv=["sleep", "1000"], project_dir=stage.project, policy=QUICK
                )
            )
            for _ in range(passes):
                await asyncio.sleep(0)
            spawning.cancel()
            try:
                task = await spawning
            except asyncio.CancelledError:
                pass
            else:
                await task.cancel()
            await settled(engine)
            await until_free(stage, engine)
    for task in engine.tasks:
        stage.check(task)


async def test_spawn_in_a_cancelled_scope(stage: Stage) -> None:
    """Whoever is cancelled already starts nothing that stays."""
    async with stage.engine() as engine:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await engine.spawn_task("t", argv=["sleep", "1000"], project_dir=stage.project)
        await settled(engine)
        await until_free(stage, engine)


# -- the engine closes -----------------------------------------------------------------------------


class BodyError(Exception):
    """What the body of a test raises."""


async def leave_by_error(_: anyio.CancelScope) -> None:
    """Raise."""
    raise BodyError


async def leave_by_scope(scope: anyio.CancelScope) -> None:
    """Be cancelled by a scope."""
    scope.cancel()
    await anyio.sleep_forever()


async def leave_by_native_cancel(_: anyio.CancelScope) -> None:
    """Be cancelled as an asyncio task."""
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await anyio.sleep_forever()


async def leave_with_cancel_pending(_: anyio.CancelScope) -> None:
    """Leave while the cancellation as an asyncio task has not been met yet."""
    current = asyncio.current_task()
    assert current is not None
    current.cancel()


async def leave_regularly(_: anyio.CancelScope) -> None:
    """Just leave."""
    return


WAYS: dict[str, Callable[[anyio.CancelScope], Any]] = {
    "return": leave_regularly,
    "error": leave_by_error,
    "scope": leave_by_scope,
    "native": leave_by_native_cancel,
    "native-pending": leave_with_cancel_pending,
}


@pytest.mark.parametrize("way", WAYS)
async def test_engine_closes(stage: Stage, way: str) -> None:
    """However its block is left, all tasks end as `engine_closed` and nothing of them stays."""
    if way.startswith("native") and sniffio.current_async_library() != "asyncio":
        pytest.skip("trio has no other cancellation than by scopes")
    tasks: list[Task] = []
    left: list[str] = []

    async def host() -> None:
        with anyio.CancelScope() as scope:
            async with stage.engine() as engine:
                for name in ("one", "two"):
                    task, puppet = await stage.start(engine, project=stage.new_project(name))
                    puppet.ignore(signal.SIGTERM)
                    puppet.spawn(daemon=True, wipe_environment=True)
                    tasks.append(task)
                pending = await engine.spawn_task(
                    "pending", argv=["sleep", "1000"], project_dir=stage.project
                )
                tasks.append(pending)
                await WAYS[way](scope)
        left.append("scope")

    with anyio.fail_after(GUARD):
        if way.startswith("native"):
            running = asyncio.ensure_future(host())
            with pytest.raises(asyncio.CancelledError):
                await running
        elif way == "error":
            with pytest.raises(BodyError):
                await host()
        else:
            await host()
    assert bool(left) == (way in ("return", "scope"))
    for puppet in stage.puppets:
        assert not puppet.living()
    for task in tasks:
        assert task.outcome is not None
        assert task.outcome.reason is Reason.ENGINE_CLOSED
        assert len(stage.recorder.of(TaskEnded, task)) == 1
        stage.check(task)


async def test_close_is_cancelled_while_it_waits(stage: Stage) -> None:
    """A cancellation during the closing takes effect after everything has ended."""
    async with anyio.create_task_group() as group:

        async def host() -> None:
            async with stage.engine() as engine:
                policy = QUICK.with_changes(steps=(Step(signal=signal.SIGTERM, grace=0.5),))
                _, puppet = await stage.start(engine, policy=policy)
                puppet.ignore(signal.SIGTERM)

        group.start_soon(host)
        await stage.recorder.until(TaskStopping)
        group.cancel_scope.cancel()
    (task,) = {event.task.uid for event in stage.recorder.of(TaskEnded)}
    assert task
    assert not stage.puppets[0].living()


async def test_close_is_cancelled_natively_many_times(stage: Stage) -> None:
    """Native cancellations that come again and again during the closing break nothing."""
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("trio has no other cancellation than by scopes")

    async def host() -> None:
        async with stage.engine() as engine:
            policy = QUICK.with_changes(steps=(Step(signal=signal.SIGTERM, grace=0.5),))
            _, puppet = await stage.start(engine, policy=policy)
            puppet.ignore(signal.SIGTERM)

    running = asyncio.ensure_future(host())
    await stage.recorder.until(TaskStopping)
    for _ in range(5):
        running.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError), anyio.fail_after(GUARD):
        await running
    assert len(stage.recorder.of(TaskEnded)) == 1
    assert not stage.puppets[0].living()


async def test_entering_is_cancelled(stage: Stage) -> None:
    """An engine whose start is cancelled leaves no warden and no thread."""
    for delay in (0.0, 0.001, 0.005, 0.01, 0.02, 0.05):
        with anyio.move_on_after(delay):
            async with stage.engine():
                await anyio.sleep_forever()

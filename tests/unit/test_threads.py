"""Calls that may hang, under a deadline, in threads that can be left behind."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator

import anyio
import pytest

from eventbus_tasks import _threads
from eventbus_tasks._threads import DaemonPool, DeadlineExceededError, _Job, call_with_deadline

from .conftest import until


@pytest.fixture
def pool() -> Iterator[DaemonPool]:
    """A pool."""
    made = DaemonPool("test worker")
    yield made
    made.close()


@pytest.mark.anyio
async def test_result_and_exception(pool: DaemonPool) -> None:
    """What the function returns or raises arrives, and one thread serves many calls."""
    idents = {await pool.run(threading.get_ident, deadline=10) for _ in range(20)}
    assert len(idents) == 1

    def broken() -> None:
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError, match="no"):
        await pool.run(broken, deadline=10)
    assert await pool.run(lambda: 5, deadline=10) == 5


@pytest.mark.anyio
async def test_deadline(pool: DaemonPool) -> None:
    """A call that overruns is left behind; others go on; its late result is undone."""
    release = threading.Event()
    undone: list[int] = []

    def slow() -> int:
        release.wait(60)
        return 7

    with pytest.raises(DeadlineExceededError, match=r"0\.05"):
        await pool.run(slow, deadline=0.05, undo=undone.append)
    assert await pool.run(lambda: 5, deadline=10) == 5
    assert not undone
    release.set()
    await until(lambda: undone)
    assert undone == [7]


@pytest.mark.anyio
async def test_cancelled_caller(pool: DaemonPool) -> None:
    """A caller that is cancelled leaves at once, and the result is undone."""
    release = threading.Event()
    undone: list[int] = []

    def slow() -> int:
        release.wait(60)
        return 7

    with anyio.move_on_after(0.02):
        await pool.run(slow, deadline=60, undo=undone.append)
    release.set()
    await until(lambda: undone)
    assert undone == [7]


@pytest.mark.anyio
async def test_cancelled_before(pool: DaemonPool) -> None:
    """For whoever is cancelled already a result is either handed over or undone: never lost."""
    undone: list[int] = []
    got: list[int] = []
    for _ in range(50):
        with anyio.CancelScope() as scope:
            scope.cancel()
            got.append(await pool.run(lambda: 7, deadline=60, undo=undone.append))
    await until(lambda: len(undone) + len(got) == 50)
    assert len(undone) + len(got) == 50


def test_result_that_comes_while_its_waiter_leaves() -> None:
    """A result that is there when the waiter gives up is undone, not lost."""
    undone: list[int] = []
    job = _Job(lambda: 7, lambda: None)
    job.execute()
    job.report()
    job.release(undone.append)
    assert undone == [7]


@pytest.mark.anyio
async def test_many_at_once(pool: DaemonPool) -> None:
    """There are as many threads as calls: one that hangs delays no other."""
    barrier = threading.Barrier(8, timeout=30)
    results: list[int] = []
    async with anyio.create_task_group() as group:

        async def call() -> None:
            results.append(await pool.run(barrier.wait, deadline=30))

        for _ in range(8):
            group.start_soon(call)
    assert sorted(results) == list(range(8))


@pytest.mark.anyio
async def test_brief_calls_do_not_compete(
    pool: DaemonPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brief calls are made in one thread, one after the other, in the order in which they came."""
    monkeypatch.setattr(_threads, "PATIENCE", 3600.0)
    came: list[int] = []
    made: list[int] = []
    idents: set[int] = set()

    def note(number: int) -> None:
        made.append(number)
        idents.add(threading.get_ident())

    async def call(number: int) -> None:
        came.append(number)  # trio begins with any of them
        await pool.run(lambda: note(number), deadline=30, brief=True)

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(call, number)
    assert made == came
    assert len(made) == 30
    assert len(idents) == 1


@pytest.mark.anyio
async def test_brief_call_that_hangs(pool: DaemonPool) -> None:
    """A brief call that waits for something delays no other, and gets its own result at last."""
    release = threading.Event()
    results: list[object] = []

    async def hang() -> None:
        results.append(await pool.run(lambda: release.wait(60), deadline=60, brief=True))

    async with anyio.create_task_group() as group:
        group.start_soon(hang)
        group.start_soon(hang)
        await anyio.wait_all_tasks_blocked()
        assert await pool.run(lambda: 5, deadline=30, brief=True) == 5
        assert await pool.run(lambda: 6, deadline=30, brief=True) == 6
        assert not results
        release.set()
    assert results == [True, True]


@pytest.mark.anyio
async def test_brief_call_that_is_given_up(
    pool: DaemonPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that overruns, raises or is cancelled while it waits its turn holds up nobody."""
    monkeypatch.setattr(_threads, "PATIENCE", 3600.0)
    release = threading.Event()
    with pytest.raises(DeadlineExceededError):
        await pool.run(lambda: release.wait(60), deadline=0.02, brief=True)
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0, deadline=30, brief=True)
    async with anyio.create_task_group() as group:
        hanging = functools.partial(pool.run, deadline=60, brief=True)
        group.start_soon(hanging, lambda: release.wait(60))
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.02) as scope:
            await pool.run(lambda: 5, deadline=30, brief=True)
        assert scope.cancelled_caught
        release.set()
    assert await pool.run(lambda: 5, deadline=30, brief=True) == 5


def test_blocking_call() -> None:
    """The blocking variant hands over results and exceptions, and gives up at its deadline."""
    release = threading.Event()
    assert call_with_deadline(lambda: 5, 10) == 5
    with pytest.raises(ZeroDivisionError):
        call_with_deadline(lambda: 1 // 0, 10)
    with pytest.raises(DeadlineExceededError):
        call_with_deadline(lambda: release.wait(60), 0.05)
    release.set()

"""The origin's manager and event loops: several, closed ones, trio; with nothing but its names."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from eventbus_tasks import ClaudeTask, TaskManager, TaskStatus

if TYPE_CHECKING:
    from .conftest import Eyes

ON_TRIO = pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])


async def until(condition: Callable[[], object]) -> None:
    """Look until something is true, while the loop goes on."""
    while not condition():  # noqa: ASYNC110 - of what is looked at there is no event
        await anyio.sleep(0.005)


async def run_one(name: str, script: str, project: Path) -> ClaudeTask:
    """Run one task to its end, with the manager of the process."""
    tm = TaskManager()
    task = await tm.spawn_task(name, script, project)
    await until(lambda: task.status in (TaskStatus.COMPLETED, TaskStatus.FAILED))
    return task


async def begin(project: Path) -> ClaudeTask:
    """Start a task that does not end by itself, and let it run."""
    task = await TaskManager().spawn_task("long", "echo $$ > pid; exec sleep 600", project)
    await until(lambda: task.status is TaskStatus.RUNNING and (project / "pid").exists())
    return task


def test_several_runs(project: Path) -> None:
    """The manager works in each `asyncio.run`, with its handlers, its registry and new numbers."""
    tm = TaskManager()
    heard: list[ClaudeTask] = []
    tm.on("on_task_complete", heard.append)
    tasks = [asyncio.run(run_one(str(n), f"echo {n}", project)) for n in range(3)]
    assert tm.get_all_tasks() == tasks
    assert heard == tasks
    assert len({task.id for task in tasks}) == 3
    assert [task.output_lines for task in tasks] == [["0"], ["1"], ["2"]]
    asyncio.run(TaskManager.reset())


def test_end_of_a_run_ends_its_tasks(project: Path, eyes: Eyes) -> None:
    """When `asyncio.run` returns its tasks have ended, nothing of them is left, and they count."""
    before = eyes.belongings()["children"]
    heard: list[ClaudeTask] = []
    TaskManager().on("on_task_cancelled", heard.append)
    task = asyncio.run(begin(project))
    assert task.status is TaskStatus.CANCELLED
    assert heard == [task]
    assert eyes.belongings()["children"] <= before
    assert asyncio.run(run_one("next", "exit 0", project)).status is TaskStatus.COMPLETED
    assert [item.name for item in TaskManager().get_all_tasks()] == ["long", "next"]
    asyncio.run(TaskManager.reset())


@pytest.mark.parametrize("what", ["spawn", "cancel", "reset", "cleanup"])
def test_closed_loop(project: Path, tmp_path: Path, eyes: Eyes, what: str) -> None:
    """After a loop was closed under its tasks, whatever is called next ends them and works."""
    tm = TaskManager()
    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(begin(project))
    (process,) = eyes.processes(project / "pid", 1)
    loop.close()
    (tmp_path / "other").mkdir()

    async def go_on() -> None:
        with anyio.fail_after(20):
            match what:
                case "spawn":
                    other = await run_one("next", "exit 0", tmp_path / "other")
                    assert other.status is TaskStatus.COMPLETED
                case "cancel":
                    await tm.cancel_task(task.id)
                case "cleanup":
                    await run_one("next", "exit 0", tmp_path / "other")
                    assert tm.cleanup_task(task.id)
                case "reset":
                    await TaskManager.reset()

    asyncio.run(go_on())
    assert task.status is TaskStatus.CANCELLED
    assert task.completed_at is not None
    eyes.until(lambda: not process.alive)
    asyncio.run(TaskManager.reset())
    assert asyncio.run(run_one("last", "exit 0", project)).status is TaskStatus.COMPLETED
    asyncio.run(TaskManager.reset())


@ON_TRIO
@pytest.mark.anyio
async def test_trio_inside_the_block(project: Path) -> None:
    """On trio the manager works in `async with TaskManager():`, and ends its tasks with it."""
    async with TaskManager() as tm:
        assert tm is TaskManager()
        done = await run_one("one", "echo hello", project)
        left = await begin(project)
    assert done.output_lines == ["hello"]
    assert left.status is TaskStatus.CANCELLED


@ON_TRIO
@pytest.mark.anyio
async def test_trio_without_the_block(project: Path) -> None:
    """On trio without the block a spawn says what to do instead."""
    with pytest.raises(RuntimeError, match="async with TaskManager"):
        await TaskManager().spawn_task("one", "exit 0", project)
    assert TaskManager().get_all_tasks() == []


@ON_ASYNCIO
@pytest.mark.anyio
async def test_asyncio_inside_the_block(project: Path) -> None:
    """The block works on asyncio, too, and the manager without it before and afterwards."""
    first = await run_one("one", "exit 0", project)
    await TaskManager.reset()
    async with TaskManager() as tm:
        second = await run_one("two", "exit 0", project)
        left = await begin(project)
    assert left.status is TaskStatus.CANCELLED
    third = await run_one("three", "exit 0", project)
    assert {task.status for task in (first, second, third)} == {TaskStatus.COMPLETED}
    assert tm.get_all_tasks() == [second, left, third]
    await TaskManager.reset()


@ON_ASYNCIO
@pytest.mark.anyio
async def test_a_manager_that_nobody_holds_goes_on(project: Path) -> None:
    """A task survives garbage collection even when its manager has been given up."""
    ended = anyio.Event()

    async def begin() -> None:
        TaskManager().on("on_task_complete", lambda task: ended.set())
        await TaskManager().spawn_task("one", "until test -e go; do sleep 0.01; done", project)

    await begin()
    TaskManager._instance = None
    for _ in range(3):
        gc.collect()
        await anyio.lowlevel.checkpoint()
    (project / "go").touch()
    await ended.wait()

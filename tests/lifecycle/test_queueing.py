"""One task for each project: refused, queued or sharing; and no more tasks than may run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventbus_tasks import (
    InvalidRequestError,
    ProjectBusyError,
    Reason,
    Settings,
    SettingsError,
    Task,
    TaskCancelled,
    TaskEnded,
    TaskEngine,
    TaskQueued,
    TaskStarted,
    TaskStatus,
)
from eventbus_tasks._process.lock import ProjectLock

from .conftest import GUARD, QUICK, Stage, until

pytestmark = pytest.mark.anyio

HOLDER = """\
import os, sys
from pathlib import Path
from eventbus_tasks._process.lock import ProjectLock
lock = ProjectLock.acquire(Path(sys.argv[1]), Path(sys.argv[2]),
                           {"task": 77, "name": "elsewhere", "host_pid": os.getpid()})
print(type(lock).__name__, flush=True)
sys.stdin.read()
"""


async def queue(
    engine: TaskEngine, project: Path, *argv: str, timeout: float | None = None
) -> Task:
    """Spawn a task that queues up."""
    return await engine.spawn_task(
        "queued",
        argv=argv or ("true",),
        project_dir=project,
        policy=QUICK,
        when_busy="queue",
        timeout=timeout,
    )


async def test_queued_task_starts_when_the_project_is_free(stage: Stage) -> None:
    """A queued task is PENDING, says what it waits for, and starts after the one before it."""
    async with stage.engine() as engine:
        first, puppet = await stage.start(engine)
        second = await queue(engine, stage.project)
        told = await stage.recorder.until(TaskQueued, second)
        assert (told.why, told.ahead) == ("project", 0)
        assert (told.holder["task"], told.holder["name"]) == (first.id, "puppet")
        assert second.status is TaskStatus.PENDING
        puppet.exit()
        assert (await second.wait()).reason is Reason.EXITED
    started = stage.recorder.of(TaskStarted, second)[0]
    ended = stage.recorder.of(TaskEnded, first)[0]
    assert first.completed_at is not None
    assert stage.recorder.names(second) == [
        "task.accepted",
        "task.queued",
        "task.started",
        "task.completed",
    ]
    assert ended.outcome.reason is Reason.EXITED
    assert started.pid
    stage.check(first)
    stage.check(second)


async def test_queue_is_first_in_first_out(stage: Stage) -> None:
    """Tasks of one project run one at a time, in the order in which they were accepted."""
    book = stage.directory / "book"
    note = f"echo begin $0 >> {book}; echo end $0 >> {book}"
    async with stage.engine() as engine:
        _, puppet = await stage.start(engine)
        tasks = [await queue(engine, stage.project, "sh", "-c", note, str(i)) for i in range(8)]
        positions = [(await stage.recorder.until(TaskQueued, task)).ahead for task in tasks]
        puppet.exit()
        for task in tasks:
            assert (await task.wait()).reason is Reason.EXITED
    assert positions == list(range(8))
    expected = [f"{word} {i}" for i in range(8) for word in ("begin", "end")]
    assert book.read_text().splitlines() == expected


async def test_queued_task_is_cancelled_at_once(stage: Stage) -> None:
    """A queued task ends when it is cancelled, though its project stays taken; others move up."""
    async with stage.engine() as engine:
        first, puppet = await stage.start(engine)
        tasks = [await queue(engine, stage.project) for _ in range(3)]
        for task in tasks:
            await stage.recorder.until(TaskQueued, task)
        for task in (tasks[1], tasks[0]):  # from the middle and from the head
            assert await task.cancel()
            assert stage.recorder.names(task) == ["task.accepted", "task.queued", "task.cancelled"]
        assert first.status is TaskStatus.RUNNING
        puppet.exit()
        assert (await tasks[2].wait()).reason is Reason.EXITED
    for task in tasks:
        stage.check(task)


async def test_timeout_counts_from_the_start(stage: Stage) -> None:
    """A task with a timeout may wait in the queue for longer than that."""
    async with stage.engine() as engine:
        _, puppet = await stage.start(engine)
        task = await queue(engine, stage.project, timeout=GUARD)
        never = await queue(engine, stage.project, "sleep", "1000", timeout=0)
        await stage.recorder.until(TaskQueued, never)
        assert never.status is TaskStatus.PENDING
        puppet.exit()
        assert (await task.wait()).reason is Reason.EXITED
        assert (await never.wait()).reason is Reason.TIMED_OUT


async def test_close_ends_what_is_queued(stage: Stage) -> None:
    """Queued tasks of an engine that closes end as `engine_closed` and never start."""
    async with stage.engine() as engine:
        await stage.start(engine)
        tasks = [await queue(engine, stage.project) for _ in range(3)]
        await stage.recorder.until(TaskQueued, tasks[-1])
    for task in tasks:
        assert task.outcome is not None
        assert task.outcome.reason is Reason.ENGINE_CLOSED
        assert not stage.recorder.of(TaskStarted, task)
        assert len(stage.recorder.of(TaskCancelled, task)) == 1
        stage.check(task)
    assert not [*Settings.load().state_dir.glob("queues/*/*")]


async def test_nobody_passes_the_queue(stage: Stage) -> None:
    """A request that does not queue is refused while others wait, and the holder is named."""
    async with stage.engine() as engine, stage.engine() as other:
        task, puppet = await stage.start(engine)
        queued = await queue(engine, stage.project, "sleep", "1000")
        await stage.recorder.until(TaskQueued, queued)
        for asked in (engine, other):
            with pytest.raises(ProjectBusyError) as refused:
                await asked.spawn_task("t", argv=["true"], project_dir=stage.project)
            assert refused.value.holder["uid"] == task.uid
        puppet.exit()
        await stage.recorder.until(TaskStarted, queued)
        await queued.cancel(now=True)


async def test_sharing_takes_no_lock(stage: Stage) -> None:
    """Tasks that share run beside each other and beside the holder, and keep nobody out."""
    async with stage.engine(when_busy="share") as engine:
        _, one = await stage.start(engine)
        _, two = await stage.start(engine)
        third = await engine.spawn_task(
            "t", argv=["true"], project_dir=stage.project, when_busy="reject"
        )
        assert (await third.wait()).reason is Reason.EXITED
        assert not stage.recorder.of(TaskQueued)
        one.exit()
        two.exit()


async def test_mode_is_a_setting(stage: Stage) -> None:
    """The user's settings decide about requests that say nothing; a project's file does not."""
    (stage.project / ".eventbus-tasks.toml").write_text('when_busy = "share"\nmax_running = 1\n')
    async with stage.engine(when_busy="queue") as engine:
        _, puppet = await stage.start(engine)
        task = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        await stage.recorder.until(TaskQueued, task)
        with pytest.raises(ProjectBusyError):
            await engine.spawn_task(
                "t", argv=["true"], project_dir=stage.project, when_busy="reject"
            )
        puppet.exit()
        assert (await task.wait()).reason is Reason.EXITED


async def test_wrong_modes_are_refused(stage: Stage) -> None:
    """What is no mode, or no number of tasks, is refused by name."""
    async with stage.engine() as engine:
        with pytest.raises(InvalidRequestError, match="when_busy"):
            await engine.spawn_task(
                "t",
                argv=["true"],
                project_dir=stage.project,
                when_busy="later",  # type: ignore[arg-type]
            )
    with pytest.raises(SettingsError, match="max_running: must be at least 1"):
        stage.engine(max_running=0)


async def test_project_of_another_process(stage: Stage) -> None:
    """A task that waits for a project of another process starts when that process is killed.

    It attempts no more often than there is news, or once a second.
    """
    state = Settings.load().state_dir
    command = [sys.executable, "-c", HOLDER, str(stage.project), str(state)]
    async with stage.engine() as engine, await anyio.open_process(command, stdin=-1) as holder:
        assert holder.stdout is not None
        assert (await holder.stdout.receive()).startswith(b"ProjectLock")
        begun = anyio.current_time()
        task = await queue(engine, stage.project)
        told = await stage.recorder.until(TaskQueued, task)
        assert told.holder["name"] == "elsewhere"
        turn = engine._runs[task.id]._admittance
        await until(lambda: turn.attempts >= 2)
        with pytest.raises(ProjectBusyError) as refused:
            await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        assert refused.value.holder["host_pid"] == holder.pid
        for number in range(50):  # files that come and go in the project are no news
            (stage.project / f"file-{number}").write_text("x")
        # One refusal (and its closing) above is news, worth a few attempts.
        assert turn.attempts <= 30 + (anyio.current_time() - begun) * 2
        holder.send_signal(signal.SIGKILL)
        assert (await task.wait()).reason is Reason.EXITED


async def test_queue_goes_across_engines(stage: Stage) -> None:
    """Tasks of several engines, as of several processes, take turns in the order of acceptance."""
    book = stage.directory / "book"
    async with stage.engine() as one, stage.engine() as two:
        _, puppet = await stage.start(one)
        tasks = [
            await queue((one, two)[i % 2], stage.project, "sh", "-c", f"echo {i} >> {book}")
            for i in range(8)
        ]
        for i, task in enumerate(tasks):
            assert (await stage.recorder.until(TaskQueued, task)).ahead == i
        puppet.exit()
        for task in tasks:
            assert (await task.wait()).reason is Reason.EXITED
    assert book.read_text().split() == [str(i) for i in range(8)]


async def test_without_a_state_directory(stage: Stage) -> None:
    """Where no tickets can be drawn, the tasks of an engine still queue in order."""
    blocked = stage.directory / "state"
    blocked.mkdir()
    (blocked / "queues").write_text("in the way")
    book = stage.directory / "book"
    async with stage.engine(state_dir=blocked) as engine:
        _, puppet = await stage.start(engine)
        tasks = [
            await queue(engine, stage.project, "sh", "-c", f"echo {i} >> {book}") for i in range(4)
        ]
        puppet.exit()
        for task in tasks:
            assert (await task.wait()).reason is Reason.EXITED
    assert book.read_text().split() == ["0", "1", "2", "3"]


async def test_limit_of_running_tasks(stage: Stage) -> None:
    """No more tasks run than may; the others start in the order in which they were accepted."""
    async with stage.engine(max_running=2) as engine:
        started = [await stage.start(engine, project=stage.new_project(f"p{i}")) for i in range(2)]
        book = stage.directory / "book"
        waiting = []
        for i in range(5):
            task = await engine.spawn_task(
                "t",
                argv=["sh", "-c", f"echo {i} >> {book}"],
                project_dir=stage.new_project(f"q{i}"),
            )
            waiting.append(task)
            # Only those count as ahead that have come so far themselves.
            told = await stage.recorder.until(TaskQueued, task)
            assert (told.why, told.ahead, told.holder) == ("max_running", i, {})
            assert task.status is TaskStatus.PENDING
        assert await waiting[2].cancel()
        assert len([t for t in engine.tasks if t.status is TaskStatus.RUNNING]) == 2
        started[0][1].exit()
        for task in waiting[:2] + waiting[3:]:
            assert (await task.wait()).reason is Reason.EXITED
        assert book.read_text().split() == ["0", "1", "3", "4"]
        started[1][1].exit()


async def test_waiting_for_a_project_takes_no_place(stage: Stage) -> None:
    """A task that waits for its project keeps no other task from running."""
    held = ProjectLock.acquire(stage.project, Settings.load().state_dir, {"task": 1})
    assert isinstance(held, ProjectLock)
    async with stage.engine(max_running=1) as engine:
        blocked = await queue(engine, stage.project)
        await stage.recorder.until(TaskQueued, blocked)
        free = await engine.spawn_task(
            "t", argv=["true"], project_dir=stage.new_project("free"), when_busy="queue"
        )
        assert (await free.wait()).reason is Reason.EXITED
        held.close()
        assert (await blocked.wait()).reason is Reason.EXITED


async def test_forked_host_keeps_no_place(stage: Stage) -> None:
    """A forked copy of the host holds no ticket: the queue goes on when the host's task leaves."""
    held = ProjectLock.acquire(stage.project, Settings.load().state_dir, {"task": 1})
    assert isinstance(held, ProjectLock)
    async with stage.engine() as engine, stage.engine() as other:
        first = await queue(engine, stage.project)
        await stage.recorder.until(TaskQueued, first)
        reading, writing = os.pipe()
        copy = os.fork()
        if not copy:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        second = await queue(other, stage.project)
        await stage.recorder.until(TaskQueued, second)
        assert await first.cancel()
        held.close()
        assert (await second.wait()).reason is Reason.EXITED
        os.close(writing)
        await anyio.to_thread.run_sync(os.waitpid, copy, 0)

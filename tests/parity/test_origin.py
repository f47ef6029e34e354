"""Everything that the origin could do, through its own names and nothing else."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventbus_tasks import ClaudeTask, TaskManager, TaskStatus

if TYPE_CHECKING:
    from .conftest import Eyes

TERMINAL = ("on_task_complete", "on_task_failed", "on_task_cancelled")

LONG = "echo ready; exec sleep 600"
STUBBORN = """
trap '' TERM
setsid sleep 600 &
echo $$ $! > pids
exec sleep 600
"""
OTHER_PROCESS = """
import asyncio, os, sys
from pathlib import Path
from eventbus_tasks import TaskManager
async def main():
    task = await TaskManager().spawn_task("other", "exec sleep 600", Path(sys.argv[1]))
    os.write(1, b"accepted\\n")  # in one piece
    await asyncio.to_thread(sys.stdin.read)
    await TaskManager.reset()
asyncio.run(main())
"""


class Story:
    """What the handlers of a manager were told, and when a task's end was one of it."""

    def __init__(self, tm: TaskManager) -> None:
        self.ends: list[tuple[str, ClaudeTask]] = []
        self.lines: dict[int, list[str]] = defaultdict(list)
        self._ended: dict[int, anyio.Event] = defaultdict(anyio.Event)
        self._spoken: dict[int, anyio.Event] = defaultdict(anyio.Event)
        tm.on("on_output_line", self._hear)
        for event in TERMINAL:
            tm.on(event, functools.partial(self._end, event))

    def _hear(self, task: ClaudeTask, line: str) -> None:
        self.lines[task.id].append(line)
        self._spoken[task.id].set()

    def _end(self, event: str, task: ClaudeTask) -> None:
        self.ends.append((event, task))
        self._ended[task.id].set()

    async def first_line(self, task: ClaudeTask) -> None:
        """Wait until the task has written a line."""
        await self._spoken[task.id].wait()

    async def end(self, task: ClaudeTask) -> ClaudeTask:
        """Wait for the end of a task."""
        await self._ended[task.id].wait()
        return task


@pytest.fixture
async def story(tm: TaskManager) -> Story:
    """Listen to everything that the manager tells."""
    return Story(tm)


async def until(condition: Callable[[], object]) -> None:
    """Look until something is true, while the loop goes on."""
    while not condition():  # noqa: ASYNC110 - of what is looked at there is no event
        await anyio.sleep(0.005)


# -------------------------------------------------------------------------------- one manager


@pytest.mark.anyio
async def test_singleton(tm: TaskManager, project: Path) -> None:
    """Every `TaskManager()` is the same object, and sees the same tasks."""
    task = await tm.spawn_task("one", "true", project)
    assert TaskManager() is tm
    assert TaskManager().get_task(task.id) is task


@pytest.mark.anyio
async def test_instance_none_gives_a_fresh_one(tm: TaskManager, project: Path) -> None:
    """After `_instance = None` there is a new manager, with no tasks; the old one goes on."""
    task = await tm.spawn_task("one", LONG, project)
    TaskManager._instance = None
    fresh = TaskManager()
    try:
        assert fresh is not tm
        assert fresh.get_all_tasks() == []
        assert tm.get_all_tasks() == [task]
        assert await tm.cancel_task(task.id)
    finally:
        TaskManager._instance = tm


@pytest.mark.anyio
async def test_reset_gives_a_fresh_one_and_ends_all(
    tm: TaskManager, project: Path, tmp_path: Path, eyes: Eyes
) -> None:
    """`reset` ends what runs, and makes the next `TaskManager()` a new one that works."""
    task = await tm.spawn_task("one", "echo $$ > pid; exec sleep 600", project)
    await until((project / "pid").exists)
    (process,) = eyes.processes(project / "pid", 1)
    await TaskManager.reset()
    assert task.status is TaskStatus.CANCELLED
    assert not process.alive
    assert TaskManager() is not tm
    assert TaskManager().get_all_tasks() == []
    await TaskManager.reset()


@pytest.mark.anyio
async def test_reset_without_a_manager() -> None:
    """`reset` is harmless when there is nothing to reset, also twice."""
    await TaskManager.reset()
    TaskManager()
    await TaskManager.reset()
    await TaskManager.reset()


# ------------------------------------------------------------------------------------ one task


@pytest.mark.anyio
async def test_spawn_returns_a_pending_task(tm: TaskManager, story: Story, project: Path) -> None:
    """`spawn_task(name, prompt, Path)` does not wait for the start."""
    (project / "hold").touch()
    task = await tm.spawn_task("one", "exit 0", project)
    assert isinstance(task, ClaudeTask)
    assert task.status is TaskStatus.PENDING
    assert (task.process, task.started_at, task.completed_at) == (None, None, None)
    assert (task.return_code, task.output_lines) == (None, [])
    (project / "hold").unlink()
    assert (await story.end(task)).status is TaskStatus.COMPLETED


@pytest.mark.anyio
async def test_fields(tm: TaskManager, story: Story, project: Path) -> None:
    """A task has all of the origin's fields, true while it runs and true afterwards."""
    os.mkfifo(project / "fifo")
    script = "echo $$; read go < fifo; exit 3; # \N{SNOWMAN}"
    task = await tm.spawn_task("Auth", script, project)
    await story.first_line(task)
    assert task.status is TaskStatus.RUNNING
    assert task.process is not None
    assert task.process.pid == int(task.output_lines[0])
    assert (task.process.returncode, task.return_code, task.completed_at) == (None, None, None)
    (project / "fifo").write_text("go\n")
    await story.end(task)
    assert isinstance(task.id, int)
    assert (task.name, task.prompt, task.project_dir) == ("Auth", script, project)
    times = [task.created_at, task.started_at, task.completed_at]
    assert all(isinstance(time, datetime) and time.utcoffset() == timedelta() for time in times)
    assert times == sorted(time for time in times if time is not None)
    assert task.process is not None
    assert task.process.returncode == task.return_code == 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ("exit 0", TaskStatus.COMPLETED, 0),
        ("exit 3", TaskStatus.FAILED, 3),
        ("kill -KILL $$", TaskStatus.FAILED, -9),
    ],
)
async def test_ends(
    tm: TaskManager, story: Story, project: Path, script: str, status: TaskStatus, code: int
) -> None:
    """Status and return code are those of the program, and exactly one handler hears of it."""
    task = await story.end(await tm.spawn_task("one", script, project))
    assert (task.status, task.return_code) == (status, code)
    heard = "on_task_complete" if status is TaskStatus.COMPLETED else "on_task_failed"
    assert story.ends == [(heard, task)]


@pytest.mark.anyio
async def test_lists(tm: TaskManager, story: Story, project: Path, tmp_path: Path) -> None:
    """Tasks of several projects run side by side; all and running ones can be listed."""
    dirs = [tmp_path / str(number) for number in range(5)]
    for path in dirs:
        path.mkdir()
    running = [await tm.spawn_task(path.name, LONG, path) for path in dirs]
    ended = await story.end(await tm.spawn_task("ended", "exit 0", project))
    for task in running:
        await story.first_line(task)
    assert tm.get_all_tasks() == [*running, ended]
    assert tm.get_running_tasks() == running
    assert [task.id for task in tm.get_all_tasks()] == sorted({t.id for t in tm.get_all_tasks()})
    assert tm.get_task(ended.id) is ended
    assert tm.get_task(ended.id + 1) is None


# ------------------------------------------------------------------------------------ handlers


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("event", "script"),
    [*zip(TERMINAL, ["exit 0", "exit 1", LONG], strict=True)],
    ids=["complete", "failed", "cancelled"],
)
async def test_terminal_handlers(
    tm: TaskManager, story: Story, project: Path, event: str, script: str, kind: str
) -> None:
    """Sync and async handlers get the task itself, once, when it has ended as they say."""
    heard: list[tuple[str, Any, TaskStatus]] = []
    done = anyio.Event()

    def handler(name: str, task: ClaudeTask) -> None:
        heard.append((name, task, task.status))
        done.set()

    async def async_handler(name: str, task: ClaudeTask) -> None:
        await anyio.lowlevel.checkpoint()
        handler(name, task)

    for name in TERMINAL:
        tm.on(name, functools.partial(handler if kind == "sync" else async_handler, name))
    task = await tm.spawn_task("one", script, project)
    if script == LONG:
        await story.first_line(task)
        assert await tm.cancel_task(task.id)
    await done.wait()
    await story.end(task)
    assert heard == [(event, task, task.status)]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_line_handlers(tm: TaskManager, story: Story, project: Path, kind: str) -> None:
    """Line handlers get each line in order, stderr's too, and a last one without its ending."""
    heard: list[tuple[ClaudeTask, str]] = []
    last = anyio.Event()

    def handler(task: ClaudeTask, line: str) -> None:
        heard.append((task, line))
        if line == "end":
            last.set()

    async def async_handler(task: ClaudeTask, line: str) -> None:
        await anyio.lowlevel.checkpoint()
        handler(task, line)

    tm.on("on_output_line", handler if kind == "sync" else async_handler)
    task = await tm.spawn_task("one", "seq 300; echo oops >&2; echo; printf end", project)
    await last.wait()
    await story.end(task)
    assert heard == [(task, line) for line in [*map(str, range(1, 301)), "oops", "", "end"]]
    assert task.output_lines == [line for _, line in heard]


@pytest.mark.anyio
async def test_bad_handlers_harm_nobody(tm: TaskManager, project: Path, tmp_path: Path) -> None:
    """Handlers that raise or never return keep no other handler and no task from its end."""

    def raises(*_: Any) -> None:
        raise RuntimeError("a handler of the test")

    async def hangs(*_: Any) -> None:
        await anyio.sleep_forever()

    for event in (*TERMINAL, "on_output_line"):
        tm.on(event, raises)
        tm.on(event, hangs)
    story = Story(tm)
    task = await story.end(await tm.spawn_task("one", "echo a; echo b", project))
    assert task.status is TaskStatus.COMPLETED
    assert story.lines[task.id] == ["a", "b"]


@pytest.mark.anyio
async def test_handler_may_spawn_the_next_task(
    tm: TaskManager, story: Story, project: Path
) -> None:
    """When a handler hears of the end the project is free: it can spawn there at once."""
    following: list[ClaudeTask] = []
    done = anyio.Event()

    async def again(task: ClaudeTask) -> None:
        if task.name == "one":
            following.append(await tm.spawn_task("two", "exit 0", project))
        else:
            done.set()

    tm.on("on_task_complete", again)
    await tm.spawn_task("one", "exit 0", project)
    await done.wait()
    assert [task.status for task in following] == [TaskStatus.COMPLETED]


def test_unknown_event() -> None:
    """`on` refuses an event that does not exist, and names those that do."""
    with pytest.raises(ValueError, match="on_task_complete"):
        TaskManager().on("on_task_completed", print)


# ----------------------------------------------------------------------------- one per project


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["same", "symlink", "dots", "str"])
@pytest.mark.parametrize("status", [TaskStatus.PENDING, TaskStatus.RUNNING])
async def test_one_per_project(
    tm: TaskManager, story: Story, project: Path, tmp_path: Path, way: str, status: TaskStatus
) -> None:
    """While a task is pending or runs, no way of naming its project lets a second one in."""
    if status is TaskStatus.PENDING:
        (project / "hold").touch()
    task = await tm.spawn_task("first", LONG, project)
    if status is TaskStatus.RUNNING:
        await story.first_line(task)
    (tmp_path / "link").symlink_to(project)
    paths = {"same": project, "symlink": tmp_path / "link", "dots": project / ".." / "project"}
    with pytest.raises(Exception, match=f"another task works in .*{task.id} 'first'"):
        await tm.spawn_task("second", "exit 0", paths.get(way, str(project)))
    assert task.status is status
    assert tm.get_all_tasks() == [task]
    (project / "hold").unlink(missing_ok=True)
    await tm.cancel_task(task.id)
    second = await tm.spawn_task("second", "exit 0", paths.get(way, str(project)))
    assert (await story.end(second)).status is TaskStatus.COMPLETED


@pytest.mark.anyio
async def test_one_of_many_at_once(tm: TaskManager, project: Path) -> None:
    """Of ten requests for a project in the same moment one is accepted."""
    refused: list[Exception] = []

    async def try_it(number: int) -> None:
        try:
            await tm.spawn_task(str(number), LONG, project)
        except Exception as error:  # noqa: BLE001 - the origin's names have no error
            refused.append(error)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(try_it, number)
    assert len(refused) == 9
    assert len(tm.get_all_tasks()) == 1


@pytest.mark.anyio
async def test_one_per_project_in_all_processes(
    tm: TaskManager, story: Story, project: Path
) -> None:
    """A second process is refused while the first one's task lives, and the other way round."""
    command = [sys.executable, "-c", OTHER_PROCESS, str(project)]
    task = await tm.spawn_task("first", LONG, project)
    await story.first_line(task)
    refused = await anyio.run_process(command, check=False, input=b"")
    assert refused.returncode == 1
    assert b"another task works in" in refused.stderr
    assert f"task {task.id} 'first'".encode() in refused.stderr
    await tm.cancel_task(task.id)
    async with await anyio.open_process(command, stderr=None) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert await other.stdout.receive() == b"accepted\n"
        with pytest.raises(Exception, match=f"another task works in .* of process {other.pid}"):
            await tm.spawn_task("second", "exit 0", project)
        await other.stdin.aclose()
        assert await other.wait() == 0
    second = await tm.spawn_task("second", "exit 0", project)
    assert (await story.end(second)).status is TaskStatus.COMPLETED


# ------------------------------------------------------------------------------------ stopping


@pytest.mark.anyio
async def test_cancel_asks_politely_first(tm: TaskManager, story: Story, project: Path) -> None:
    """A program that obeys SIGTERM has its last words."""
    script = "trap 'echo bye; exit 9' TERM; echo ready; sleep 600 & wait"
    task = await tm.spawn_task("one", script, project)
    await story.first_line(task)
    assert await tm.cancel_task(task.id)
    assert (task.status, task.return_code) == (TaskStatus.CANCELLED, 9)
    assert task.output_lines == ["ready", "bye"]
    assert story.ends == [("on_task_cancelled", task)]


@pytest.mark.anyio
async def test_cancel_kills_the_whole_family(
    tm: TaskManager, story: Story, project: Path, eyes: Eyes
) -> None:
    """A child that ignores SIGTERM, and its child in a session of its own, get SIGKILL."""
    task = await tm.spawn_task("one", STUBBORN, project)
    await until((project / "pids").exists)
    leader, stranger = eyes.processes(project / "pids", 2)
    await until(lambda: stranger.leads_session)
    assert await tm.cancel_task(task.id)
    assert (task.status, task.return_code) == (TaskStatus.CANCELLED, -9)
    assert not leader.alive
    assert not stranger.alive


@pytest.mark.anyio
async def test_cancel_before_the_start(tm: TaskManager, story: Story, project: Path) -> None:
    """A pending task that is cancelled never runs."""
    (project / "hold").touch()
    task = await tm.spawn_task("one", "touch ran", project)
    async with anyio.create_task_group() as group:
        group.start_soon(tm.cancel_task, task.id)
        await anyio.wait_all_tasks_blocked()
        (project / "hold").unlink()
    assert task.status is TaskStatus.CANCELLED
    assert (task.process, task.started_at) == (None, None)
    assert not (project / "ran").exists()


@pytest.mark.anyio
async def test_cancel_is_refused_when_there_is_nothing_to_cancel(
    tm: TaskManager, story: Story, project: Path
) -> None:
    """`cancel_task` is false for an unknown task and for one that has ended, which it keeps."""
    task = await story.end(await tm.spawn_task("one", "exit 0", project))
    assert not await tm.cancel_task(task.id)
    assert not await tm.cancel_task(task.id + 1)
    assert task.status is TaskStatus.COMPLETED


# -------------------------------------------------------------------------------------- output


@pytest.mark.anyio
async def test_ring(tm: TaskManager, story: Story, project: Path) -> None:
    """A task shows its last 1,000 lines, and fewer on request; handlers get every line."""
    task = await story.end(await tm.spawn_task("one", "seq 2500", project))
    assert task.output_lines == [str(number) for number in range(1501, 2501)]
    assert tm.get_task_output(task.id) == task.output_lines
    assert tm.get_task_output(task.id, 3) == ["2498", "2499", "2500"]
    assert tm.get_task_output(task.id + 1) == []
    assert story.lines[task.id] == [str(number) for number in range(1, 2501)]


@pytest.mark.anyio
async def test_huge_line(tm: TaskManager, story: Story, project: Path) -> None:
    """A line of 5 MB arrives whole, and the lines before and after it as well."""
    script = "echo before; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo after"
    task = await story.end(await tm.spawn_task("one", script, project))
    assert task.status is TaskStatus.COMPLETED
    for lines in (story.lines[task.id], task.output_lines):
        assert [len(line) for line in lines] == [6, 5_000_000, 5]
        assert (lines[0], set(lines[1]), lines[2]) == ("before", {"x"}, "after")


@pytest.mark.anyio
async def test_unreadable_bytes(tm: TaskManager, story: Story, project: Path) -> None:
    """Bytes that are no UTF-8 are replaced, and harm no line."""
    task = await story.end(await tm.spawn_task("one", r"printf 'a\377b\nc\000d\n'", project))
    assert story.lines[task.id] == task.output_lines == ["a\N{REPLACEMENT CHARACTER}b", "c\0d"]


# -------------------------------------------------------------------------- names and clean-up


@pytest.mark.anyio
async def test_find_task_by_name(
    tm: TaskManager, story: Story, project: Path, tmp_path: Path
) -> None:
    """Names are found whatever their case, and by any part of them; exact ones first."""
    auth = await story.end(await tm.spawn_task("Refactor AUTH", "exit 0", project))
    exact = await story.end(await tm.spawn_task("auth", "exit 0", project))
    other = await story.end(await tm.spawn_task("Docs and more auth", "exit 0", project))
    assert tm.find_task_by_name("refactor auth") is auth
    assert tm.find_task_by_name("FACTOR") is auth
    assert tm.find_task_by_name("AUTH") is exact
    assert tm.find_task_by_name("docs") is other
    assert tm.find_task_by_name("nothing like it") is None


@pytest.mark.anyio
async def test_cleanup(tm: TaskManager, story: Story, project: Path) -> None:
    """A task that runs is not forgotten; one that has ended is, once."""
    task = await tm.spawn_task("one", LONG, project)
    assert not tm.cleanup_task(task.id)
    await story.first_line(task)
    assert not tm.cleanup_task(task.id)
    assert tm.get_task(task.id) is task
    await tm.cancel_task(task.id)
    assert tm.cleanup_task(task.id)
    assert tm.get_task(task.id) is None
    assert tm.get_all_tasks() == []
    assert not tm.cleanup_task(task.id)


@pytest.mark.anyio
async def test_strong_references(tm: TaskManager, project: Path) -> None:
    """A task that nobody holds, with handlers that nobody holds, survives garbage collection."""
    lines: list[str] = []
    spoken, ended = anyio.Event(), anyio.Event()

    def listen() -> None:
        def hear(task: ClaudeTask, line: str) -> None:
            lines.append(line)
            spoken.set()

        tm.on("on_output_line", hear)
        tm.on("on_task_complete", lambda task: ended.set())

    listen()
    await tm.spawn_task("one", "echo a; until test -e go; do sleep 0.01; done; echo b", project)
    await spoken.wait()
    for _ in range(3):
        gc.collect()
        await anyio.lowlevel.checkpoint()
    (project / "go").touch()
    await ended.wait()
    assert lines == ["a", "b"]


@pytest.mark.anyio
async def test_nothing_is_left(
    project: Path, tmp_path: Path, eyes: Eyes, anyio_backend_name: str
) -> None:
    """After reset no child, zombie, descriptor or engine thread is left, whatever tasks did."""

    async def use(tm: TaskManager) -> None:
        story = Story(tm)
        await story.end(await tm.spawn_task("ended", "seq 100000", project))
        await story.end(await tm.spawn_task("failed", "sleep 600 & exit 3", project))
        cancelled = await tm.spawn_task("cancelled", LONG, project)
        await story.first_line(cancelled)
        await tm.cancel_task(cancelled.id)
        await tm.spawn_task("stubborn", STUBBORN, project)
        await until((project / "pids").exists)
        (tmp_path / "other").mkdir()
        await tm.spawn_task("just begun", LONG, tmp_path / "other")

    async def use_and_reset() -> None:
        if anyio_backend_name == "trio":
            async with TaskManager() as tm:
                await use(tm)
        else:
            await use(TaskManager())
        await TaskManager.reset()

    before = eyes.belongings()
    await use_and_reset()
    gc.collect()  # logs live as long as somebody holds their task: nobody does
    after = eyes.belongings()
    assert after["children"] <= before["children"]
    assert after["descriptors"] <= before["descriptors"]
    await until(lambda: eyes.belongings()["threads"] <= before["threads"])

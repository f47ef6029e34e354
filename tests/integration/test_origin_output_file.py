"""The origin's output file, through the origin's names, with the plugin that writes it."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from eventbus_tasks import ClaudeTask, TaskManager, TaskStatus

pytestmark = pytest.mark.anyio

# The agent `claude`, played by a shell: the prompt is its script.
AGENT = Path(__file__).parents[1] / "parity" / "agent"
EVENTS = ("on_task_complete", "on_task_failed", "on_task_cancelled")
LONG = "echo ready; exec sleep 600"


@pytest.fixture(autouse=True)
def plugins(private_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the installed disk plugin and the scripted agent, and nothing else that is installed."""
    monkeypatch.syspath_prepend(str(AGENT))
    monkeypatch.setenv("EBT_PLUGINS", "disk,scripted")
    yield
    sys.modules.pop("scripted_agent", None)


@pytest.fixture
async def tm(plugins: None, anyio_backend_name: str) -> AsyncIterator[TaskManager]:
    """Give out a fresh manager; trio needs the block around it."""
    TaskManager._instance = None
    if anyio_backend_name == "trio":
        async with TaskManager() as manager:
            yield manager
    else:
        yield TaskManager()
    await TaskManager.reset()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project directory."""
    path = tmp_path / "project"
    path.mkdir()
    return path


def output_file(task: ClaudeTask) -> Path:
    """Return where the origin wrote the output of a task."""
    return task.project_dir / ".claude-tasks" / f"task-{task.id}-output.md"


async def run_to_end(tm: TaskManager, script: str, project: Path, event: str) -> tuple[str, str]:
    """Run a task until a handler hears of its end; return that event, and the file as it was then.

    The task is cancelled if that is the event to come.
    """
    heard: list[tuple[str, str]] = []
    spoken, ended = anyio.Event(), anyio.Event()

    def on_end(name: str, task: ClaudeTask) -> None:
        heard.append((name, output_file(task).read_text()))
        ended.set()

    tm.on("on_output_line", lambda task, line: spoken.set())
    for name in EVENTS:
        tm.on(name, functools.partial(on_end, name))
    task = await tm.spawn_task("Refactor auth", script, project)
    if event == "on_task_cancelled":
        await spoken.wait()
        assert await tm.cancel_task(task.id)
    await ended.wait()
    (only,) = heard
    assert output_file(task).read_text() == only[1]
    return only


@pytest.mark.parametrize(
    ("script", "event", "status", "code", "lines"),
    [
        ("seq 5", "on_task_complete", "completed", "0", "1\n2\n3\n4\n5\n"),
        ("echo no >&2; exit 3", "on_task_failed", "failed", "3", "no\n"),
        ("echo last words; kill -KILL $$", "on_task_failed", "failed", "-9", "last words\n"),
        (LONG, "on_task_cancelled", "cancelled", "-15", "ready\n"),
    ],
    ids=["success", "failure", "killed", "cancel"],
)
async def test_output_file(
    tm: TaskManager, project: Path, script: str, event: str, status: str, code: str, lines: str
) -> None:
    """When a handler hears of the end, the file has the task, its status and all of its output."""
    heard, text = await run_to_end(tm, script, project, event)
    assert heard == event
    for words in ("Refactor auth", script, status, code, lines):
        assert words in text.replace('\\"', '"'), words


async def test_output_file_has_more_than_the_ring(tm: TaskManager, project: Path) -> None:
    """The file has every line, also those that the ring of 1,000 has forgotten."""
    _, text = await run_to_end(tm, "seq 3000", project, "on_task_complete")
    assert "".join(f"{number}\n" for number in range(1, 3001)) in text


async def test_output_file_after_a_huge_line(tm: TaskManager, project: Path) -> None:
    """A line of 5 MB is in the file as a whole."""
    script = "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo after"
    _, text = await run_to_end(tm, script, project, "on_task_complete")
    assert "x" * 5_000_000 + "\nafter\n" in text


async def test_output_file_of_a_task_that_never_ran(tm: TaskManager, project: Path) -> None:
    """A task that is cancelled before its start has its file, too."""
    (project / "hold").touch()
    task = await tm.spawn_task("Refactor auth", "touch ran", project)
    async with anyio.create_task_group() as group:
        group.start_soon(tm.cancel_task, task.id)
        await anyio.wait_all_tasks_blocked()
        (project / "hold").unlink()
    assert task.status is TaskStatus.CANCELLED
    assert "cancelled" in output_file(task).read_text()
    assert not (project / "ran").exists()


async def test_output_files_after_reset(tm: TaskManager, project: Path) -> None:
    """What `reset` ends has its file when `reset` returns."""
    spoken = anyio.Event()
    tm.on("on_output_line", lambda task, line: spoken.set())
    task = await tm.spawn_task("Refactor auth", LONG, project)
    await spoken.wait()
    await TaskManager.reset()
    assert task.status is TaskStatus.CANCELLED
    assert "ready\n" in output_file(task).read_text()


async def test_each_task_has_its_own_file(tm: TaskManager, project: Path) -> None:
    """Tasks of one project, also of managers that follow each other, overwrite no file."""
    files = []
    done = anyio.Event()
    tm.on("on_task_complete", lambda task: done.set())
    for number in range(3):
        task = await tm.spawn_task(f"number {number}", f"echo output {number}", project)
        await done.wait()
        done = anyio.Event()
        files.append(output_file(task))
    assert len(set(files)) == 3
    for number, file in enumerate(files):
        assert f"output {number}\n" in file.read_text()

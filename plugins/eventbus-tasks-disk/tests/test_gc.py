"""What is old is removed, all of it and nothing else."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from eventbus_tasks_disk import gc
from eventbus_tasks_disk.gc import Limits, collect
from eventbus_tasks_disk.history import Entry, Host, add_to_index, latest_entries
from eventbus_tasks_disk.unfinished import unfinished_entries

from eventbus_tasks import TaskEngine

pytestmark = pytest.mark.anyio

MakeEngine = Callable[..., TaskEngine]
Ebt = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
async def history(make_engine: MakeEngine, project: Path) -> Path:
    """Four ended tasks; returns where their files are."""
    async with make_engine() as engine:
        for number in range(1, 5):
            argv = ["sh", "-c", f"head -c {number}00000 /dev/zero"]
            task = await engine.spawn_task(f"n{number}", project_dir=project, argv=argv)
            await task.wait()
    return project / ".claude-tasks"


def numbers() -> list[int]:
    """Return the tasks in the index."""
    return [entry.id for entry in latest_entries(Path(os.environ["EBT_STATE_DIR"]))]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--keep", "2"], [4, 3]),
        (["--keep", "0"], []),
        (["--older-than", "1d"], [4, 3, 2, 1]),
        (["--older-than", "0s"], []),
        (["--max-size", "800K"], [4, 3]),
        (["--max-size", "1T", "--keep", "3"], [4, 3, 2]),
    ],
)
async def test_limits(
    history: Path, ebt: Ebt, capsys: Capture, words: list[str], kept: list[int]
) -> None:
    """Each limit removes the oldest tasks with all of their files; a dry run removes nothing."""
    before = sorted(os.listdir(history))
    assert ebt("gc", *words, "--dry-run", "--json") == 0
    planned = [task["id"] for task in json.loads(capsys.readouterr().out)]
    assert sorted(planned) == [number for number in (1, 2, 3, 4) if number not in kept]
    assert (sorted(os.listdir(history)), numbers()) == (before, [4, 3, 2, 1])
    assert ebt("gc", *words) == 0
    assert f"removed {4 - len(kept)} tasks" in capsys.readouterr().out
    assert numbers() == kept
    left = {name.split(".")[0].removesuffix("-output") for name in os.listdir(history)}
    assert left - {""} == {f"task-{number}" for number in kept}


async def test_without_limits(history: Path, ebt: Ebt, capsys: Capture) -> None:
    """Without any limit nothing is removed, and it says what is missing."""
    assert ebt("gc") == 2
    assert "--older-than" in capsys.readouterr().err
    assert numbers() == [4, 3, 2, 1]


async def test_running_task_stays(make_engine: MakeEngine, project: Path, ebt: Ebt) -> None:
    """A task that has not ended is never removed, however small the limits."""
    async with make_engine() as engine:
        task = await engine.spawn_task("run", argv=["sleep", "1000"], project_dir=project)
        assert ebt("gc", "--keep", "0", "--older-than", "0s", "--max-size", "0") == 0
        assert numbers() in ([], [task.id])
        await task.cancel(now=True)
        assert task.outcome is not None
        assert task.outcome.persist_error is None
    assert numbers() == [1]


async def test_running_task_takes_no_place(
    history: Path, make_engine: MakeEngine, project: Path, ebt: Ebt
) -> None:
    """Of the ended tasks as many as wanted are kept, however many others run."""
    async with make_engine() as engine:
        task = await engine.spawn_task("run", argv=["sleep", "1000"], project_dir=project)
        assert ebt("gc", "--keep", "1") == 0
        assert numbers() == [task.id, 4]
        await task.cancel(now=True)


async def test_task_that_comes_meanwhile_takes_no_place(
    history: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is accepted while old ones are chosen does not count as one that has ended."""

    def accept_meanwhile(state_dir: Path) -> list[Entry]:
        found = list(unfinished_entries(state_dir))
        entry = Entry(
            id=5,
            uid="uid-5",
            name="x",
            agent="command",
            project_dir=str(project),
            directory=".claude-tasks",
            files="task-5",
            created=datetime.now(UTC).isoformat(),
            host=Host.current(),
        )
        add_to_index(state_dir, entry)
        return found

    monkeypatch.setattr(gc, "unfinished_entries", accept_meanwhile)
    collect(Path(os.environ["EBT_STATE_DIR"]), Limits(tasks=1))
    assert numbers() == [5, 4]


async def test_settings(
    history: Path, make_engine: MakeEngine, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With limits in the settings an engine that starts removes what is beyond them."""
    monkeypatch.setenv("EBT_DISK_KEEP_TASKS", "1")
    async with make_engine():
        while numbers() != [4]:  # noqa: ASYNC110 - nothing tells; the test has a limit
            await anyio.sleep(0.01)


def test_index_keeps_what_is_added_meanwhile(private_state: Path, project: Path) -> None:
    """Whoever adds a task while the index is replaced does not lose it."""
    state = private_state / "state"
    host = Host(pid=1, start_time=1, boot_id="")

    def entry(number: int) -> Entry:
        return Entry(
            id=number,
            uid=f"uid-{number}",
            name="x",
            agent="command",
            project_dir=str(project),
            directory=".claude-tasks",
            files=f"task-{number}",
            created="2026-01-01T00:00:00+00:00",
            host=host,
        )

    def add(first: int) -> None:
        for number in range(first, first + 200):
            add_to_index(state, entry(number))

    threads = [threading.Thread(target=add, args=(first,)) for first in (1000, 2000)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        collect(state, Limits(tasks=100))
    for thread in threads:
        thread.join()
    collect(state, Limits(tasks=5))
    found = [found.id for found in latest_entries(state)]
    assert len(found) == 5
    assert {1199, 2199} & set(found)

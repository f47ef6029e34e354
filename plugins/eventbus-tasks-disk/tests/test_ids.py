"""Numbers that are unique for a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from eventbus_tasks_disk.history import Entry, Host, add_to_index, latest_entries
from eventbus_tasks_disk.ids import next_id

from eventbus_tasks import Settings, TaskEngine

MakeEngine = Callable[..., TaskEngine]


def entry(number: int) -> Entry:
    """Make an entry of the index."""
    return Entry(
        id=number,
        uid=f"{number:032x}",
        name="n",
        agent="command",
        project_dir="/nowhere",
        directory=".claude-tasks",
        files=f"task-{number}",
        created="2026-01-02T03:04:05+00:00",
        host=Host.current(),
    )


def test_threads_and_processes(tmp_path: Path) -> None:
    """Processes and threads that ask at the same time all get different numbers."""
    code = (
        "import sys; from pathlib import Path; from eventbus_tasks_disk.ids import next_id\n"
        "for _ in range(100): print(next_id([Path(sys.argv[1])]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, str(tmp_path / "state")]
    children = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda _: next_id([tmp_path / "state"]), range(100)))
    for child in children:
        output, _ = child.communicate(timeout=60)
        numbers += map(int, output.split())
    assert sorted(numbers) == list(range(1, 301))


@pytest.mark.parametrize("damage", [b"", b"garbage", b"0000000000000000007 00000000\n", None])
def test_damaged_counter(tmp_path: Path, damage: bytes | None) -> None:
    """A counter that is damaged or missing is made again from the index: no number comes twice."""
    for number in (1, 2, 40, 3):
        add_to_index(tmp_path, entry(number))
    path = tmp_path / "disk" / "last-id"
    if damage is not None:
        path.write_bytes(damage)
    assert next_id([tmp_path]) == 41
    assert next_id([tmp_path]) == 42


def test_old_counter(tmp_path: Path) -> None:
    """A counter that is older than the index is not believed."""
    next_id([tmp_path])
    old = (tmp_path / "disk" / "last-id").read_bytes()
    add_to_index(tmp_path, entry(9))
    (tmp_path / "disk" / "last-id").write_bytes(old)
    assert next_id([tmp_path]) == 10


def test_several_state_directories(tmp_path: Path) -> None:
    """With several state directories in one process, a number is new in all of them."""
    for _ in range(5):
        next_id([tmp_path / "a"])
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert next_id([tmp_path / "b", tmp_path / "a", tmp_path / "link"]) == 6
    assert next_id([tmp_path / "b"]) == 7


def test_torn_index(tmp_path: Path) -> None:
    """A line of the index that was torn costs itself, and not the one behind it."""
    add_to_index(tmp_path, entry(1))
    path = tmp_path / "disk" / "index.jsonl"
    with path.open("ab") as file:
        file.write(path.read_bytes()[:50])
    add_to_index(tmp_path, entry(2))
    with path.open("ab") as file:
        file.write(b'\n{"id": 3}\n\xff\x00\n\n')
    assert [found.id for found in latest_entries(tmp_path)] == [2, 1]


def test_no_index(tmp_path: Path) -> None:
    """Without any history there are no tasks, and nothing is made by looking."""
    assert list(latest_entries(tmp_path / "nowhere")) == []
    assert not (tmp_path / "nowhere").exists()


def test_planted_counter(tmp_path: Path) -> None:
    """A link in place of the counter is refused, and what it leads to is untouched."""
    next_id([tmp_path])
    counter = tmp_path / "disk" / "last-id"
    victim = tmp_path / "victim"
    victim.write_text("precious")
    counter.unlink()
    counter.symlink_to(victim)
    with pytest.raises(OSError, match="last-id"):
        next_id([tmp_path])
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["..", "a/b", "", "nul\0"])
def test_entry_that_leaves_its_place(name: str) -> None:
    """An entry whose names would lead elsewhere is none."""
    data = json.loads(json.dumps(entry(1).to_dict()))
    assert Entry.from_dict(data) == entry(1)
    assert Entry.from_dict({**data, "files": name}) is None
    assert Entry.from_dict({**data, "directory": name}) is None


@pytest.mark.anyio
async def test_two_engines(make_engine: MakeEngine, tmp_path: Path) -> None:
    """Engines one after the other, and side by side, never give the same number."""
    numbers = []
    projects = [tmp_path / str(number) for number in range(6)]
    for path in projects:
        path.mkdir()
    for path in projects[:2]:
        async with make_engine() as engine:
            numbers.append((await engine.spawn_task("x", project_dir=path, argv=["true"])).id)
    async with make_engine() as first, make_engine() as second:
        for path, engine in zip(projects[2:], [first, second] * 2, strict=True):
            numbers.append((await engine.spawn_task("x", project_dir=path, argv=["true"])).id)
    assert numbers == [1, 2, 3, 4, 5, 6]
    listed = latest_entries(Settings.load().state_dir)
    assert sorted(found.id for found in listed) == numbers

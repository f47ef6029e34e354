"""Directories that are not what they should be, are full, or go away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eventbus_tasks_disk.records import records_forwards

from eventbus_tasks import OutputReceived, TaskEngine, TaskStatus

MakeEngine = Callable[..., TaskEngine]
RunHost = Callable[..., subprocess.CompletedProcess[str]]


def plant_symlink(path: Path, victim: Path) -> None:
    """Plant a link to a directory."""
    path.symlink_to(victim)


def plant_dangling(path: Path, victim: Path) -> None:
    """Plant a link to where nothing is yet."""
    path.symlink_to(victim / "made-by-mistake")


def plant_fifo(path: Path, victim: Path) -> None:
    """Plant what blocks whoever opens it."""
    os.mkfifo(path)


def plant_file(path: Path, victim: Path) -> None:
    """Plant a file."""
    path.write_text("mine")


def plant_open_directory(path: Path, victim: Path) -> None:
    """Plant a directory that everybody can write into."""
    path.mkdir()
    path.chmod(0o777)


def plant_foreign_directory(path: Path, victim: Path) -> None:
    """Plant a directory of somebody else."""
    path.mkdir(mode=0o700)
    try:
        os.chown(path, 12345, 12345)
    except PermissionError:
        pytest.skip("only root can make a directory that belongs to somebody else")


def contents(directory: Path) -> dict[str, bytes]:
    """Return everything that is in a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b""
        for path in directory.rglob("*")
    }


@pytest.mark.anyio
@pytest.mark.parametrize(
    "plant",
    [
        plant_symlink,
        plant_dangling,
        plant_fifo,
        plant_file,
        plant_open_directory,
        plant_foreign_directory,
    ],
)
async def test_planted_directory(
    make_engine: MakeEngine, project: Path, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    """What a project has in place of our directory is refused, untouched, and the task runs."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    plant(project / ".claude-tasks", victim)
    before = contents(victim), (project / ".claude-tasks").lstat().st_mode
    async with make_engine() as engine:
        task = await engine.spawn_task("work", project_dir=project, argv=["echo", "hello"])
        outcome = await task.wait()
        assert task.output.text() == "hello\n"
    assert outcome.status is TaskStatus.COMPLETED
    assert outcome.persist_error is not None
    assert ".claude-tasks" in outcome.persist_error
    assert (contents(victim), (project / ".claude-tasks").lstat().st_mode) == before
    if (project / ".claude-tasks").is_dir():
        assert contents(project / ".claude-tasks") in ({}, contents(victim))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "name", ["stdout.log", "stderr.log", "events.jsonl", "end.json", "arrivals.idx"]
)
async def test_planted_file(
    make_engine: MakeEngine, project: Path, tmp_path: Path, name: str
) -> None:
    """Where a name is taken, by whatever, a task takes another and leaves the first alone."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = project / ".claude-tasks"
    folder.mkdir(mode=0o700)
    (folder / f"task-1.{name}").symlink_to(victim)
    os.mkfifo(folder / f"task-2.{name}")
    (folder / f"task-3.{name}").mkdir()
    os.link(victim, folder / f"task-4.{name}")
    async with make_engine() as engine:
        for number in (1, 2, 3, 4):
            task = await engine.spawn_task("work", project_dir=project, argv=["echo", "hello"])
            assert task.id == number
            assert (await task.wait()).persist_error is None
            stem = f"task-{number}-{task.uid[:8]}"
            assert (folder / f"{stem}.stdout.log").read_text() == "hello\n"
            assert (folder / f"{stem}-output.md").is_file()
    assert victim.read_text() == "precious"


@pytest.mark.anyio
async def test_planted_while_running(
    make_engine: MakeEngine, project: Path, tmp_path: Path
) -> None:
    """A link that the task puts in place of its readable file is replaced, not followed."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    script = f"ln -s '{victim}' .claude-tasks/task-1-output.md"
    async with make_engine() as engine:
        task = await engine.spawn_task("evil", project_dir=project, argv=["sh", "-c", script])
        assert (await task.wait()).persist_error is None
    path = project / ".claude-tasks" / "task-1-output.md"
    assert not path.is_symlink()
    assert path.read_text().startswith("# Task 1")
    assert victim.read_text() == "precious"


@pytest.mark.anyio
async def test_readable_file_that_cannot_be(make_engine: MakeEngine, project: Path) -> None:
    """What cannot be written is in the outcome, and nothing half-written is left."""
    script = "mkdir .claude-tasks/task-1-output.md; touch .claude-tasks/task-1-output.md/x"
    async with make_engine() as engine:
        task = await engine.spawn_task("evil", project_dir=project, argv=["sh", "-c", script])
        outcome = await task.wait()
    assert outcome.status is TaskStatus.COMPLETED
    assert outcome.persist_error is not None
    assert "task-1-output.md" in outcome.persist_error
    hidden = {path.name for path in (project / ".claude-tasks").glob(".*")}
    assert hidden == {".gitignore"}


@pytest.mark.anyio
async def test_closed_to_others(make_engine: MakeEngine, project: Path) -> None:
    """A directory of ours that others can look into, of an older program, is closed to them."""
    folder = project / ".claude-tasks"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / ".gitignore").write_text("mine")
    async with make_engine() as engine:
        task = await engine.spawn_task("work", project_dir=project, argv=["true"])
        assert (await task.wait()).persist_error is None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / ".gitignore").read_text() == "mine"


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["project", "folder"])
async def test_removed_while_running(make_engine: MakeEngine, project: Path, what: str) -> None:
    """A directory that was removed while the task ran is not made again."""
    os.mkfifo(project / "go")
    async with make_engine() as engine:
        with engine.subscribe(OutputReceived) as stream:
            task = await engine.spawn_task(
                "work", project_dir=project, argv=["sh", "-c", "exec 3<>go; echo hello; read _ <&3"]
            )
            async for _ in stream:
                break
        with (project / "go").open("w") as go:
            shutil.rmtree(project if what == "project" else project / ".claude-tasks")
            go.write("go\n")
        outcome = await task.wait()
    assert outcome.status is TaskStatus.COMPLETED
    assert outcome.persist_error is not None
    assert "removed" in outcome.persist_error
    left = os.listdir(project.parent), os.listdir(project) if what == "folder" else []
    assert left == ((["project"], ["go"]) if what == "folder" else ([], []))


@pytest.mark.anyio
async def test_state_of_others(make_engine: MakeEngine, project: Path, private_state: Path) -> None:
    """A state directory that others can write into is refused, and the task runs."""
    folder = private_state / "state" / "disk"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    async with make_engine() as engine:
        task = await engine.spawn_task("work", project_dir=project, argv=["true"])
        outcome = await task.wait()
    assert outcome.status is TaskStatus.COMPLETED
    assert outcome.persist_error is not None
    assert "disk" in outcome.persist_error
    assert not list(folder.iterdir())
    assert (project / ".claude-tasks" / "task-1-output.md").is_file()


def check_no_half_file(project: Path, result: dict[str, Any]) -> None:
    """Check that a task has ended truthfully on a disk that took only a part of it."""
    assert result["status"] == "completed", result
    assert result["persist_error"]
    folder = project / ".claude-tasks"
    assert not (folder / "task-1-output.md").exists()
    assert not [path for path in folder.glob(".*") if path.name != ".gitignore"]
    with (folder / "task-1.events.jsonl").open("rb") as file:
        records = list(records_forwards(file.fileno()))
    assert None not in records


# Not less: what starts a task, its environment included, is a file for a moment, too.
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"


def test_file_size_limit(run_host: RunHost, project: Path) -> None:
    """Where files may not grow any more, the task ends, says so, and leaves no half file."""
    done = run_host(project, "seq", "40000", before=LIMIT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["lost_bytes"]["stdout"] > 0
    check_no_half_file(project, result)


def mounting(directory: Path, options: str, then: str = "") -> tuple[str, ...]:
    """Return what runs a command with a file system of its own, or skip."""
    wrapper = ("unshare", *(() if os.geteuid() == 0 else ("-r",)), "-m", "sh", "-c")
    mount = f"mount -t tmpfs -o {options} none '{directory}'"
    try:
        probe = subprocess.run([*wrapper, mount], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if probe.returncode:
        pytest.skip(f"no mount namespace: {probe.stderr.strip()}")
    return (*wrapper, f'{mount} && {{ {then or ":"}; }} && "$@"', "sh")


def test_full_disk(run_host: RunHost, project: Path, tmp_path: Path) -> None:
    """On a full disk the task ends, says so, and leaves no half file."""
    # What is left is copied to where this process can see it.
    copy = tmp_path / "copy"
    wrapper = mounting(project, "size=64k,mode=700")
    wrapper = (*wrapper[:-2], f'{wrapper[-2]}; cp -a "{project}" "{copy}"', "sh")
    done = run_host(project, "head", "-c", "200000", "/dev/zero", wrapper=wrapper)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["lost_bytes"]["stdout"] > 0
    check_no_half_file(copy, result)


def test_read_only_project(run_host: RunHost, project: Path) -> None:
    """In a project that cannot be written to, the task runs, and says what is not kept."""
    remount = f"mount -o remount,ro '{project}'"
    wrapper = mounting(project, "size=64k", then=remount)
    done = run_host(project, "echo", "hello", wrapper=wrapper)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "completed"
    assert result["output_bytes"] == {"stdout": 6}
    assert "Read-only file system" in result["persist_error"]


def test_journal_that_cannot_grow(run_host: RunHost, project: Path) -> None:
    """An event that does not fit is missing whole, is told of, and those behind it are kept."""
    done = run_host(project, "sh", "-c", "echo hello; : " + "x" * 33_000, before=LIMIT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "completed", result
    assert "File too large" in result["persist_error"]
    folder = project / ".claude-tasks"
    with (folder / "task-1.events.jsonl").open("rb") as file:
        records = list(records_forwards(file.fileno()))
    names = [(record["seq"], record["event"]) for record in records if record is not None]
    assert names == [(1, "task.accepted"), (3, "output.received"), (4, "task.completed")]
    assert len(records) == len(names)
    assert "persist_error" in (folder / "task-1-output.md").read_text()


@pytest.mark.parametrize("where", ["project", "everything"])
@pytest.mark.parametrize("size", [4, 8, 12, 20, 40, 100, 160, 300])
def test_full_at_every_point(run_host: RunHost, project: Path, where: str, size: int) -> None:
    """Wherever a disk becomes full, the program runs undisturbed, and every byte is accounted for.

    The sizes, in KiB, make journal, log, end record, readable file and terminal event fail.
    """
    wrapper = mounting(project, f"size={size}k,mode=700")
    # Bytes that were lost are holes, or missing at the end; none of those written is a NUL.
    count = "cat \"$d\"/*.stdout.log | tr -d '\\0' | wc -c >&2"
    state = f'export EBT_STATE_DIR="{project}/state"; ' if where == "everything" else ""
    script = wrapper[-2].removesuffix(' && "$@"')
    script = f'{script} && {{ {state}d="{project}/.claude-tasks"; "$@"; ls "$d"/*.stdout.log '
    script += f">/dev/null 2>&1 && {{ {count}; }}; true; }}"
    command = "head -c 100000 /dev/zero | tr '\\0' x; echo; exit 3"
    done = run_host(project, "sh", "-c", command, wrapper=(*wrapper[:-2], script, "sh"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["return_code"]) == ("failed", 3), result
    assert result["output_bytes"] == {"stdout": 100_001}
    lost = result["lost_bytes"].get("stdout", 0)
    if lost or size < 200:
        assert result["persist_error"]
    if size >= 300:
        assert (result["persist_error"], lost) == (None, 0)
    counts = [line for line in done.stderr.splitlines() if line.strip().isdecimal()]
    if counts:  # else the log could not even be made, and was kept as long as the task
        assert int(counts[-1]) == 100_001 - lost
    assert "Traceback" not in done.stderr

"""A control group for each task, with real groups: needs a hierarchy (v2) to write to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from eventbus_tasks import OutputLine, Reason, Settings, Task, TaskEngine, TerminationPolicy
from eventbus_tasks._process.cgroup import CgroupError, TaskCgroup, find_base
from eventbus_tasks._process.family import read_process

from .conftest import wait_until

AT_ONCE: Final = TerminationPolicy(steps=())

# Prints the number of an orphan in a session of its own that carries no mark.
WIPED: Final = "(setsid env -i sleep 1000 & echo $!); exec sleep 1000"

FIND: Final = """
import os, sys
from eventbus_tasks._process.cgroup import find_base
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write("0")
print(find_base("auto"))
"""


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that is no descendant of any task."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def group_of(pid: int) -> str:
    """Return the path of the group in which a process is."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line for line in lines if line.startswith("0::"))[3:]


def join(group: Path, pid: int) -> None:
    """Move a process into a group."""
    (group / "cgroup.procs").write_text(str(pid))


def groups(base: Path) -> list[str]:
    """Return the names of the groups of tasks."""
    return sorted(path.name for path in base.iterdir() if path.is_dir())


def guardian_and_warden(task: Task) -> tuple[int, int]:
    """Return the numbers of the two above a task."""
    leader = read_process(task.pid or 0)
    assert leader is not None
    guardian = read_process(leader.parent)
    assert guardian is not None
    return guardian.pid, guardian.parent


async def start(
    engine: TaskEngine, directory: Path, script: str = "echo $$; exec sleep 1000"
) -> tuple[Task, int]:
    """Start a task, and return it with the number that it writes first."""
    with engine.subscribe(OutputLine) as stream:
        task = await engine.spawn_task(
            "t", argv=["sh", "-c", script], project_dir=directory, policy=AT_ONCE, when_busy="share"
        )
        async for line in stream:
            if line.task.uid == task.uid:
                return task, int(line.text)
    raise AssertionError("it wrote nothing")


@pytest.mark.anyio
async def test_each_task_has_a_group(cgroup_base: Path, tmp_path: Path) -> None:
    """Whatever a task starts is in its own group; with the task the group goes."""
    async with TaskEngine(Settings(cgroup=str(cgroup_base)), load_installed=False) as engine:
        started = [await start(engine, tmp_path, WIPED) for _ in range(2)]
        (one, _), (two, _) = started
        for task, orphan in started:
            for pid in (task.pid, orphan):
                assert pid is not None
                assert group_of(pid).endswith(f"/{cgroup_base.name}/ebt-{task.uid}")
        await one.cancel()
        assert groups(cgroup_base) == [f"ebt-{two.uid}"]
        await two.cancel()
        assert groups(cgroup_base) == []


@pytest.mark.anyio
async def test_kill_goes_to_the_group(
    cgroup_base: Path, tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    """The last rung ends the group as a whole, also who is there without being a descendant."""
    async with TaskEngine(Settings(cgroup=str(cgroup_base)), load_installed=False) as engine:
        task, _ = await start(engine, tmp_path)
        join(cgroup_base / f"ebt-{task.uid}", stranger.pid)
        await task.cancel()
    assert stranger.wait(30) == -signal.SIGKILL


@pytest.mark.anyio
async def test_groups_within(cgroup_base: Path, tmp_path: Path) -> None:
    """Groups that a program makes within that of its task are taken away with it."""
    own = f"{cgroup_base}/ebt-$EBT_TASK/own"
    script = f"mkdir {own}; echo $$ > {own}/cgroup.procs; echo $$; exec sleep 1000"
    async with TaskEngine(Settings(cgroup=str(cgroup_base)), load_installed=False) as engine:
        task, leader = await start(engine, tmp_path, script)
        assert group_of(leader).endswith(f"/ebt-{task.uid}/own")
        await task.cancel()
    assert groups(cgroup_base) == []


@pytest.mark.anyio
async def test_guardian_is_killed(
    cgroup_base: Path, tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    """The warden ends the group of a guardian that was killed, and takes it away."""
    async with TaskEngine(Settings(cgroup=str(cgroup_base)), load_installed=False) as engine:
        task, _ = await start(engine, tmp_path)
        join(cgroup_base / f"ebt-{task.uid}", stranger.pid)
        os.kill(guardian_and_warden(task)[0], signal.SIGKILL)
        assert (await task.wait()).reason is Reason.GUARDIAN_LOST
        assert stranger.wait(30) == -signal.SIGKILL
        wait_until(lambda: groups(cgroup_base) == [])


@pytest.mark.anyio
async def test_guardian_and_warden_are_killed(cgroup_base: Path, tmp_path: Path) -> None:
    """The host then ends even an orphan without a mark: it cannot leave the group."""
    async with TaskEngine(Settings(cgroup=str(cgroup_base)), load_installed=False) as engine:
        task, pid = await start(engine, tmp_path, WIPED)
        orphan = read_process(pid)
        assert orphan is not None
        both = guardian_and_warden(task)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for above in reversed(both):
                os.kill(above, number)
        assert (await task.wait()).reason is Reason.GUARDIAN_LOST
        now = read_process(orphan.pid)
        assert now is None or now.start_time != orphan.start_time or not now.alive
        wait_until(lambda: groups(cgroup_base) == [])


@pytest.mark.anyio
async def test_group_that_cannot_be_made(cgroup_base: Path, tmp_path: Path) -> None:
    """A task whose group cannot be made runs all the same, and ends whole."""
    async with TaskEngine(Settings(cgroup=str(cgroup_base)), load_installed=False) as engine:
        os.rmdir(cgroup_base)
        task, orphan = await start(engine, tmp_path, WIPED)
        assert "ebt-" not in group_of(orphan)
        await task.cancel()
        wait_until(lambda: not Path(f"/proc/{orphan}").exists())


def test_start_into_a_group_that_is_gone(cgroup_base: Path) -> None:
    """Where the kernel refuses to fork into a group, it is forked as without one."""
    from eventbus_tasks._process.spawn import LeaderPlan, start_leader

    group = TaskCgroup.make(str(cgroup_base), "gone")
    os.rmdir(group.path)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        plan = LeaderPlan(
            argv=[b"true"],
            cwd=b"/",
            env={b"PATH": b"/bin:/usr/bin"},
            umask=0o22,
            nofile=1024,
            stdin=null,
            stdout=null,
            stderr=null,
        )
        pid, report = start_leader(lambda: plan, group.fd)
        assert os.waitpid(pid, 0)[1] == 0
        os.close(report)
    finally:
        os.close(null)
        group.remove()


@pytest.mark.parametrize("mark", ["user.delegate", "trusted.delegate"])
def test_delegated_group(cgroup_base: Path, mark: str) -> None:
    """By itself a program takes only a group that was delegated to it, or one below that."""
    below = cgroup_base / "below"
    below.mkdir()
    command = [sys.executable, "-c", FIND, str(below)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert "was not delegated" in refused.stderr
    try:
        os.setxattr(cgroup_base, mark, b"1")
    except OSError as error:
        pytest.skip(f"no such mark can be set here: {error}")
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == f"{below}\n"


def test_wrong_groups(cgroup_base: Path, tmp_path: Path) -> None:
    """What is no group, or not wanted, is refused with the reason."""
    assert find_base(str(cgroup_base)) == str(cgroup_base)
    for wanted, reason in (
        ("off", "switched off"),
        (str(tmp_path), "is not below"),
        (str(cgroup_base / "nobody"), "is not a group"),
    ):
        with pytest.raises(CgroupError, match=reason):
            find_base(wanted)

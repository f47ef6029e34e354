"""`ebt ls` and `ebt logs`: tasks of programs that keep nothing, for as long as they run."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventbus_tasks import OutputLine, Task, TaskEngine

pytestmark = pytest.mark.anyio

MakeEngine = Callable[..., TaskEngine]
Ebt = Callable[..., int]
Capture = pytest.CaptureFixture[str]
PATIENCE = 30


async def start(engine: TaskEngine, directory: Path, name: str, script: str) -> Task:
    """Start a task, and return it when it has written a line."""
    with engine.subscribe(OutputLine) as stream:
        task = await engine.spawn_task(
            name, project_dir=directory, argv=["sh", "-c", script], when_busy="share"
        )
        async for line in stream:
            if line.task.uid == task.uid:
                break
    return task


def listed(ebt: Ebt, capsys: Capture, *options: str) -> list[dict[str, Any]]:
    """Return what `ebt ls` lists."""
    assert ebt("ls", "--json", *options) == 0
    return list(json.loads(capsys.readouterr().out))


async def test_ls(
    make_engine: MakeEngine, project: Path, tmp_path: Path, ebt: Ebt, capsys: Capture
) -> None:
    """A task that nobody keeps is listed while it runs, before the others, by its UUID."""
    async with make_engine() as keeping, TaskEngine(load_installed=False) as forgetting:
        kept = await start(keeping, project, "kept", "echo; exec sleep 1000")
        other = await start(forgetting, project, "other", "echo; exec sleep 1000")
        found = await anyio.to_thread.run_sync(functools.partial(listed, ebt, capsys))
        assert [(task["name"], task["status"], task["kept"]) for task in found] == [
            ("other", "running", False),
            ("kept", "running", True),
        ]
        assert found[0].keys() == found[1].keys()
        assert await anyio.to_thread.run_sync(ebt, "ls") == 0
        rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:]]
        assert rows == [[other.uid[:8], "running", "other"], [str(kept.id), "running", "kept"]]
        elsewhere = functools.partial(listed, ebt, capsys, "--project", str(tmp_path))
        assert await anyio.to_thread.run_sync(elsewhere) == []
        await other.cancel(now=True)
        found = await anyio.to_thread.run_sync(functools.partial(listed, ebt, capsys))
        assert [task["name"] for task in found] == ["kept"]
        await kept.cancel(now=True)


async def test_logs(
    project: Path, ebt_process: Callable[..., subprocess.Popen[bytes]], ebt: Ebt, capsys: Capture
) -> None:
    """What it writes into a log without a name is printed and followed, to its very end."""
    os.mkfifo(project / "gate")
    async with TaskEngine(load_installed=False) as engine:
        task = await start(engine, project, "other", "echo one; read x < gate; echo two; echo end")
        assert await anyio.to_thread.run_sync(ebt, "logs", "other") == 0
        assert capsys.readouterr().out == "one\n"
        follower = ebt_process("logs", task.uid[:8], "-f", "--raw")
        assert follower.stdout is not None
        assert await anyio.to_thread.run_sync(follower.stdout.read, 4) == b"one\n"
        await anyio.to_thread.run_sync((project / "gate").write_text, "go\n")
        output, error = await anyio.to_thread.run_sync(
            functools.partial(follower.communicate, timeout=PATIENCE)
        )
    assert (output, error, follower.returncode) == (b"two\nend\n", b"", 0)


async def test_logs_of_nobody(project: Path, ebt: Ebt, capsys: Capture) -> None:
    """What fits no task is refused, and what fits two of them is refused with both."""
    async with TaskEngine(load_installed=False) as engine:
        tasks = [
            await start(engine, project, name, "echo; exec sleep 1000") for name in ("ab", "ac")
        ]
        assert await anyio.to_thread.run_sync(ebt, "logs", "nobody") == 1
        assert "there is no task 'nobody'" in capsys.readouterr().err
        assert await anyio.to_thread.run_sync(ebt, "logs", "a") == 2
        errors = capsys.readouterr().err
        assert all(task.uid[:8] in errors for task in tasks)
        assert await anyio.to_thread.run_sync(ebt, "logs", "ab", "--stderr") == 1
        capsys.readouterr()
        assert await anyio.to_thread.run_sync(ebt, "logs", "ab", "--timestamps") == 1
        assert "no times are kept" in capsys.readouterr().err

"""The commands `ebt ls`, `ebt show` and `ebt logs`."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from eventbus_tasks_disk.history import Entry, Host, open_state
from eventbus_tasks_disk.records import encode_record

from eventbus_tasks import (
    OutputReceived,
    TaskEngine,
    TaskQueued,
    TaskStarted,
    TaskStopping,
    TerminationPolicy,
)

pytestmark = pytest.mark.anyio

MakeEngine = Callable[..., TaskEngine]
Ebt = Callable[..., int]
Capture = pytest.CaptureFixture[str]
PATIENCE = 30


async def run_task(engine: TaskEngine, project: Path, name: str, script: str) -> Any:
    """Run a script as a task, to its end."""
    task = await engine.spawn_task(name, project_dir=project, argv=["sh", "-c", script])
    await task.wait()
    return task


@pytest.fixture
async def history(make_engine: MakeEngine, project: Path, tmp_path: Path) -> Path:
    """Three tasks in two projects; returns the second project."""
    other = tmp_path / "other"
    other.mkdir()
    async with make_engine() as engine:
        await run_task(engine, project, "build it", "echo built")
        await run_task(engine, project, "Test it", "echo tested; exit 3")
        await run_task(engine, other, "nasty \x1b[2J\n\u202ename", r"printf '\033[31mred\r\nend'")
    return other


async def test_ls(history: Path, ebt: Ebt, capsys: Capture) -> None:
    """Tasks of all projects are listed, the latest first, without control characters."""
    assert ebt("ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ID", "STATUS", "NAME", "AGENT", "AGE", "TIME", "PROJECT"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["3", "completed"],
        ["2", "failed"],
        ["1", "completed"],
    ]
    assert "nasty name" in lines[1]
    assert "\x1b" not in "".join(lines)


async def test_ls_of_a_queue(
    make_engine: MakeEngine, project: Path, ebt: Ebt, capsys: Capture
) -> None:
    """A task that waits for its project is listed as queued, and as running once it has begun."""

    def listed() -> list[str]:
        assert ebt("ls", "--json") == 0
        return [item["status"] for item in json.loads(capsys.readouterr().out)]

    async with make_engine() as engine:
        with engine.subscribe(TaskQueued, TaskStarted) as stream:
            first = await engine.spawn_task("a", project_dir=project, argv=["sleep", "1000"])
            assert isinstance(await anext(stream), TaskStarted)
            second = await engine.spawn_task(
                "b", project_dir=project, argv=["sleep", "1000"], when_busy="queue"
            )
            assert isinstance(await anext(stream), TaskQueued)
            assert listed() == ["queued", "running"]
            await first.cancel(now=True)
            assert isinstance(await anext(stream), TaskStarted)
            assert listed() == ["running", "cancelled"]
            await second.cancel(now=True)


async def test_ls_json(history: Path, ebt: Ebt, capsys: Capture) -> None:
    """As JSON, the list has the facts as they are."""
    assert ebt("ls", "--json", "-n", "2") == 0
    third, second = json.loads(capsys.readouterr().out)
    assert third["name"] == "nasty \x1b[2J\n\u202ename"
    assert (second["id"], second["status"], second["reason"]) == (2, "failed", "exit_code")
    assert second["return_code"] == 3
    assert second["created"] < second["started"] < second["ended"]
    assert ebt("ls", "--json", "-n", f"{10**30}") == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


async def test_ls_project(history: Path, ebt: Ebt, capsys: Capture, tmp_path: Path) -> None:
    """The list can be of one project, whatever way its path is written."""
    link = tmp_path / "link"
    link.symlink_to(history)
    assert ebt("ls", "--json", "--project", str(link)) == 0
    assert [item["id"] for item in json.loads(capsys.readouterr().out)] == [3]


async def test_long_history(ebt: Ebt, capsys: Capture, private_state: Path, project: Path) -> None:
    """With 100,000 tasks the list shows the latest, and any is found by its number."""
    state = private_state / "state"
    os.close(open_state(state, make=True))
    host = Host(pid=1, start_time=1, boot_id="")
    with (state / "disk" / "index.jsonl").open("wb") as file:
        for number in range(1, 100_001):
            entry = Entry(
                id=number,
                uid=str(uuid.UUID(int=number)),
                name=f"Größe {number}" if number == 7 else "work",
                agent="command",
                project_dir=str(project),
                directory=".claude-tasks",
                files=f"task-{number}",
                created="2026-01-01T00:00:00+00:00",
                host=host,
            )
            file.write(encode_record(entry.to_dict()))
    assert ebt("ls", "--json") == 0
    shown = [task["id"] for task in json.loads(capsys.readouterr().out)]
    assert shown == list(range(100_000, 99_980, -1))
    for wanted in ("7", "größe 7", "GRÖSSE", str(uuid.UUID(int=7))):
        assert ebt("show", wanted, "--json") == 0
        assert json.loads(capsys.readouterr().out)["id"] == 7


async def test_ls_empty(ebt: Ebt, capsys: Capture) -> None:
    """Without any task the list is empty, and that is no error."""
    assert ebt("ls") == 0
    assert capsys.readouterr().out == ""
    assert ebt("ls", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


async def test_gone(history: Path, ebt: Ebt, capsys: Capture) -> None:
    """A task whose files were removed is listed as such, and its output is said to be gone."""
    shutil.rmtree(history / ".claude-tasks")
    assert ebt("ls", "--json", "-n", "1") == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "gone"
    assert ebt("logs", "3") == 1
    assert "gone" in capsys.readouterr().err
    assert ebt("show", "3") == 0
    assert "journal cannot be opened" in capsys.readouterr().out


async def test_show(history: Path, ebt: Ebt, capsys: Capture) -> None:
    """One task is shown with everything that its journal says."""
    assert ebt("show", "test it", "--json") == 0
    details = json.loads(capsys.readouterr().out)
    assert details["id"] == 2
    assert details["outcome"]["reason"] == "exit_code"
    assert details["request"]["argv"] == ["sh", "-c", "echo tested; exit 3"]
    assert details["pid"] > 0
    assert details["problems"] == []
    assert Path(details["files"]["markdown"]).name == "task-2-output.md"
    assert ebt("show", "2") == 0
    text = capsys.readouterr().out
    assert "failed (exit_code)" in text
    assert "task-2.stdout.log" in text


async def test_show_damaged(history: Path, ebt: Ebt, capsys: Capture) -> None:
    """A damaged journal is shown as far as it goes, and the damage is said."""
    path = history / ".claude-tasks" / "task-3.events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"x" + lines[1][1:] + b"".join(lines[2:]) + b'{"torn')
    assert ebt("show", "3", "--json") == 0
    details = json.loads(capsys.readouterr().out)
    assert details["problems"] == ["events 2 to 2 are missing", "2 damaged lines in the journal"]
    assert details["status"] == "completed"


@pytest.mark.parametrize("command", ["show", "logs"])
async def test_names(history: Path, ebt: Ebt, capsys: Capture, command: str) -> None:
    """A task is found by number, UUID, its beginning, name or part of it, or it is said why not."""
    ebt("ls", "--json")
    uid = json.loads(capsys.readouterr().out)[2]["uid"]
    for word in ("1", "BUILD IT", "uil", uid, uid[:8].upper()):
        assert ebt(command, word) == 0
        assert "buil" in capsys.readouterr().out
    assert ebt(command, "IT") == 2
    error = capsys.readouterr().err
    assert "build it" in error
    assert "Test it" in error
    assert ebt(command, "nobody\x1b[2J") == 1
    assert capsys.readouterr().err == "ebt: there is no task 'nobody'; `ebt ls` lists them\n"


async def test_logs(history: Path, ebt: Ebt, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Output is printed clean, or as it is when that is wanted."""
    assert ebt("logs", "3") == 0
    assert capfdbinary.readouterr().out == b"red\nend"
    assert ebt("logs", "3", "--raw") == 0
    assert capfdbinary.readouterr().out == b"\x1b[31mred\r\nend"
    assert ebt("logs", "3", "--raw", "-n", "1") == 0
    assert capfdbinary.readouterr().out == b"end"
    assert ebt("logs", "3", "-n", "0") == 0
    assert capfdbinary.readouterr().out == b""
    assert ebt("logs", "1", "-n", f"{10**30}", "-f") == 0
    assert capfdbinary.readouterr().out == b"built\n"
    assert ebt("logs", "1", "--stderr") == 1
    assert b"no stderr of its own" in capfdbinary.readouterr().err


@pytest.mark.parametrize("words", [["--raw"], [], ["--timestamps"]], ids=["raw", "clean", "times"])
async def test_logs_without_what_was_freed(
    make_engine: MakeEngine,
    project: Path,
    ebt: Ebt,
    capfdbinary: pytest.CaptureFixture[bytes],
    words: list[str],
) -> None:
    """Of a task that keeps the end of its output, no zeros stand for what it has freed."""
    policy = TerminationPolicy(max_output=100_000, keep="tail")
    argv = ["sh", "-c", "yes long | head -n 1000000; echo end"]
    async with make_engine() as engine:
        task = await engine.spawn_task("tail", argv=argv, project_dir=project, policy=policy)
        outcome = await task.wait()
    assert sum(outcome.lost_bytes.values()) > 4_000_000
    assert ebt("logs", "1", *words) == 0
    printed = capfdbinary.readouterr().out
    assert b"\0" not in printed
    assert printed.endswith(b"end\n")
    assert printed.count(b"long\n") >= 100_000 // len("long\n") - 1


@pytest.mark.parametrize("count", [1, 2, 3, 999, 20_000, 30_000])
async def test_last_lines(tmp_path: Path, count: int) -> None:
    """The beginning of the last lines is found in a log of any size, with or without an end."""
    from eventbus_tasks_disk.logs import _start_of_last

    lines = [b"%d\n" % number for number in range(20_000)]
    for end in (b"", b"partial"):
        content = b"".join(lines) + end
        path = tmp_path / "log"
        path.write_bytes(content)
        with path.open("rb") as file:
            start = _start_of_last(file.fileno(), count)
        whole = lines + ([end] if end else [])
        assert content[start:] == b"".join(whole[-count:])


async def test_follow(
    make_engine: MakeEngine,
    project: Path,
    ebt: Ebt,
    ebt_process: Callable[..., subprocess.Popen[bytes]],
    capsys: Capture,
) -> None:
    """What is followed is printed while it is written, and the command ends with the task."""
    os.mkfifo(project / "go")
    async with make_engine() as engine:
        with engine.subscribe(OutputReceived) as stream:
            script = "exec 3<>go; printf first; read _ <&3; echo second"
            task = await engine.spawn_task("w", project_dir=project, argv=["sh", "-c", script])
            async for _ in stream:
                break
        assert ebt("ls", "--json") == 0
        assert json.loads(capsys.readouterr().out)[0]["status"] == "running"
        follower = ebt_process("logs", "w", "-f")
        assert follower.stdout is not None
        assert await anyio.to_thread.run_sync(follower.stdout.read, 5) == b"first"
        assert follower.poll() is None
        (project / "go").write_text("go\n")
        await task.wait()
        output, error = await anyio.to_thread.run_sync(
            functools.partial(follower.communicate, timeout=PATIENCE)
        )
    assert (output, error, follower.returncode) == (b"second\n", b"", 0)


async def test_follow_interrupted(
    make_engine: MakeEngine, project: Path, ebt_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Ctrl-C ends the following, not the task."""
    async with make_engine() as engine:
        with engine.subscribe(OutputReceived) as stream:
            task = await engine.spawn_task(
                "w", project_dir=project, argv=["sh", "-c", "echo x; exec sleep 1000"]
            )
            async for _ in stream:
                break
        follower = ebt_process("logs", "w", "-f")
        assert follower.stdout is not None
        assert await anyio.to_thread.run_sync(follower.stdout.read, 2) == b"x\n"
        follower.send_signal(signal.SIGINT)
        _, error = await anyio.to_thread.run_sync(
            functools.partial(follower.communicate, timeout=PATIENCE)
        )
        assert (follower.returncode, error) == (130, b"")
        assert task.is_running


async def test_stopping(make_engine: MakeEngine, project: Path, ebt: Ebt, capsys: Capture) -> None:
    """A task that has not been started, and one that is being stopped, are listed as such."""
    async with make_engine() as engine:
        with engine.subscribe(TaskStarted) as stream:
            script = "trap '' TERM; while :; do sleep 0.1; done"
            task = await engine.spawn_task("w", project_dir=project, argv=["sh", "-c", script])
            async for _ in stream:
                break
        with engine.subscribe(TaskStopping) as events:
            task.cancel_nowait()
            async for _ in events:
                break
        ebt("ls", "--json")
        assert json.loads(capsys.readouterr().out)[0]["status"] == "stopping"
        await task.cancel(now=True)


async def test_lost(
    start_host: Callable[..., subprocess.Popen[str]],
    project: Path,
    ebt: Ebt,
    ebt_process: Callable[..., subprocess.Popen[bytes]],
    capsys: Capture,
) -> None:
    """A task whose host was killed: following it ends, and whoever looks next gives it an end."""
    os.mkfifo(project / "begun")
    script = "echo kept; echo > begun; exec sleep 1000"
    host = start_host(project, "sh", "-c", script)
    try:
        # To its end: a reader that goes too early would end the shell by SIGPIPE.
        await anyio.to_thread.run_sync((project / "begun").read_bytes)
        assert ebt("ls", "--json") == 0
        assert json.loads(capsys.readouterr().out)[0]["status"] in ("running", "pending")
    finally:
        host.kill()
        host.wait()
    follower = ebt_process("logs", "1", "-f")
    output, _ = await anyio.to_thread.run_sync(
        functools.partial(follower.communicate, timeout=PATIENCE)
    )
    assert (output, follower.returncode) == (b"kept\n", 0)
    assert ebt("ls", "--json") == 0
    (task,) = json.loads(capsys.readouterr().out)
    assert (task["status"], task["reason"]) == ("failed", "host_lost")
    assert "kept\n" in (project / ".claude-tasks" / "task-1-output.md").read_text()


async def test_state_of_others(ebt: Ebt, capsys: Capture, private_state: Path) -> None:
    """A state directory that others can write into is not believed, which is said in one line."""
    folder = private_state / "state" / "disk"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    for words in (["ls"], ["show", "1"], ["logs", "1"]):
        assert ebt(*words) == 1
        error = capsys.readouterr().err
        assert error == f"ebt: can be written by other users: {folder}\n"

"""Two streams of one task, shown in the order in which they have arrived."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from eventbus_tasks_disk.interleaving import Interleaving
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import Command, Task, TaskEngine, hookimpl

pytestmark = pytest.mark.anyio

Ebt = Callable[..., int]
EbtProcess = Callable[..., subprocess.Popen[bytes]]

PATIENCE = 60
"""Seconds that another process may take: a guard against a hang."""

PROGRAM = """
import os, sys
for line in sys.stdin:
    os.write(2 if line.startswith("e") else 1, line.encode())
"""


class Apart:
    """Keeps standard error apart."""

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command:
        """Answer for every task."""
        request = task.request
        return Command(argv=request.argv, stdin=request.stdin, stderr="separate")


LINES = ["o1", "e1", "e2", "o2", "e3", "o3", "o4", "e4"]


class Story:
    """A task that writes a line to either stream when it is told to."""

    def __init__(self, task: Task) -> None:
        self.task = task

    async def write(self, *lines: str) -> None:
        """Have lines written, each after the one before it has been seen."""
        for line in lines:
            stream: Any = "stderr" if line.startswith("e") else "stdout"
            size = self.task.output.size(stream)
            await self.task.send(f"{line}\n".encode())
            with anyio.fail_after(PATIENCE):
                while self.task.output.size(stream) == size:
                    await self.task.output._wait_for_more()


@pytest.fixture
async def story(
    make_engine: Callable[..., TaskEngine], project: Path, anyio_backend: object
) -> AsyncIterator[Story]:
    """A task that has not written anything."""
    argv = [sys.executable, "-I", "-S", "-c", PROGRAM]
    async with make_engine(apart=Apart()) as engine:
        task = await engine.spawn_task("two", argv=argv, project_dir=project, stdin="open")
        yield Story(task)


def shown(ebt_process: EbtProcess, *words: str) -> list[str]:
    """Return what ``ebt logs`` shows at a terminal."""
    process = ebt_process("logs", "1", *words, merged=True)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    return output.decode().splitlines()


async def test_in_the_order_of_arrival(
    story: Story,
    ebt_process: EbtProcess,
    ebt: Ebt,
    project: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """Both streams are shown line by line in their order, each on its own; or one of them."""
    began = datetime.now(UTC)
    await story.write(*LINES)
    await story.task.close_input()
    await story.task.wait()

    def look() -> None:
        assert shown(ebt_process) == LINES
        assert shown(ebt_process, "--raw") == LINES
        assert shown(ebt_process, "-n", "3") == LINES[-3:]
        assert shown(ebt_process, "-n", "0") == []
        assert shown(ebt_process, "--stderr", "-n", "2") == ["e3", "e4"]
        stamped = shown(ebt_process, "--timestamps")
        assert [line.split("  ", 1)[1] for line in stamped] == LINES
        times = [datetime.fromisoformat(line.split("  ", 1)[0]) for line in stamped]
        assert times == sorted(times)
        # They are shown in milliseconds, cut off.
        assert (began - times[0]).total_seconds() < 0.001
        assert times[-1] <= datetime.now(UTC)
        stamped = shown(ebt_process, "-t", "--stdout", "-n", "1")
        assert [line.split("  ", 1)[1] for line in stamped] == ["o4"]
        assert ebt("logs", "1") == 0
        out, error = capfdbinary.readouterr()
        assert out.split() == [line.encode() for line in LINES if line[0] == "o"]
        assert error.split() == [line.encode() for line in LINES if line[0] == "e"]

    await anyio.to_thread.run_sync(look)
    index = project / ".claude-tasks" / "task-1.arrivals.idx"
    assert index.stat().st_mode & 0o777 == 0o600
    assert index.stat().st_size == 16 * len(LINES)


async def test_in_the_readable_file(story: Story, project: Path) -> None:
    """The readable file has both streams in their order, marked; apart where that is unknown."""
    from eventbus_tasks_disk import recovery
    from eventbus_tasks_disk.history import latest_entries

    await story.write(*LINES)
    await story.task.close_input()
    await story.task.wait()
    folder = project / ".claude-tasks"
    text = (folder / "task-1-output.md").read_text()
    marked = [f"stderr: {line}" if line[0] == "e" else line for line in LINES]
    assert text.endswith("## Output\n\n```text\n" + "\n".join(marked) + "\n```\n")
    assert "## Standard error" not in text
    # What recovery writes is the same; without the index, both by themselves.
    (entry,) = latest_entries(story.task.settings.state_dir)
    journal = folder / "task-1.events.jsonl"
    for kept in (True, False):
        (folder / "task-1-output.md").unlink()
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
        if not kept:
            (folder / "task-1.arrivals.idx").unlink()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recovery, "host_lives", lambda _: False)
            assert recovery.recover_task(story.task.settings.state_dir, entry)
        written = (folder / "task-1-output.md").read_text()
        body = written[written.index("## Output") :]
        assert (body == text[text.index("## Output") :]) is kept
        assert ("## Standard error\n\n```text\ne1\n" in body) is not kept


async def test_followed(story: Story, ebt_process: EbtProcess) -> None:
    """What is followed comes in its order while it is written, unfinished lines at the end."""
    await story.write(*LINES[:3])
    follower = ebt_process("logs", "1", "-f", merged=True)
    assert follower.stdout is not None
    read = follower.stdout.readline
    for line in LINES[:3]:
        assert await anyio.to_thread.run_sync(read) == f"{line}\n".encode()
    await story.write(*LINES[3:])
    for line in LINES[3:]:
        assert await anyio.to_thread.run_sync(read) == f"{line}\n".encode()
    await story.task.close_input()
    await story.task.wait()
    assert await anyio.to_thread.run_sync(follower.stdout.read) == b""
    assert follower.wait(PATIENCE) == 0


async def test_a_damaged_index(story: Story, ebt_process: EbtProcess, project: Path) -> None:
    """Without the index standard output is shown; with a part of it, everything once."""
    await story.write(*LINES)
    await story.task.close_input()
    await story.task.wait()
    index = project / ".claude-tasks" / "task-1.arrivals.idx"
    os.truncate(index, 16 * 4 + 7)
    lines = await anyio.to_thread.run_sync(shown, ebt_process)
    assert lines == [*LINES[:4], "o3", "o4", "e3", "e4"]
    index.unlink()
    lines = await anyio.to_thread.run_sync(shown, ebt_process)
    assert lines == [line for line in LINES if line[0] == "o"]


async def test_merged_streams_have_times(
    make_engine: Callable[..., TaskEngine], ebt_process: EbtProcess, project: Path
) -> None:
    """A plain command has times for its lines too, the last one without a line ending as well."""
    async with make_engine() as engine:
        argv = ["sh", "-c", "echo one; echo two >&2; printf three"]
        task = await engine.spawn_task("one", argv=argv, project_dir=project)
        await task.wait()
    lines = await anyio.to_thread.run_sync(shown, ebt_process, "--timestamps")
    assert [line.split()[-1] for line in lines] == ["one", "two", "three"]
    assert all(datetime.fromisoformat(line.split("  ")[0]).tzinfo for line in lines[:2])


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=12)), max_size=20), st.integers(0, 40))
def test_every_byte_once(pieces: list[tuple[bool, bytes]], known: int) -> None:
    """Whatever the pieces, and however much of it the index knows, each byte is there once."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        logs = {"stdout": out, "stderr": err}
        with tempfile.TemporaryFile() as file:
            for number, (is_error, data) in enumerate(pieces):
                log = err if is_error else out
                log.write(data)
                log.flush()
                if number < known:
                    file.write(struct.pack("<QQ", log.tell() << 1 | is_error, number))
            file.flush()
            numbers = {name: log.fileno() for name, log in logs.items()}
            reading = Interleaving(numbers, file.fileno())
            lines = [*reading.read(), *reading.finish()]
        for name, log in logs.items():
            log.seek(0)
            assert b"".join(line.data for line in lines if line.stream == name) == log.read()
        assert all(line.data.endswith(b"\n") or line.at is None for line in lines)

"""Whatever a task writes, in whatever chunks: log, lines and ring against a plain reference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventbus_tasks import (
    Command,
    LineSplitter,
    OutputLine,
    OutputReceived,
    Settings,
    Task,
    TaskEngine,
    decode_line,
    hookimpl,
)
from eventbus_tasks.lines import MAX_LINE
from eventbus_tasks.output import RING_LINES
from eventbus_tasks.testing.strategies import chunks

GUARD = 60.0
"""Seconds after which a test is taken for stuck; nothing is ever measured by it."""

WRITER = """
import os, sys
if os.isatty(1):  # every byte as it is, as full-screen programs have it
    import termios
    mode = termios.tcgetattr(1)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(1, termios.TCSANOW, mode)
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        data = file.read()
    while data:
        data = data[os.write(1, data):]
"""
"""Writes the content of files, one write for each as far as the pipe takes it."""

WAYS = ("pipe", "file", "pty")


class Way:
    """Has a command captured in one of the ways.

    Args:
        capture: Which.
    """

    def __init__(self, capture: str) -> None:
        self._capture: Any = capture

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command:
        """Answer for every task."""
        return Command(argv=task.request.argv, capture=self._capture, stdin=task.request.stdin)

    def engine(self) -> TaskEngine:
        """Return an engine, not entered yet."""
        return TaskEngine(Settings.load(), plugins={"way": self}, load_installed=False)


ODD: Any = st.one_of(
    chunks(),
    st.lists(
        st.sampled_from(
            [
                b"\0",
                b"\xff\xfe",
                b"a\rb\r\n",
                "\u2028".encode(),
                "\u2028".encode()[:2],
                b"\n",
                b"x" * 70_000,
                b"line\n" * 1500,
            ]
        ),
        max_size=12,
    ),
)
"""Chunks of what programs write when they mean no good."""


def reference(data: bytes) -> list[str]:
    """Return the lines of everything that was written, without any cleverness."""
    lines = data.split(b"\n")
    return [decode_line(line) for line in (lines if lines[-1] else lines[:-1])]


async def check(directory: Path, parts: list[bytes], way: str) -> None:
    """Run a task that writes the parts, and compare everything that can be seen of it."""
    names = []
    for number, part in enumerate(parts):
        path = directory / f"part-{number}"
        path.write_bytes(part)
        names.append(str(path))
    data = b"".join(parts)
    lines: list[OutputLine] = []
    ranges: list[OutputReceived] = []
    slow: list[str] = []
    batches: list[str] = []

    async def receive_slowly(line: OutputLine) -> None:
        await anyio.lowlevel.checkpoint()
        slow.append(line.text)

    def receive(event: OutputReceived) -> None:
        ranges.append(event)
        batches.extend(event.lines)

    async with Way(way).engine() as engine:
        engine.signals.output_line.connect(lines.append)
        engine.signals.output_line.connect(receive_slowly)
        engine.signals.output_received.connect(receive)
        argv = [sys.executable, "-I", "-S", "-c", WRITER, *names]
        task = await engine.spawn_task("writer", argv=argv, project_dir=directory)
        with anyio.fail_after(GUARD):
            read = [line.text async for line in task.lines()]
            await task.wait()
        expected = reference(data)
        assert task.output.read() == data
        assert b"".join(event.data for event in ranges) == data
        assert [line.text for line in lines] == expected
        assert [line.number for line in lines] == list(range(1, len(expected) + 1))
        assert batches == expected
        assert read == expected
        assert task.output.tail() == expected[-RING_LINES:]
    assert slow == expected
    ranges.clear()


@pytest.mark.parametrize("way", WAYS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=ODD)
def test_through_the_kernel(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], way: str
) -> None:
    """Log, events, lines and ring of a real task are what a plain loop makes of its bytes."""
    anyio.run(check, tmp_path_factory.mktemp("writer"), parts, way)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=ODD)
def test_typed_at_a_terminal(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    """Whatever is sent, in whatever pieces, a program gets that takes its keys as they are."""
    anyio.run(type_parts, tmp_path_factory.mktemp("typist"), parts)


async def type_parts(directory: Path, parts: list[bytes]) -> None:
    """Send the parts to a program at a terminal that gives them back."""
    data = b"".join(parts)
    ready = b"ready"
    async with Way("pty").engine() as engine:
        argv = ["sh", "-c", f"stty raw -echo; printf ready; exec head -c {len(data)}"]
        task = await engine.spawn_task("typist", argv=argv, project_dir=directory, stdin="open")
        with anyio.fail_after(GUARD):
            while not task.output.size():  # what comes before would be edited and echoed
                await task.output._wait_for_more()
            for part in parts:
                await task.send(part)
            await task.wait()
        assert task.output.read() == ready + data


@given(parts=ODD)
def test_through_the_splitter(parts: list[bytes]) -> None:
    """The pure splitter makes of any chunks what a plain split makes of their sum."""
    splitter = LineSplitter()
    found = [line for part in parts for line in splitter.feed(part)] + splitter.finish()
    data = b"".join(parts)
    lines = data.split(b"\n")
    assert found == [(line, False) for line in (lines if lines[-1] else lines[:-1])]


@pytest.mark.anyio
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_a_line_of_20_mb(tmp_path: Path, ended: bool, way: str) -> None:
    """A line over 16 MiB comes in two pieces that are marked, and its log is whole."""
    data = b"first\n" + b"x" * 20_000_000 + b"\nlast" * ended
    (tmp_path / "part").write_bytes(data)
    pieces: list[tuple[int, int, bool]] = []

    def receive(line: OutputLine) -> None:
        pieces.append((line.number, len(line.text), line.truncated))

    async with Way(way).engine() as engine:
        engine.signals.output_line.connect(receive)
        argv = [sys.executable, "-I", "-S", "-c", WRITER, str(tmp_path / "part")]
        task = await engine.spawn_task("writer", argv=argv, project_dir=tmp_path)
        with anyio.fail_after(GUARD):
            await task.wait()
            read = [(line.number, len(line.data), line.truncated) async for line in task.lines()]
        assert task.output.read() == data
    expected = [(1, 5, False), (2, MAX_LINE, True), (2, 20_000_000 - MAX_LINE, False)]
    assert pieces == read == expected + [(3, 4, False)] * ended

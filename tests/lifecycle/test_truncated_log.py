"""Somebody cuts off the log of a task that runs: it is noticed, said, and harms nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventbus_tasks import (
    Command,
    LogFiles,
    OutputDropped,
    OutputLine,
    OutputReceived,
    Reason,
    Task,
    hookimpl,
)

from .conftest import Recorder, Stage, until

pytestmark = pytest.mark.anyio


class NamedLog:
    """Keeps the output in a named file, which the test can get at."""

    def __init__(self, path: Path, capture: str) -> None:
        self._path = path
        self._capture = capture

    @hookimpl
    def ebt_output_log(self, task: Task) -> NamedLog:
        """Answer for every task."""
        return self

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command:
        """Answer for every task."""
        return Command(argv=task.request.argv, capture=self._capture)  # type: ignore[arg-type]

    def open(self, *, separate_stderr: bool) -> LogFiles:
        """Open the file."""
        log = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return LogFiles(stdout=log, stdout_path=str(self._path))


@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_truncated_from_outside(stage: Stage, tmp_path: Path, capture: str) -> None:
    """The loss is an event, counted once; what comes later is whole, at its true offset."""
    path = tmp_path / "log"
    async with stage.engine(plugins={"log": NamedLog(path, capture)}) as engine:
        lines = Recorder()
        engine.signals.output_line.connect(lines)
        task, puppet = await stage.start(engine)
        for word in ("one\n", "two\n"):
            puppet.say(word)
            await until(lambda: lines.of(OutputLine)[-1:])
        await until(lambda: task.output.size() == 8)
        os.truncate(path, 0)
        puppet.say("three\n")
        await until(lambda: task.output.size() == 14 or stage.recorder.of(OutputDropped))
        # The loss is told before the log is mended: what is written in between is lost too.
        await until(lambda: path.stat().st_size >= 8)
        puppet.say("four\n")
        puppet.exit()
        outcome = await task.wait()
        assert outcome.reason is Reason.EXITED
        assert outcome.output_bytes == {"stdout": 19 if capture == "pipe" else task.output.size()}
        lost = sum(event.end - event.start for event in stage.recorder.of(OutputDropped, task))
        assert {event.why for event in stage.recorder.of(OutputDropped, task)} == {"truncated"}
        assert outcome.lost_bytes == {"stdout": lost}
        assert task.output.read(task.output.size() - 5) == b"four\n"
        assert [line.text async for line in task.lines(start=task.output.size() - 5)] == ["four"]
        assert [line.text for line in lines.of(OutputLine)][:2] == ["one", "two"]
        assert lines.of(OutputLine)[-1].text == "four"
    if capture == "pipe":
        assert lost == 8
        assert [line.text for line in lines.of(OutputLine)] == ["one", "two", "three", "four"]
    ranges = stage.recorder.of(OutputReceived, task)
    assert all(event.start < event.end or event.last for event in ranges)


async def test_truncated_at_the_end(stage: Stage, tmp_path: Path) -> None:
    """A log that is cut off after the last byte ends the task like any other, and says so."""
    path = tmp_path / "log"
    async with stage.engine(plugins={"log": NamedLog(path, "pipe")}) as engine:
        task, puppet = await stage.start(engine)
        puppet.say("one\n")
        await until(lambda: task.output.size() == 4)
        os.truncate(path, 1)
        puppet.exit()
        outcome = await task.wait()
        assert outcome.reason is Reason.EXITED
        assert (outcome.output_bytes, outcome.lost_bytes) == ({"stdout": 4}, {"stdout": 3})
        (event,) = stage.recorder.of(OutputDropped, task)
        assert (event.start, event.end, event.why) == (1, 4, "truncated")
        assert task.output.read() == b"o"
    stage.check(task)

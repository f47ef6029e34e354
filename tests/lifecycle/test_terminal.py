"""Tasks at a terminal of their own, as their users see them."""

from __future__ import annotations

import os
import sys

import pytest

from eventbus_tasks import (
    Command,
    InputClosedError,
    InvalidRequestError,
    OutputLine,
    OutputReceived,
    Reason,
    Task,
    TaskEngine,
    TaskRequest,
)

from .conftest import QUICK, Recorder, Stage, until

pytestmark = pytest.mark.anyio


async def spawn(stage: Stage, engine: TaskEngine, *argv: str, **options: object) -> Task:
    """Start a command at a terminal."""
    options.setdefault("pty_size", (80, 24))
    return await engine.spawn_task(
        "terminal",
        project_dir=stage.project,
        argv=argv,
        **options,  # type: ignore[arg-type]
    )


async def heard(task: Task, text: str) -> None:
    """Wait until a task has shown a text."""
    await until(lambda: text in task.output.text())


async def test_a_program_that_asks_for_a_terminal(stage: Stage) -> None:
    """A program finds a terminal of the wanted size; the same one without does not."""
    code = "import os, sys; print(sys.stdin.isatty(), sys.stdout.isatty())"
    async with stage.engine() as engine:
        task = await spawn(stage, engine, sys.executable, "-c", code)
        assert (await task.wait()).reason is Reason.EXITED
        assert task.output.tail() == ["True True"]
        assert task.output.read() == b"True True\r\n"
        task = await spawn(stage, engine, sys.executable, "-c", code, pty_size=None)
        await task.wait()
        assert task.output.tail() == ["False False"]
        task = await spawn(stage, engine, "stty", "size", pty_size=(100, 40))
        await task.wait()
        assert task.output.tail() == ["40 100"]
        with pytest.raises(InputClosedError):
            await task.send(b"x")


async def test_environment_of_a_terminal(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind of terminal is named if nobody has; the size of another one is not passed on."""
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.setenv("COLUMNS", "7")
    show = "echo $TERM ${COLUMNS:-none}"
    async with stage.engine() as engine:
        for env, seen in (({}, "xterm-256color none"), ({"TERM": "vt100"}, "vt100 none")):
            task = await spawn(stage, engine, "sh", "-c", show, env=env)
            await task.wait()
            assert task.output.tail() == [seen]


async def test_conversation_at_a_terminal(stage: Stage) -> None:
    """What is sent is typed; a new size is told; the end of input is a Ctrl-D."""
    code = """
import os, signal, sys
signal.signal(signal.SIGWINCH, lambda *_: print("size", *os.get_terminal_size(1), flush=True))
print("up", flush=True)
for line in sys.stdin: print("got", line.strip(), flush=True)
print("end")
"""
    async with stage.engine() as engine:
        lines = Recorder()
        engine.signals.output_line.connect(lines)
        task = await spawn(stage, engine, sys.executable, "-c", code, stdin="open")
        await heard(task, "up\r\n")
        await task.send(b"hello\n")
        await heard(task, "got hello\r\n")
        task.resize(111, 22)
        await heard(task, "size 111 22\r\n")
        await task.close_input()
        outcome = await task.wait()
        assert outcome.reason is Reason.EXITED
        shown = ["up", "hello", "got hello", "size 111 22", "end"]
        assert [line.text for line in lines.of(OutputLine)] == shown
        task.resize(1, 1)
    stage.check(task)


async def test_bytes_are_typed(stage: Stage) -> None:
    """Bytes for standard input are typed, and then the end; nothing is an end at once."""
    async with stage.engine() as engine:
        task = await spawn(stage, engine, "wc", "-l", stdin=b"one\ntwo\n")
        await task.wait()
        assert task.output.tail(1) == ["2"]
        task = await spawn(stage, engine, "wc", "-c")
        await task.wait()
        assert task.output.tail() == ["0"]


async def test_cancelled_at_a_terminal(stage: Stage) -> None:
    """The ladder ends a whole family at a terminal, with what has left its session."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine, pty_size=(80, 24), stdin="open")
        for session in (False, True):
            puppet.spawn(session=session)
        assert await task.cancel()
        assert not puppet.living()
        assert task.outcome is not None
        assert task.outcome.survivors == ()
    stage.check(task)


async def test_output_of_a_terminal(stage: Stage) -> None:
    """Ranges and lines of a terminal are those of any output, up to the last byte."""
    async with stage.engine() as engine:
        ranges = Recorder()
        engine.signals.output_received.connect(ranges)
        task = await spawn(stage, engine, "seq", "20000", policy=QUICK)
        await task.wait()
        whole = b"".join(b"%d\r\n" % number for number in range(1, 20_001))
        assert task.output.read() == whole
        assert b"".join(event.data for event in ranges.of(OutputReceived)) == whole
        ranges.events.clear()


async def test_descriptors_in_the_host(stage: Stage) -> None:
    """A task at a terminal costs the host no descriptor more than another."""
    costs = []
    async with stage.engine() as engine:
        for size in (None, None, (80, 24)):  # the first one brings up what all of them need
            before = len(os.listdir("/proc/self/fd"))
            task, puppet = await stage.start(engine, pty_size=size)
            costs.append(len(os.listdir("/proc/self/fd")) - before)
            puppet.exit()
            await task.wait()
    assert costs[2] == costs[1]


async def test_what_has_no_terminal(stage: Stage) -> None:
    """A size is for terminals, and must be one; standard error cannot be apart."""
    async with stage.engine() as engine:
        task = await spawn(stage, engine, "true", pty_size=None)
        with pytest.raises(InputClosedError, match="terminal"):
            task.resize(80, 24)
        with pytest.raises(ValueError, match="size of a terminal"):
            task.resize(0, 24)
        await task.wait()
        for size in ((0, 1), (80,), (1, 70_000), "80x24"):
            with pytest.raises(InvalidRequestError, match="pty_size"):
                await spawn(stage, engine, "true", pty_size=size)
    with pytest.raises(InvalidRequestError, match="one stream"):
        Command(argv=("true",), capture="pty", stderr="separate").validate()


def test_request_with_a_terminal_survives_json(stage: Stage) -> None:
    """The size is part of what is asked for, also for a later host."""
    request = TaskRequest(name="t", project_dir=stage.project, argv=("a",), pty_size=(1, 2))
    assert TaskRequest.from_dict(request.to_dict()) == request

"""Standard input that stays open: what is sent arrives, and nobody waits for ever."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from eventbus_tasks import (
    InputClosedError,
    InvalidRequestError,
    OutputReceived,
    Reason,
    Task,
    TaskEngine,
)

from .conftest import GUARD, Stage

pytestmark = pytest.mark.anyio


async def spawn(stage: Stage, engine: TaskEngine, *argv: str) -> Task:
    """Start a command whose standard input is open."""
    return await engine.spawn_task("input", project_dir=stage.project, argv=argv, stdin="open")


async def test_conversation(stage: Stage) -> None:
    """A program gets what is sent when it is sent, and its end when the input is closed."""
    async with stage.engine() as engine:
        with engine.subscribe(OutputReceived) as stream:
            task = await spawn(stage, engine, "cat")
            heard = b""
            for word in (b"one\n", b"two\n"):
                await task.send(word)
                async for event in stream:
                    heard += event.data
                    if heard.endswith(word):
                        break
        await task.send(b"")
        await task.close_input()
        await task.close_input()
        outcome = await task.wait()
        assert task.output.text() == "one\ntwo\n"
        with pytest.raises(InputClosedError, match="it was closed"):
            await task.send(b"late")
    assert outcome.reason is Reason.EXITED


async def test_large_input_in_order(stage: Stage) -> None:
    """Sends that overlap and are larger than any pipe arrive whole, one after the other."""
    async with stage.engine() as engine:
        task = await spawn(stage, engine, "cat")
        async with anyio.create_task_group() as group:
            for letter in (b"a", b"b", b"c"):
                group.start_soon(task.send, letter * 1_000_000 + b"\n")
        await task.close_input()
        await task.wait()
        lines = task.output.read().splitlines()
        assert sorted(lines) == [letter * 1_000_000 for letter in (b"a", b"b", b"c")]


async def test_backpressure(stage: Stage, tmp_path: Path) -> None:
    """A program that does not read makes its sender wait, and nobody else."""
    place = tmp_path / "other"
    place.mkdir()
    async with stage.engine() as engine:
        task = await spawn(stage, engine, "sleep", "1000")
        sent = 0
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def send() -> None:
                    nonlocal sent
                    while True:
                        await task.send(b"x" * 4096)
                        sent += 4096

                group.start_soon(send)
                other = await engine.spawn_task("other", project_dir=place, argv=["true"])
                await other.wait()
                scope.cancel()
        assert sent <= 1024 * 1024
        assert await task.cancel(now=True)


@pytest.mark.parametrize("ending", ["program", "reader", "cancel"])
async def test_waiting_sender_is_told(stage: Stage, ending: str) -> None:
    """A sender that waits is told when the program ends, closes its input or is cancelled."""
    program = {
        "program": "read _ < go",
        "reader": "read _ < go; exec <&-; exec sleep 1000",
        "cancel": "exec sleep 1000",
    }[ending]
    project = stage.project
    os.mkfifo(project / "go")
    async with stage.engine() as engine:
        task = await engine.spawn_task(
            "input", project_dir=project, argv=["sh", "-c", program], stdin="open"
        )
        told: list[InputClosedError] = []

        async def send() -> None:
            with pytest.raises(InputClosedError) as caught:
                await task.send(b"x" * 10_000_000)
            told.append(caught.value)

        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as group:
                group.start_soon(send)
                if ending == "cancel":
                    await task.cancel(now=True)
                else:
                    await anyio.to_thread.run_sync((project / "go").write_text, "go\n")
        assert told
        await task.cancel(now=True)


async def test_not_open(stage: Stage) -> None:
    """Nothing can be sent where no input was asked for, nor when the task has ended."""
    async with stage.engine() as engine:
        task = await engine.spawn_task("plain", project_dir=stage.project, argv=["cat"])
        with pytest.raises(InputClosedError, match="stdin='open'"):
            await task.send(b"x")
        await task.wait()
        task = await spawn(stage, engine, "no-such-program")
        await task.wait()
        with pytest.raises(InputClosedError):
            await task.send(b"x")
        await task.close_input()
        with pytest.raises(InvalidRequestError, match="stdin"):
            await engine.spawn_task(
                "bad",
                project_dir=stage.project,
                argv=["cat"],
                stdin="file",  # type: ignore[arg-type]
            )


async def test_engine_closes(stage: Stage) -> None:
    """An engine that ends closes the input of its tasks, whatever is under way."""
    async with stage.engine() as engine:
        task = await spawn(stage, engine, "sleep", "1000")
        await task.send(b"x")
    assert task.outcome is not None
    assert task.outcome.reason is Reason.ENGINE_CLOSED

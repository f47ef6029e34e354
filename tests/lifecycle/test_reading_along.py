"""Reading a task's lines while it runs and afterwards."""

from __future__ import annotations

import anyio
import pytest

from eventbus_tasks import LogLine

from .conftest import GUARD, Stage

pytestmark = pytest.mark.anyio


async def test_every_reader_has_every_line(stage: Stage) -> None:
    """Readers that begin before, in and after the task each have every line in order, once."""
    seen: dict[str, list[LogLine]] = {"early": [], "slow": [], "late": []}
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)

        async def read(name: str, pause: float) -> None:
            async for line in task.lines():
                seen[name].append(line)
                await anyio.sleep(pause)

        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as group:
                group.start_soon(read, "early", 0)
                group.start_soon(read, "slow", 0.001)
                for number in range(200):
                    puppet.say(f"line {number}\n")
                puppet.say("without an end")
                puppet.exit(0)
            await task.wait()
            await read("late", 0)
            (rest,) = [line async for line in task.lines(seen["late"][-1].start)]
    expected = [f"line {number}" for number in range(200)] + ["without an end"]
    for lines in seen.values():
        assert [line.text for line in lines] == expected
        assert [line.number for line in lines] == list(range(1, 202))
        for line in lines:
            assert task.output.read(line.start, line.end).rstrip(b"\n") == line.data
    assert rest == seen["late"][-1]


async def test_lines_of_a_task_that_never_ran(stage: Stage) -> None:
    """The lines of a task that could not be started end without one."""
    async with stage.engine() as engine:
        task = await engine.spawn_task("none", argv=["/nowhere"], project_dir=stage.project)
        with anyio.fail_after(GUARD):
            assert [line async for line in task.lines()] == []

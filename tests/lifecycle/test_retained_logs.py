"""How much of the output of ended tasks is kept where no plugin keeps it."""

from __future__ import annotations

import pytest

from eventbus_tasks import OutputUnavailableError

from .conftest import Stage

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kept", [0, 1])
async def test_only_so_many_logs_are_kept_whole(stage: Stage, kept: int) -> None:
    """Of the latest ended tasks the whole log is there, of older ones the last 64 KiB."""
    script = "head -c 100000 /dev/zero; printf end"
    async with stage.engine(retained_logs=kept) as engine:
        tasks = []
        for _ in range(2):
            task = await engine.spawn_task(
                "big", project_dir=stage.project, argv=["sh", "-c", script]
            )
            await task.wait()
            tasks.append(task)
        for task in tasks[: len(tasks) - kept]:
            assert task.output.read(100_000) == b"end"
            assert len(task.output.read(100_003 - 65536)) == 65536
            with pytest.raises(OutputUnavailableError):
                task.output.read()
        for task in tasks[len(tasks) - kept :]:
            assert len(task.output.read()) == 100_003

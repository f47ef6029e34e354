"""`subscribe(after=…)` with events that only the journal has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from eventbus_tasks import OutputReceived, TaskAccepted, TaskEnded, TaskEngine, TaskEvent

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("ended", [False, True])
async def test_older_events_come_from_the_journal(
    make_engine: Callable[..., TaskEngine],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    ended: bool,
) -> None:
    """What the engine does not remember is read from the file, with the output connected."""
    monkeypatch.setattr("eventbus_tasks._chronicle.LIMIT", 1)
    command = ["sh", "-c", "echo one; read _ < go; echo two"]
    (project / "go").touch()
    async with make_engine() as engine:
        task = await engine.spawn_task("two lines", argv=command, project_dir=project)
        if ended:
            await task.wait()
        with anyio.fail_after(60):
            events: list[TaskEvent] = [
                event async for event in engine.subscribe(TaskEvent, task=task, after=0)
            ]
    assert isinstance(events[0], TaskAccepted)
    assert isinstance(events[-1], TaskEnded)
    numbers: list[int] = []
    data = b""
    for event in events:
        first = event.seq
        if isinstance(event, OutputReceived):
            first = event.first_seq or first
            data += event.data
        numbers.extend(range(first, event.seq + 1))
    assert numbers == list(range(1, events[-1].seq + 1))
    assert data == b"one\ntwo\n"

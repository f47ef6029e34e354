"""Signals from outside to the real agents: what they leave of their tools, is not left here.

Sent to a process group, as a shell or a supervisor does, each of them leaves the processes of its
tools alive with some agent, SIGKILL with every one: the tools run in sessions of their own. Some
agents do not even end. Here each cell of that table must come out clean.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import anyio
import pytest

from eventbus_tasks import Reason, TaskEngine
from eventbus_tasks.testing.agents import FakeModelAPI

from .agents import AgentStage, open_stage
from .conftest import marked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.time_limit(400),
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]

PATIENCE: Final = 150.0
"""Seconds until a tool that was not started is given up."""

IGNORED_AFTER: Final = 8.0
"""Seconds after which an agent that has not ended will not: then it is cancelled."""


@pytest.fixture(params=["claude", "codex", "gemini", "opencode", "copilot"])
def stage(
    request: pytest.FixtureRequest,
    api: FakeModelAPI,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[AgentStage]:
    """Return where each of the agents works."""
    with open_stage(str(request.param), api, tmp_path, monkeypatch) as opened:
        yield opened


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["leader", "group"])
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name
)
async def test_signal_while_a_tool_runs(
    stage: AgentStage, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    """However an agent takes a signal, the family of its tool is gone when the task has ended."""
    puppet = stage.puppet()
    async with TaskEngine() as engine:
        task = await stage.spawn(engine, f"fake:shell {shlex.join(puppet.argv)}\nfake:text no")
        await puppet.connected(PATIENCE)
        puppet.spawn(session=True)
        puppet.spawn(daemon=True, wipe_environment=True, hold_output=False)
        assert task.pid is not None
        send(task.pid, number)
        with anyio.move_on_after(IGNORED_AFTER) as waiting:
            await task.wait()
        if waiting.cancelled_caught:
            await task.cancel()
        outcome = await task.wait()
        assert not puppet.living()
        assert not marked(task.uid)
    assert outcome.survivors == ()
    assert outcome.reason is not Reason.EXITED, outcome

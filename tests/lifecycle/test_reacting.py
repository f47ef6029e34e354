"""Agents that do not react to what they are sent: ended, and judged by their interpreter."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import anyio
import pytest

from eventbus_tasks import (
    AgentActivity,
    AgentResult,
    Command,
    Outcome,
    ProcessExit,
    Reason,
    Send,
    SignalSent,
    Step,
    Stream,
    Task,
    TaskEngine,
    TaskEvent,
    TaskStopping,
    TerminationPolicy,
    Verdict,
    Withdraw,
    hookimpl,
)

from .conftest import GUARD

pytestmark = pytest.mark.anyio

# Says what it is told to say, and ends with its input unless it is told to stay.
AGENT: Final = """\
import signal, sys, time
for line in sys.stdin:
    word, _, text = line.strip().partition(" ")
    if word == "say":
        print(text, flush=True)
    elif word == "work":
        print("working", flush=True)
        time.sleep(float(text))
        print("done", flush=True)
    elif word == "stay":
        signal.pause()
"""

SOON: Final = 0.3
"""Seconds in which the agent has to react."""


class Interpreter:
    """Begins with some lines, and closes the input when the agent is done."""

    def __init__(self, first: str) -> None:
        self._first = first
        self._done = False

    def begin(self) -> Send:
        return Send(data=self._first.encode(), within=SOON)

    def encode_prompt(self, text: str) -> bytes:
        return text.encode()

    def encode_answer(self, request: object, answer: object) -> bytes:
        return b""

    def encode_interrupt(self) -> bytes:
        return b""

    def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity | Send | Withdraw]:
        if line != b"done":
            return ()
        self._done = True
        return (AgentResult(ok=True, text="done"), Send(close=True, within=SOON))

    def verdict(self, exit: ProcessExit) -> Verdict:
        if self._done:
            return Verdict(reason=Reason.EXITED, result="done")
        return Verdict(reason=Reason.NO_RESULT, message="it never answered")


class Plugin:
    """Drives the agent."""

    @hookimpl
    def ebt_register_agents(self, register: Callable[[str, str], None]) -> None:
        register("slow", "takes its time")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command:
        argv = (sys.executable, "-ISc", AGENT)
        return Command(argv=argv, stdin="open", interpreter=Interpreter(task.prompt))


async def run(project: Path, first: str) -> tuple[Outcome, list[TaskEvent]]:
    """Run a task whose agent is sent these lines first."""
    events: list[TaskEvent] = []
    policy = TerminationPolicy(
        steps=(Step(signal=0, grace=GUARD), Step(signal=signal.SIGTERM, grace=GUARD))
    )
    plugins: dict[str, object] = {"slow": Plugin()}
    async with TaskEngine(plugins=plugins, load_installed=False) as engine:
        engine.signals.any_event.connect(events.append)
        task = await engine.spawn_task("slow", first, project, agent="slow", policy=policy)
        with anyio.fail_after(GUARD):
            return await task.wait(), events


async def test_one_that_never_answers(tmp_path: Path) -> None:
    """An agent that writes no line in time is ended by signals; its interpreter says why."""
    outcome, events = await run(tmp_path, "stay\n")
    assert (outcome.reason, outcome.message) == (Reason.NO_RESULT, "it never answered")
    assert outcome.return_code == -signal.SIGTERM
    assert [event.signal for event in events if isinstance(event, SignalSent)] == [signal.SIGTERM]
    assert not [event for event in events if isinstance(event, TaskStopping)]


async def test_one_that_does_not_end(tmp_path: Path) -> None:
    """An agent that has succeeded and does not end has succeeded all the same."""
    outcome, _ = await run(tmp_path, "say done\nstay\n")
    assert (outcome.reason, outcome.result) == (Reason.EXITED, "done")
    assert outcome.return_code == -signal.SIGTERM


async def test_a_line_is_enough(tmp_path: Path) -> None:
    """Whoever has written a line may work on for as long as it takes."""
    outcome, events = await run(tmp_path, f"work {4 * SOON}\n")
    assert (outcome.reason, outcome.return_code) == (Reason.EXITED, 0)
    assert not [event for event in events if isinstance(event, SignalSent)]


async def test_a_cancel_is_a_cancel(tmp_path: Path) -> None:
    """A task that is cancelled before the time is up is cancelled."""
    plugins: dict[str, object] = {"slow": Plugin()}
    async with TaskEngine(plugins=plugins, load_installed=False) as engine:
        task = await engine.spawn_task("slow", "stay\n", tmp_path, agent="slow")
        assert await task.cancel(now=True)

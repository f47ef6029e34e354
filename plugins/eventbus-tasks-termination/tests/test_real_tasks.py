"""The policies in action: real processes, and the signals that really reached them."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import eventbus_tasks_termination
import pytest

from eventbus_tasks import (
    Command,
    OutputLine,
    Reason,
    SettingsError,
    SignalSent,
    Step,
    Task,
    TaskEngine,
    TaskStopping,
    TerminationPolicy,
    hookimpl,
)

pytestmark = pytest.mark.anyio

INT, TERM, KILL = int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGKILL)

# Not print(): a signal that comes while it flushes would make it fail.
STUBBORN: Final = """
import os, signal, sys
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, _: os.write(1, b"got %d\\n" % number))
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""
"""Ignores the signals that it is told to, and says so."""


def stubborn(*names: str) -> list[str]:
    """Return the command of a child that survives some signals."""
    return [sys.executable, "-I", "-S", "-c", STUBBORN, *names]


class FakeAgents:
    """A plugin that drives agents by the names of real ones; each runs the stubborn child."""

    def __init__(self, *names: str, argv: list[str]) -> None:
        self.names = names
        self.argv = tuple(argv)

    @hookimpl
    def ebt_register_agents(self, register: Any) -> None:
        for name in self.names:
            register(name, "a fake")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command | None:
        return Command(argv=self.argv) if task.agent in self.names else None


@asynccontextmanager
async def engine_with(project: Path, settings: str, **plugins: object) -> AsyncIterator[TaskEngine]:
    """Open an engine with the plugin under test, whose settings are the project's."""
    (project / ".eventbus-tasks.toml").write_text(settings)
    given = {**plugins, "termination": eventbus_tasks_termination}
    async with TaskEngine(plugins=given, load_installed=False) as engine:
        yield engine


async def wait_ready(engine: TaskEngine, task: Task) -> None:
    """Wait until the child has said that it is ready."""
    ready = anyio.Event()

    def look(event: OutputLine) -> None:
        if event.text == "ready":
            ready.set()

    with engine.signals.output_line.connect(look, task=task.ref):
        if "ready" not in task.output.tail():
            await ready.wait()


async def test_stubborn_child_climbs_the_whole_ladder(tmp_path: Path) -> None:
    """A child that ignores SIGINT and SIGTERM gets both, in order, and then SIGKILL."""
    settings = "[termination]\nsteps = ['INT:leader:0.2', 'TERM:tree:0.2']\n"
    signals: list[SignalSent] = []
    async with engine_with(tmp_path, settings) as engine:
        engine.signals.signal_sent.connect(signals.append)
        task = await engine.spawn_task(
            "stubborn", argv=stubborn("SIGINT", "SIGTERM"), project_dir=tmp_path
        )
        await wait_ready(engine, task)
        assert await task.cancel()
        assert [event.signal for event in signals] == [INT, TERM, KILL]
        assert all(event.pids == (task.pid,) for event in signals)
        assert task.return_code == -KILL
        assert task.output.tail() == ["ready", f"got {INT}", f"got {TERM}"]


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("claude", [INT, TERM, KILL]),
        ("codex", [INT, INT, TERM, KILL]),
        ("gemini", [TERM, TERM, KILL]),
        ("opencode", [TERM, KILL]),
        ("copilot", [TERM, TERM, KILL]),
        ("aider", [INT, TERM, KILL]),
        ("unknown-agent", [TERM, KILL]),
    ],
)
async def test_each_agent_gets_its_ladder(tmp_path: Path, agent: str, expected: list[int]) -> None:
    """The signals that reach an agent are those of its own ladder, in that order."""
    fakes = FakeAgents(agent, argv=stubborn("SIGINT", "SIGTERM"))
    signals: list[SignalSent] = []
    async with engine_with(tmp_path, "[termination]\ngrace = 0.1\n", fakes=fakes) as engine:
        engine.signals.signal_sent.connect(signals.append)
        task = await engine.spawn_task("agent", "work", tmp_path, agent=agent)
        await wait_ready(engine, task)
        assert await task.cancel()
    assert [event.signal for event in signals] == expected


async def test_polite_agent_gets_one_signal(tmp_path: Path) -> None:
    """An agent that ends on SIGINT never sees SIGTERM, and its last words are kept."""
    script = "trap 'echo tidied; exit 0' INT; echo ready; while :; do sleep 0.05; done"
    fakes = FakeAgents("claude", argv=["sh", "-c", script])
    signals: list[int] = []
    async with engine_with(tmp_path, "", fakes=fakes) as engine:
        engine.signals.signal_sent.connect(lambda event: signals.append(event.signal))
        task = await engine.spawn_task("agent", "work", tmp_path, agent="claude")
        await wait_ready(engine, task)
        assert await task.cancel()
        assert signals == [INT]
        assert task.output.tail() == ["ready", "tidied"]


@pytest.mark.parametrize(
    ("settings", "argv", "reason"),
    [
        ("timeout = 0.3", ["sleep", "1000"], Reason.TIMED_OUT),
        ("idle_timeout = 0.3", ["sh", "-c", "echo once; sleep 1000"], Reason.IDLE),
        ("max_output = '64 KiB'", ["yes"], Reason.OUTPUT_LIMIT),
    ],
)
async def test_limit_ends_the_task(
    tmp_path: Path, settings: str, argv: list[str], reason: Reason
) -> None:
    """A task that runs too long, is silent too long or writes too much is ended, and says why."""
    stopping: list[TaskStopping] = []
    async with engine_with(tmp_path, f"[termination]\n{settings}\n") as engine:
        engine.signals.task_stopping.connect(stopping.append)
        task = await engine.spawn_task("limited", argv=argv, project_dir=tmp_path)
        outcome = await task.wait()
    assert outcome.reason is reason
    assert [event.reason for event in stopping] == [reason.value]


async def test_busy_task_is_not_idle(tmp_path: Path) -> None:
    """A task that writes again and again outlives its idle timeout many times over."""
    script = "i=0; while [ $i -lt 12 ]; do echo $i; sleep 0.1; i=$((i+1)); done"
    async with engine_with(tmp_path, "[termination]\nidle_timeout = 1\n") as engine:
        task = await engine.spawn_task("busy", argv=["sh", "-c", script], project_dir=tmp_path)
        outcome = await task.wait()
    assert outcome.reason is Reason.EXITED


async def test_limit_of_one_agent_is_not_that_of_others(tmp_path: Path) -> None:
    """A timeout in the table of an agent ends that agent only."""
    fakes = FakeAgents("claude", argv=["sleep", "1000"])
    settings = "[termination.agents.claude]\ntimeout = 0.2\n"
    async with engine_with(tmp_path, settings, fakes=fakes) as engine:
        agent = await engine.spawn_task("agent", "work", tmp_path, agent="claude")
        assert (await agent.wait()).reason is Reason.TIMED_OUT
        command = await engine.spawn_task("command", argv=["sleep", "0.5"], project_dir=tmp_path)
        assert (await command.wait()).reason is Reason.EXITED


async def test_request_comes_before_settings(tmp_path: Path) -> None:
    """The timeout of a request replaces the one of the settings."""
    async with engine_with(tmp_path, "[termination]\ntimeout = 1000\n") as engine:
        task = await engine.spawn_task(
            "short", argv=["sleep", "1000"], project_dir=tmp_path, timeout=0.2
        )
        assert (await task.wait()).reason is Reason.TIMED_OUT


async def test_answer_of_another_plugin_is_not_hidden(tmp_path: Path) -> None:
    """Where nothing is set and the agent is unknown here, another plugin's policy applies."""

    class Other(FakeAgents):
        @hookimpl(trylast=False)
        def ebt_termination_policy(self, task: Task) -> TerminationPolicy:
            return TerminationPolicy(steps=(Step(signal=int(signal.SIGHUP), grace=5.0),))

    other = Other("somebody-else", argv=stubborn("SIGTERM", "SIGINT"))
    signals: list[int] = []
    async with engine_with(tmp_path, "", other=other) as engine:
        engine.signals.signal_sent.connect(lambda event: signals.append(event.signal))
        task = await engine.spawn_task("agent", "work", tmp_path, agent="somebody-else")
        await wait_ready(engine, task)
        assert await task.cancel()
    assert signals == [int(signal.SIGHUP)]


async def test_wrong_settings_refuse_the_request(tmp_path: Path) -> None:
    """A rung that cannot be read refuses the task before anything is started."""
    async with engine_with(tmp_path, "[termination]\nsteps = ['TREM']\n") as engine:
        with pytest.raises(SettingsError, match=r"termination\.steps: .*did you mean 'TERM'"):
            await engine.spawn_task("never", argv=["true"], project_dir=tmp_path)
        assert engine.tasks == ()

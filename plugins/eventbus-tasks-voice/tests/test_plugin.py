"""The plugin in an engine: what is announced, and what is not."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import eventbus_tasks_voice
import pytest
from eventbus_tasks_voice.announcements import Delivery
from eventbus_tasks_voice.settings import TABLE, VoiceSettings
from voice_kit import Mouth, Receipts

from eventbus_tasks import (
    AgentInputRequired,
    Command,
    HandlerFailed,
    Settings,
    TaskEngine,
    hookimpl,
)

pytestmark = pytest.mark.anyio

PLUGINS = {"voice": eventbus_tasks_voice}


@pytest.fixture
def spoken(mouth: Mouth, monkeypatch: pytest.MonkeyPatch) -> Mouth:
    """Set the scripted synthesizer as the user's."""
    monkeypatch.setenv("EBT_VOICE_SYNTHESIZER", ",".join(mouth.command()))
    monkeypatch.setenv("EBT_VOICE_GATHER", "0")
    return mouth


@contextlib.asynccontextmanager
async def running(
    settings: Settings | None = None, plugins: dict[str, object] | None = None
) -> AsyncIterator[tuple[TaskEngine, Receipts]]:
    """Run an engine with the plugin; in the end wait until the voice is silent."""
    voice = eventbus_tasks_voice.get_voice()
    receipts = Receipts()
    forget = voice.on_receipt(receipts.append)
    try:
        async with TaskEngine(settings, plugins=plugins or PLUGINS, load_installed=False) as engine:
            failures: list[HandlerFailed] = []
            engine.signals.handler_failed.connect(failures.append)
            yield engine, receipts
        assert not failures
    finally:
        await anyio.to_thread.run_sync(voice.close, 30.0)
        forget()


async def test_ends_are_announced(spoken: Mouth, project: Path) -> None:
    """Each end of a task is one sentence: its name, what became of it, and how long it took."""
    async with running() as (engine, receipts):
        for number, (name, *argv) in enumerate(
            [("unit-tests", "true"), ("build", "false"), ("nonsense", "/no/such/program")], 1
        ):
            task = await engine.spawn_task(name, argv=argv, project_dir=project)
            await task.wait()
            await receipts.total(number)
        task = await engine.spawn_task("long job", argv=["sleep", "1000"], project_dir=project)
        await task.cancel()
        await receipts.total(4)
    assert [text.partition(" after ")[0] for text in spoken.said] == [
        "unit tests is done",
        "build failed",
        "nonsense could not be started",
        "long job was cancelled",
    ]
    assert " second" in spoken.said[0]


async def test_announcements_are_no_tasks(spoken: Mouth, project: Path) -> None:
    """What the synthesizer does is no event of the engine, and is not announced itself."""
    async with running() as (engine, receipts):
        events: list[Any] = []
        engine.signals.any_event.connect(events.append)
        task = await engine.spawn_task("one", argv=["true"], project_dir=project)
        await task.wait()
        await receipts.total(1)
        assert engine.tasks == (task,)
        assert {event.task.uid for event in events} == {task.uid}
    assert len(spoken.records) == 2


async def test_slow_speech_delays_no_task(
    mouth: Mouth, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a task does not wait until its end has been said."""
    monkeypatch.setenv("EBT_VOICE_SYNTHESIZER", ",".join(mouth.command("hold")))
    async with running() as (engine, _):
        for name in ("one", "two"):
            task = await engine.spawn_task(name, argv=["true"], project_dir=project)
            await task.wait()
            await mouth.begun(1)
        assert mouth.said == []
        for number in (1, 2):
            await mouth.begun(number)
            await mouth.open_gate()
    assert len(mouth.said) == 2


async def test_closing_the_engine_is_no_news(spoken: Mouth, project: Path) -> None:
    """A task that ends because the program ends is not announced."""
    async with running() as (engine, receipts):
        await engine.spawn_task("server", argv=["sleep", "1000"], project_dir=project)
    assert [receipt.delivery for receipt in receipts] == [Delivery.SKIPPED]
    assert spoken.records == []


async def test_last_news_is_said_after_the_engine(spoken: Mouth, project: Path) -> None:
    """News from just before the end of the engine is still said."""
    async with running() as (engine, _):
        task = await engine.spawn_task("last", argv=["true"], project_dir=project)
        await task.wait()
    assert len(spoken.said) == 1


async def test_agent_that_needs_somebody_is_announced(spoken: Mouth, project: Path) -> None:
    """An agent that asks for permission is urgent news, once for each request."""

    class Asks:
        @hookimpl
        def ebt_register_agents(self, register: Any) -> None:
            register("asks", "asks for permission")

        @hookimpl
        def ebt_build_command(self, task: Any) -> Command:
            return Command(argv=("sh", "-c", "echo; echo; sleep 1000"), interpreter=Interpreter())

    class Interpreter:
        def interpret(self, line: bytes, stream: str) -> list[AgentInputRequired]:
            return [AgentInputRequired(kind="permission", prompt="rm -rf /x", request_id="r1")]

        def verdict(self, exit: Any) -> None:
            return None

    async with running(plugins={"asks": Asks(), **PLUGINS}) as (engine, receipts):
        task = await engine.spawn_task("deploy", "p", project, agent="asks")
        await receipts.total(1)
        assert spoken.said == ["deploy needs your permission"]
        await task.cancel()
        await receipts.total(2)
    assert len(spoken.said) == 2


async def test_project_decides_what_is_said_of_it(spoken: Mouth, project: Path) -> None:
    """A project's own settings say what is said of it, and choose neither program nor file."""
    (project / ".eventbus-tasks.toml").write_text(
        '[voice]\nsynthesizer = ["touch", "/tmp/evil"]\ncompleted = "silent"\nwav_dir = "/tmp"\n'
    )
    async with running() as (engine, receipts):
        for command in ("true", "false"):
            task = await engine.spawn_task("x", argv=[command], project_dir=project)
            await task.wait()
        await receipts.total(2)
    (text,) = spoken.said
    assert text.startswith("x failed")


async def test_quiet_says_only_what_is_urgent(
    spoken: Mouth, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In quiet mode only what is urgent is said."""
    monkeypatch.setenv("EBT_VOICE_QUIET", "1")
    monkeypatch.setenv("EBT_VOICE_FAILED", "interrupt")
    async with running() as (engine, receipts):
        for command in ("true", "false"):
            task = await engine.spawn_task("x", argv=[command], project_dir=project)
            await task.wait()
        await receipts.total(2)
    (text,) = spoken.said
    assert text.startswith("x failed")


async def test_muted_voice_does_nothing(
    spoken: Mouth, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `EBT_VOICE_ENABLED=0` nothing is announced to anybody."""
    monkeypatch.setenv("EBT_VOICE_ENABLED", "0")
    async with running() as (engine, receipts):
        task = await engine.spawn_task("x", argv=["true"], project_dir=project)
        await task.wait()
    assert not receipts
    assert spoken.records == []


async def test_settings_of_the_program_come_first(mouth: Mouth, project: Path) -> None:
    """What the program itself decides about the voice is decided."""
    own = {"synthesizer": list(mouth.command()), "cancelled": "silent", "gather": 0.0}
    settings = Settings.load(tables={TABLE: VoiceSettings}, overrides={TABLE: own})
    async with running(settings) as (engine, receipts):
        task = await engine.spawn_task("x", argv=["sleep", "1000"], project_dir=project)
        await task.cancel()
        task = await engine.spawn_task("y", argv=["true"], project_dir=project)
        await task.wait()
        await receipts.total(2)
    (text,) = mouth.said
    assert text.startswith("y is done")


async def test_missing_synthesizer_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a synthesizer there is one line in the log, and no thread or process."""
    monkeypatch.setenv("EBT_VOICE_SYNTHESIZER", "flite")
    monkeypatch.setenv("PATH", str(project))
    with caplog.at_level(logging.INFO):
        async with running() as (engine, _):
            for _ in range(3):
                task = await engine.spawn_task("x", argv=["/bin/true"], project_dir=project)
                await task.wait()
    (line,) = [record for record in caplog.records if record.name == "eventbus_tasks.voice"]
    assert "flite is not installed" in line.getMessage()


async def test_wav_files_instead_of_sound(
    mouth: Mouth, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `wav_dir` each announcement becomes a file of its own."""
    command = (*mouth.command(), "--wav", "{wav}")
    monkeypatch.setenv("EBT_VOICE_SYNTHESIZER", ",".join(command))
    monkeypatch.setenv("EBT_VOICE_WAV_DIR", str(tmp_path / "a" / "wavs"))
    async with running() as (engine, receipts):
        for number in (1, 2):
            task = await engine.spawn_task("x", argv=["true"], project_dir=project)
            await task.wait()
            await receipts.total(number)
    assert len(list((tmp_path / "a" / "wavs").iterdir())) == 2


async def test_many_tasks_at_once(spoken: Mouth, tmp_path: Path) -> None:
    """Many tasks that end together are a few sentences that count them all."""
    async with running() as (engine, receipts):
        tasks = []
        for number in range(30):
            directory = tmp_path / f"p{number}"
            directory.mkdir()
            tasks.append(
                await engine.spawn_task(f"job {number}", argv=["true"], project_dir=directory)
            )
        for task in tasks:
            await task.wait()
        await receipts.total(30)
    assert len(spoken.said) < 15
    assert sum(receipt.count for receipt in receipts) == 30


PROGRAM = """
import anyio, sys
sys.path[:0] = {path!r}
import eventbus_tasks_voice
from eventbus_tasks import TaskEngine

async def main():
    plugins = {{"voice": eventbus_tasks_voice}}
    async with TaskEngine(plugins=plugins, load_installed=False) as engine:
        task = await engine.spawn_task(sys.argv[1], argv=["true"], project_dir=sys.argv[2])
        await task.wait()

anyio.run(main, backend={backend!r})
"""


@pytest.mark.skipif(
    (3, 12, 0) <= sys.version_info < (3, 12, 3),
    reason="this Python cannot start threads while it ends (python/cpython#113964)",
)
async def test_program_that_ends_is_heard_out(
    spoken: Mouth, tmp_path: Path, anyio_backend_name: str
) -> None:
    """A program that ends at once has its news said first; several of them take turns."""
    program = PROGRAM.format(path=sys.path, backend=anyio_backend_name)
    async with anyio.create_task_group() as group:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            command = [sys.executable, "-c", program, name, str(tmp_path / name)]
            group.start_soon(_run, command)
    assert sorted(text.split()[0] for text in spoken.said) == ["one", "two"]
    assert not spoken.did("overlap")


def test_forked_child_begins_again() -> None:
    """A forked child has no thread of its parent's, and waits for nobody."""
    program = (
        f"import os, sys; sys.path[:0] = {sys.path!r}\n"
        "from eventbus_tasks_voice import get_voice\n"
        "voice = get_voice()\n"
        "voice._lock.acquire()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    voice.say('hello')\n"
        "    os._exit(voice.waiting)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=True
    )
    assert done.stdout == b"1\n"


async def _run(command: list[str]) -> None:
    done = await anyio.run_process(command, env=dict(os.environ))
    assert done.stderr == b""

"""Tasks that outlive their host: found, followed, taken over and ended by others."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from eventbus_tasks import (
    InputClosedError,
    OutputReceived,
    ReattachError,
    Settings,
    Task,
    TaskCancelled,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskNotFoundError,
    find_running_tasks,
    hookimpl,
)
from eventbus_tasks._threads import DeadlineExceededError

from .conftest import PATIENCE, WRITER, assert_whole, detached_task, end_what_runs, until

HOST: Final = """
import json, sys, anyio
from eventbus_tasks import TaskEngine, TerminationPolicy
options = json.loads(sys.argv[1])
async def main():
    async with TaskEngine() as engine:
        if options.get("uid"):
            task = await engine.reattach(options["uid"])
        else:
            policy = TerminationPolicy(on_host_death="detach")
            size = tuple(options["pty_size"]) if "pty_size" in options else None
            task = await engine.spawn_task("writer", "", options["project"], argv=options["argv"],
                                           policy=policy, pty_size=size, stdin=options.get("stdin"))
        while task.output.size() < options["bytes"]:
            await anyio.sleep(0.001)
        print("ready", flush=True)
        await anyio.sleep_forever()
anyio.run(main, backend=options["backend"])
"""


class Scene:
    """A project, the book of its writer, and hosts that die."""

    def __init__(self, directory: Path) -> None:
        self.project = directory / "project"
        self.project.mkdir()
        self.book = directory / "book"
        self.argv = [sys.executable, "-I", "-S", "-c", WRITER, str(self.book)]

    @property
    def written(self) -> int:
        """How many lines the task is sure to have written."""
        return int(self.book.read_text() or 0) if self.book.exists() else 0

    def lose_host(self, backend: str = "asyncio", **options: Any) -> None:
        """Run a host until its task has written something, and kill it."""
        given = {
            "project": str(self.project),
            "argv": self.argv,
            "backend": backend,
            "bytes": 500,
            **options,
        }
        with subprocess.Popen(
            [sys.executable, "-c", HOST, json.dumps(given)], stdout=subprocess.PIPE
        ) as host:
            assert host.stdout is not None
            assert host.stdout.readline() == b"ready\n"
            host.send_signal(signal.SIGKILL)

    def journal(self) -> list[dict[str, Any]]:
        """Return the journal of the task."""
        (path,) = (self.project / ".claude-tasks").glob("*.events.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a scene; what a failed test has left of it is ended."""
    yield Scene(tmp_path)
    end_what_runs()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep journals and logs, with no other plugin."""
    monkeypatch.setenv("EBT_PLUGINS", "disk")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep nothing: no plugin."""
    monkeypatch.setenv("EBT_PLUGINS", "none")


def ebt(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the command line."""
    return subprocess.Popen(
        [sys.executable, "-m", "eventbus_tasks", *arguments], stdout=subprocess.PIPE
    )


class Listener:
    """Every event that a host delivers."""

    def __init__(self, engine: TaskEngine) -> None:
        self.events: list[TaskEvent] = []
        self.output = b""
        engine.signals.any_event.connect(self.events.append)
        engine.signals.output_received.connect(self.hear)

    def hear(self, event: OutputReceived) -> None:
        """Put the output together."""
        if not event.last:
            self.output += event.data


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_from_another_terminal(scene: Scene, backend: str) -> None:
    """After SIGKILL of the host: another process lists, follows whole, and cancels its task."""
    scene.lose_host(backend)
    detached_task()
    (listed,) = json.loads(ebt("ls", "--json").communicate(timeout=PATIENCE)[0])
    assert (listed["name"], listed["status"]) == ("writer", "detached")
    with ebt("logs", "-f", "--raw", "writer") as logs:
        before = scene.written
        until(lambda: scene.written > before + 100)
        with ebt("cancel", "writer") as cancel:
            assert cancel.wait(PATIENCE) == 0
        assert logs.stdout is not None
        assert_whole(logs.stdout.read(), scene.written)
        assert logs.wait(PATIENCE) == 0
    assert find_running_tasks() == ()


@pytest.mark.usefixtures("disk")
@pytest.mark.anyio
async def test_new_host_with_journal(scene: Scene, anyio_backend: tuple[str, Any]) -> None:
    """A new host gets every byte, goes on in the journal without a gap, and tells the one end."""
    await anyio.to_thread.run_sync(scene.lose_host, anyio_backend[0])
    detached_task()
    async with TaskEngine() as engine:
        heard = Listener(engine)
        (found,) = await engine.detached_tasks()
        task = await engine.reattach(found)
        assert (task.id, task.uid, task.name) == (found.ref.id, found.ref.uid, "writer")
        assert engine.get_task(task.id) is task
        with anyio.fail_after(PATIENCE), engine.subscribe(OutputReceived) as stream:
            async for event in stream:
                if event.end > 5000:
                    break
        assert task.pid == found.pid
        assert await task.cancel()
        assert await engine.detached_tasks() == ()
        with engine.subscribe(TaskEvent, task=task, after=0) as replayed:
            assert [event.name async for event in replayed][:2] == ["task.accepted", "task.started"]
    assert_whole(heard.output, scene.written)
    assert heard.output == task.output.read()
    ends = [event for event in heard.events if isinstance(event, TaskEnded)]
    assert [type(event) for event in ends] == [TaskCancelled]
    journal = scene.journal()
    assert [record["seq"] for record in journal] == list(range(1, len(journal) + 1))
    names = [record["event"] for record in journal if record["event"] != "output.received"]
    assert names == [
        "task.accepted",
        "task.started",
        "task.reattached",
        "task.stopping",
        "task.signal_sent",
        "task.cancelled",
    ]
    ranges = [(r["start"], r["end"]) for r in journal if r["event"] == "output.received"]
    assert ranges[0][0] == 0
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(ranges))
    (line,) = (scene.project / ".claude-tasks").glob("*-output.md")
    assert b"line 0\n" in line.read_bytes()


class Shelf:
    """A plugin that has the journal of every task, and of which reading it is not so easy."""

    def __init__(self, problem: OSError | None) -> None:
        self.problem = problem
        self.told: list[TaskEvent] = []
        self.reading = threading.Event()
        self.may_end = threading.Event()

    @hookimpl
    def ebt_reopen_journal(self, task: Task) -> object:
        """Give out this object, which is the journal."""
        return self

    def events(self) -> list[dict[str, Any]]:
        """Take as long as the test wants."""
        self.reading.set()
        assert self.may_end.wait(PATIENCE)
        if self.problem is not None:
            raise self.problem
        return []

    def append(self, events: Sequence[TaskEvent]) -> None:
        """Take note."""
        self.told.extend(events)

    def finish(self, outcome: object) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.usefixtures("memory")
@pytest.mark.anyio
@pytest.mark.parametrize("problem", [None, OSError(5, "broken")], ids=["large", "broken"])
async def test_journal_that_is_hard_to_read(scene: Scene, problem: OSError | None) -> None:
    """However large or broken the journal of a task is, taking it over does not end the task."""
    await anyio.to_thread.run_sync(scene.lose_host)
    detached_task()
    shelf = Shelf(problem)
    settings = dataclasses.replace(Settings.load(), journal_deadline=0.1)
    async with TaskEngine(settings, plugins={"shelf": shelf}) as engine:
        heard = Listener(engine)
        task = await engine.reattach((await engine.detached_tasks())[0])
        assert await anyio.to_thread.run_sync(shelf.reading.wait, PATIENCE)
        # Once this has taken too long, the reading that had begun before has, too.
        with pytest.raises(DeadlineExceededError):
            await engine.plugins.run(shelf.may_end.wait, deadline=settings.journal_deadline)
        shelf.may_end.set()
        with anyio.fail_after(PATIENCE), engine.subscribe(OutputReceived) as stream:
            async for _ in stream:
                break
        assert task.outcome is None
        await task.cancel()
    assert isinstance(heard.events[-1], TaskCancelled)
    kept = heard.events[-1].outcome.persist_error
    assert (kept is None, bool(shelf.told)) == (problem is None, problem is None)
    assert_whole(heard.output, scene.written)


@pytest.mark.usefixtures("disk")
@pytest.mark.anyio
async def test_journal_that_cannot_be_had(scene: Scene) -> None:
    """A task whose journal is in somebody's hands gets no second one, and says so."""
    await anyio.to_thread.run_sync(scene.lose_host)
    detached_task()
    (path,) = (scene.project / ".claude-tasks").glob("*.events.jsonl")
    async with TaskEngine() as engine:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            task = await engine.reattach((await engine.detached_tasks())[0])
            await task.cancel()
        assert task.outcome is not None
        assert "in use" in (task.outcome.persist_error or "")
    assert scene.journal()[0]["event"] == "task.accepted"


@pytest.mark.usefixtures("memory")
@pytest.mark.anyio
async def test_new_host_without_anything(scene: Scene, anyio_backend: tuple[str, Any]) -> None:
    """Without a plugin for it, the new host tells the whole story from its beginning."""
    await anyio.to_thread.run_sync(scene.lose_host, anyio_backend[0])
    detached_task()
    async with TaskEngine() as engine:
        heard = Listener(engine)
        other = await engine.spawn_task("other", "", scene.project.parent, argv=["true"])
        task = await engine.reattach((await engine.detached_tasks())[0])
        assert task.id != other.id
        assert await task.cancel(now=True)
    assert_whole(heard.output, scene.written)
    story = [event for event in heard.events if event.task.uid == task.uid]
    assert [event.seq for event in story] == list(range(1, len(story) + 1))
    names = [event.name for event in story if event.name != "output.received"]
    assert names[:3] == ["task.accepted", "task.reattached", "task.started"]
    assert names[-1] == "task.cancelled"


@pytest.mark.usefixtures("disk")
@pytest.mark.anyio
async def test_from_an_offset(scene: Scene) -> None:
    """Delivery begins at the offset that is asked for; the journal is whole all the same."""
    await anyio.to_thread.run_sync(scene.lose_host)
    detached_task()
    async with TaskEngine() as engine:
        heard = Listener(engine)
        task = await engine.reattach((await engine.detached_tasks())[0], offset=300)
        await task.cancel()
    assert heard.output == task.output.read(300)
    ranges = [(r["start"], r["end"]) for r in scene.journal() if r["event"] == "output.received"]
    assert sum(end - start for start, end in ranges) == task.output.size()


AT_TERMINAL: Final = """
import os, signal, sys
signal.signal(signal.SIGWINCH, lambda *_: print(*os.get_terminal_size(1), flush=True))
print("up", flush=True)
sys.stdin.read()
print("end of input", flush=True)
while True: signal.pause()
"""


@pytest.mark.anyio
@pytest.mark.usefixtures("disk")
async def test_at_a_terminal(scene: Scene) -> None:
    """A task at a terminal lives on; a new host has its output and its size, not its input."""
    argv = [sys.executable, "-I", "-S", "-c", AT_TERMINAL]
    await anyio.to_thread.run_sync(
        lambda: scene.lose_host(argv=argv, bytes=4, pty_size=[80, 24], stdin="open")
    )
    found = await anyio.to_thread.run_sync(detached_task)
    async with TaskEngine() as engine:
        with engine.subscribe(OutputReceived) as stream, anyio.fail_after(PATIENCE):
            task = await engine.reattach(found)
            async for _ in stream:
                if task.output.text().endswith("end of input\r\n"):
                    task.resize(123, 45)
                if task.output.text().endswith("123 45\r\n"):
                    break
        with pytest.raises(InputClosedError, match="ended with the host"):
            await task.send(b"x")
        assert await task.cancel()
        assert task.output.read() == b"up\r\nend of input\r\n123 45\r\n"


@pytest.mark.usefixtures("memory")
@pytest.mark.anyio
async def test_exactly_one_new_host(scene: Scene) -> None:
    """Of engines that want the same task at the same time, one gets it; the others are told."""
    await anyio.to_thread.run_sync(scene.lose_host)
    uid = detached_task().ref.uid
    results: list[object] = []

    async def attach(engine: TaskEngine) -> None:
        try:
            results.append(await engine.reattach(uid))
        except ReattachError as error:
            results.append(error)

    async with TaskEngine() as one, TaskEngine() as two, TaskEngine() as three:
        async with anyio.create_task_group() as group:
            for engine in (one, two, three):
                group.start_soon(attach, engine)
        assert len([result for result in results if isinstance(result, ReattachError)]) == 2
        with pytest.raises(TaskNotFoundError):
            await one.reattach("no-such-uid")
    # Leaving the engine has ended it, as every other task.
    assert find_running_tasks() == ()


@pytest.mark.usefixtures("disk")
@pytest.mark.anyio
async def test_host_after_host(scene: Scene) -> None:
    """The second host may die as well: the third one finds a journal without gap or double."""
    await anyio.to_thread.run_sync(scene.lose_host)
    uid = detached_task().ref.uid
    await anyio.to_thread.run_sync(lambda: scene.lose_host("trio", uid=uid, bytes=2000))
    detached_task()
    async with TaskEngine() as engine:
        task = await engine.reattach(uid)
        await task.cancel()
        assert_whole(task.output.read(), scene.written)
    journal = scene.journal()
    assert [record["seq"] for record in journal] == list(range(1, len(journal) + 1))
    assert [record["event"] for record in journal].count("task.reattached") == 2
    ranges = [(r["start"], r["end"]) for r in journal if r["event"] == "output.received"]
    assert sum(end - start for start, end in ranges) == task.output.size()


@pytest.mark.usefixtures("disk")
@pytest.mark.anyio
async def test_guardian_is_killed_under_a_new_host(scene: Scene) -> None:
    """What the guardian had not read when it was killed is in the log all the same."""
    await anyio.to_thread.run_sync(scene.lose_host)
    guardian = detached_task().guardian_pid
    assert guardian is not None
    async with TaskEngine() as engine:
        heard = Listener(engine)
        task = await engine.reattach((await engine.detached_tasks())[0])
        os.kill(guardian, signal.SIGSTOP)
        seen = scene.written
        await anyio.to_thread.run_sync(until, lambda: scene.written > seen + 50)
        os.kill(guardian, signal.SIGKILL)
        outcome = await task.wait()
    assert outcome.reason == "guardian_lost"
    assert outcome.survivors == ()
    assert_whole(heard.output, scene.written)
    assert outcome.output_bytes == {"stdout": len(heard.output)}


@pytest.mark.parametrize("kept", ["disk", "memory"])
def test_guardian_of_a_detached_task_is_killed(
    scene: Scene, kept: str, request: pytest.FixtureRequest
) -> None:
    """Its warden outlives the host, and sweeps the family; neither lock nor socket stays."""
    request.getfixturevalue(kept)
    scene.lose_host()
    task = detached_task()
    guardian = task.guardian_pid
    assert guardian is not None
    outcome = task.wait(PATIENCE, watching=lambda: os.kill(guardian, signal.SIGKILL))
    assert outcome is not None
    assert outcome.reason == "guardian_lost"
    until(lambda: not Path(f"/proc/{task.pid}").exists())
    assert find_running_tasks() == ()
    assert os.listdir(Path(os.environ["EBT_STATE_DIR"]) / "run") == []

    async def work_there() -> None:
        async with TaskEngine() as engine:
            again = await engine.spawn_task("again", "", scene.project, argv=["true"])
            assert (await again.wait()).reason == "exited"

    anyio.run(work_there)

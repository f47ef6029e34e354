"""What is on disk while a task runs, and after each kind of end."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eventbus_tasks_disk
import pytest

from eventbus_tasks import (
    Command,
    LogFiles,
    OutputReceived,
    OutputStore,
    ProcessExit,
    Reason,
    Step,
    Stream,
    Task,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskStarted,
    TerminationPolicy,
    Verdict,
    event_from_dict,
    hookimpl,
)

pytestmark = pytest.mark.anyio

MakeEngine = Callable[..., TaskEngine]
ReadJournal = Callable[..., list[dict[str, Any]]]


def read_header(path: Path) -> dict[str, Any]:
    """Return the facts in a readable file; fails for a line that is none."""
    head, fence, rest = path.read_text().partition("```yaml\n")
    assert head.startswith("# Task ")
    assert fence
    facts = {}
    for line in rest.partition("\n```\n")[0].split("\n"):
        name, _, value = line.partition(": ")
        facts[name] = json.loads(value)
    return facts


def files_of(project: Path) -> set[str]:
    """Return the names of what is kept in a project."""
    return {path.name for path in (project / ".claude-tasks").iterdir()}


async def test_success(make_engine: MakeEngine, project: Path) -> None:
    """A task that succeeds leaves a readable file, the raw log, the journal and the end record."""
    async with make_engine() as engine:
        task = await engine.spawn_task(
            "say it", project_dir=project, argv=["sh", "-c", "echo one; echo two >&2"]
        )
        outcome = await task.wait()
        assert outcome.persist_error is None
    files = {".gitignore", "task-1-output.md", "task-1.stdout.log", "task-1.events.jsonl"}
    assert files_of(project) == files | {"task-1.end.json", "task-1.arrivals.idx"}
    folder = project / ".claude-tasks"
    assert (folder / "task-1.stdout.log").read_bytes() == b"one\ntwo\n"
    assert (folder / ".gitignore").read_text() == "*\n"
    text = (folder / "task-1-output.md").read_text()
    assert text.endswith("\n## Output\n\n```text\none\ntwo\n```\n")
    facts = read_header(folder / "task-1-output.md")
    assert facts["name"] == "say it"
    assert (facts["status"], facts["reason"], facts["exit_code"]) == ("completed", "exited", 0)
    assert facts["command"] == ["sh", "-c", "echo one; echo two >&2"]
    assert facts["project"] == str(project)
    assert facts["uid"] == task.uid
    assert facts["duration_seconds"] >= 0
    assert json.loads((folder / "task-1.end.json").read_text())["return_code"] == 0


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["sh", "-c", "echo out; exit 3"], Reason.EXIT_CODE),
        (["sh", "-c", "echo out; kill -9 $$"], Reason.SIGNALLED),
        (["/nowhere/no-such-program"], Reason.SPAWN_FAILED),
    ],
)
async def test_failure(
    make_engine: MakeEngine, project: Path, argv: list[str], reason: Reason
) -> None:
    """A task that fails leaves the same, with the reason in the readable file."""
    async with make_engine() as engine:
        task = await engine.spawn_task("fail", project_dir=project, argv=argv)
        outcome = await task.wait()
    assert outcome.reason is reason
    assert outcome.persist_error is None
    path = project / ".claude-tasks" / "task-1-output.md"
    facts = read_header(path)
    assert facts["reason"] == reason.value
    assert facts["status"] == "failed"
    assert facts["exit_code"] == outcome.return_code
    assert facts["message"] == outcome.message
    assert ("\nout\n" in path.read_text()) == (reason is not Reason.SPAWN_FAILED)


async def test_cancel(make_engine: MakeEngine, project: Path) -> None:
    """A cancelled task leaves what it has written until then."""
    async with make_engine() as engine:
        with engine.subscribe(OutputReceived) as stream:
            task = await engine.spawn_task(
                "wait", project_dir=project, argv=["sh", "-c", "echo begun; exec sleep 1000"]
            )
            async for _ in stream:
                break
        assert await task.cancel(now=True)
    path = project / ".claude-tasks" / "task-1-output.md"
    facts = read_header(path)
    assert (facts["status"], facts["reason"]) == ("cancelled", "cancelled")
    assert "\nbegun\n" in path.read_text()


async def test_engine_closed(
    make_engine: MakeEngine, project: Path, read_journal: ReadJournal
) -> None:
    """A task that ends with its engine leaves everything, the terminal event included."""
    policy = TerminationPolicy(steps=(Step(signal=15, grace=5),))
    async with make_engine() as engine:
        with engine.subscribe(TaskStarted) as stream:
            await engine.spawn_task(
                "wait", project_dir=project, argv=["sleep", "1000"], policy=policy
            )
            async for _ in stream:
                break
    facts = read_header(project / ".claude-tasks" / "task-1-output.md")
    assert (facts["status"], facts["reason"]) == ("cancelled", "engine_closed")
    assert read_journal(project)[-1]["event"] == "task.cancelled"


async def test_cancelled_before_start(
    make_engine: MakeEngine, project: Path, read_journal: ReadJournal
) -> None:
    """A task that was cancelled before it was started leaves a readable file, too."""
    async with make_engine() as engine:
        task = await engine.spawn_task("never", project_dir=project, argv=["true"])
        task.cancel_nowait()
        outcome = await task.wait()
    assert outcome.reason is Reason.CANCELLED
    facts = read_header(project / ".claude-tasks" / "task-1-output.md")
    assert facts["status"] == "cancelled"
    assert read_journal(project)[-1]["event"] == "task.cancelled"


async def test_log_while_running(make_engine: MakeEngine, project: Path) -> None:
    """Every byte is in the raw log while the task still runs, standard error by itself."""
    os.mkfifo(project / "go")

    class Builder:
        @hookimpl
        def ebt_build_command(self, task: Task) -> Command:
            script = (
                "exec 3<>go; printf 'no end'; printf wrong >&2; read _ <&3; printf .; printf ! >&2"
            )
            return Command(argv=("sh", "-c", script), stderr="separate")

    async with make_engine(builder=Builder()) as engine:
        with engine.subscribe(OutputReceived) as stream:
            task = await engine.spawn_task("log", project_dir=project, argv=["unused"])
            seen: set[Stream] = set()
            async for event in stream:
                seen.add(event.stream)
                if len(seen) == 2:
                    break
        folder = project / ".claude-tasks"
        assert (folder / "task-1.stdout.log").read_bytes() == b"no end"
        assert (folder / "task-1.stderr.log").read_bytes() == b"wrong"
        assert not (folder / "task-1-output.md").exists()
        (project / "go").write_text("go\n")
        await task.wait()
    assert (folder / "task-1.stdout.log").read_bytes() == b"no end."
    text = (folder / "task-1-output.md").read_text()
    assert text.endswith("## Output\n\n```text\nno end.\nstderr: wrong!\n```\n")


class OpensTwice:
    """Opens the files of each task twice, as after a cancellation in the middle of it."""

    def __init__(self) -> None:
        self._store: OutputStore | None = None

    @hookimpl(tryfirst=True)
    def ebt_output_log(self, task: Task) -> OutputStore | None:
        self._store = eventbus_tasks_disk.ebt_output_log(task)
        return self

    def open(self, *, separate_stderr: bool) -> LogFiles:
        assert self._store is not None
        first = self._store.open(separate_stderr=separate_stderr)
        for descriptor in (first.stdout, first.end_record, first.arrivals):
            assert descriptor is not None
            os.close(descriptor)
        return self._store.open(separate_stderr=separate_stderr)


async def test_opened_twice(make_engine: MakeEngine, project: Path) -> None:
    """An attempt to open the log that was given up leaves nothing in the way of the next."""
    async with make_engine(twice=OpensTwice()) as engine:
        task = await engine.spawn_task("again", project_dir=project, argv=["echo", "x"])
        assert (await task.wait()).persist_error is None
    assert (project / ".claude-tasks" / "task-1.stdout.log").read_bytes() == b"x\n"


async def test_journal(make_engine: MakeEngine, project: Path, read_journal: ReadJournal) -> None:
    """The journal has every event that was told, numbered without a gap, the terminal one last."""
    told = []
    async with make_engine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            await engine.spawn_task(
                "several", project_dir=project, argv=["sh", "-c", "echo a; sleep 0.01; echo b"]
            )
            async for event in stream:
                if event.journaled:
                    told.append(event)
                if isinstance(event, TaskEnded):
                    break
    records = read_journal(project)
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert [event_from_dict(record) for record in records] == told
    assert isinstance(told[-1], TaskEnded)


async def test_journal_is_ahead(
    make_engine: MakeEngine, project: Path, read_journal: ReadJournal
) -> None:
    """An event is in the journal before any receiver gets it."""
    late = []

    def receive(event: TaskEnded | TaskStarted) -> None:
        if event.seq not in [record["seq"] for record in read_journal(project)]:
            late.append(event)

    async with make_engine() as engine:
        engine.signals.task_started.connect(receive)
        engine.signals.task_completed.connect(receive)
        task = await engine.spawn_task("one", project_dir=project, argv=["true"])
        await task.wait()
    assert not late


async def test_modes(make_engine: MakeEngine, project: Path, private_state: Path) -> None:
    """Directories are 0700 and files 0600, whatever the umask."""
    old = os.umask(0)
    try:
        async with make_engine() as engine:
            task = await engine.spawn_task("open", project_dir=project, argv=["echo", "x"])
            assert (await task.wait()).persist_error is None
    finally:
        os.umask(old)
    for folder in (project / ".claude-tasks", private_state / "state" / "disk"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for inner in filter(Path.is_dir, folder.iterdir()):
            assert (inner.name, stat.S_IMODE(inner.stat().st_mode)) == ("unfinished", 0o700)
        files = [path for path in folder.rglob("*") if not path.is_dir()]
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
        assert set(modes.values()) == {0o600}, modes


async def test_closed_umask(make_engine: MakeEngine, project: Path) -> None:
    """A umask that takes everything away does not keep us from our own files."""
    old = os.umask(0o777)
    try:
        async with make_engine() as engine:
            task = await engine.spawn_task("shut", project_dir=project, argv=["echo", "x"])
            assert (await task.wait()).persist_error is None
    finally:
        os.umask(old)
    assert stat.S_IMODE((project / ".claude-tasks").stat().st_mode) == 0o700
    assert stat.S_IMODE((project / ".claude-tasks" / "task-1-output.md").stat().st_mode) == 0o600


class Answering:
    """Builds a command for every agent and gives an answer that is as nasty as it can be."""

    ANSWER = "Done.\n```\n# Not a heading\n\x1b[2J\u202e"

    @hookimpl
    def ebt_register_agents(self, register: Callable[[str, str], None]) -> None:
        register("answering", "answers")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command | None:
        if task.agent != "answering":
            return None
        return Command(argv=("true",), interpreter=self)

    def interpret(self, line: bytes, stream: Stream) -> tuple[()]:
        return ()

    def verdict(self, exit: ProcessExit) -> Verdict:
        return Verdict(reason=Reason.EXITED, result=self.ANSWER)


async def test_hostile_texts(make_engine: MakeEngine, project: Path) -> None:
    """No name, prompt or result gets out of its place in the readable file."""
    name = (
        "---\n# x\n```\n<script>alert(1)</script> \u202e\u2028\x1b]52;c;eA==\x07\x7f\x9b2J \udc80"
    )
    prompt = 'a "quoted"\\ prompt\n```\n## Output\n\n' + name
    async with make_engine(answering=Answering()) as engine:
        task = await engine.spawn_task(name, prompt, project, agent="answering")
        outcome = await task.wait()
    assert outcome.persist_error is None
    path = project / ".claude-tasks" / "task-1-output.md"
    facts = read_header(path)
    assert (facts["name"], facts["prompt"]) == (name, prompt)
    assert facts["result"] == Answering.ANSWER
    text = path.read_text()
    assert not set(text) & set("\x1b\x07\x7f\x9b\u202e\u2028\r")
    headings = [line for line in text.split("\n") if line.startswith("#")]
    assert headings == ["# Task 1: completed", "## Result", "# Not a heading", "## Output"]
    assert "````text\nDone.\n```\n# Not a heading\n````\n" in text


async def test_no_secrets(make_engine: MakeEngine, project: Path, private_state: Path) -> None:
    """Environment variables and standard input of a task are nowhere on disk."""
    async with make_engine() as engine:
        task = await engine.spawn_task(
            "quiet",
            project_dir=project,
            argv=["true"],
            env={"TOKEN": "hunter2-env"},
            stdin=b"hunter2-stdin",
        )
        await task.wait()
    for folder in (project, private_state):
        for path in folder.rglob("*"):
            if path.is_file():
                assert b"hunter2" not in path.read_bytes(), path


async def test_disabled(
    make_engine: MakeEngine, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched off, nothing is kept in the project."""
    monkeypatch.setenv("EBT_DISK_ENABLED", "no")
    async with make_engine() as engine:
        task = await engine.spawn_task("none", project_dir=project, argv=["true"])
        assert (await task.wait()).persist_error is None
    assert os.listdir(project) == []


async def test_settings(
    make_engine: MakeEngine, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readable file can be left out, the directory renamed, but not by the project."""
    (project / ".eventbus-tasks.toml").write_text('[disk]\nmarkdown = false\ndirectory = "src"\n')
    monkeypatch.setenv("EBT_DISK_DIRECTORY", ".tasks")
    async with make_engine() as engine:
        task = await engine.spawn_task("none", project_dir=project, argv=["true"])
        assert (await task.wait()).persist_error is None
    assert set(os.listdir(project)) == {".eventbus-tasks.toml", ".tasks"}
    names = os.listdir(project / ".tasks")
    assert "task-1.events.jsonl" in names
    assert "task-1-output.md" not in names

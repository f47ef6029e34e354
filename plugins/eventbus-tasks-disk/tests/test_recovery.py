"""Hosts that are killed at any moment: nothing is lost, and each task gets exactly one end."""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from eventbus_tasks_disk.history import ENDS, Entry, guardian_lives
from eventbus_tasks_disk.records import encode_record, records_forwards
from eventbus_tasks_disk.recovery import recover_all
from eventbus_tasks_disk.unfinished import unfinished_entries

from eventbus_tasks import Outcome, TaskEngine

PATIENCE: Final = 60.0
"""Seconds until something that does not come is given up: a guard against a hang."""

ROUNDS: Final = 500 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 15

HOST: Final = """
import os, sys
import anyio
import eventbus_tasks_disk
from eventbus_tasks import Step, TaskEngine, TerminationPolicy

# Numbered lines; each is noted when it has been written.
SCRIPT = '''exec 3>>"$1"; i=0
while [ $i -lt $2 ]; do i=$((i+1)); echo "line $i"; echo $i >&3; done'''

async def work(engine, project, end, lines):
    policy = TerminationPolicy(steps=(Step(signal=15, grace=0.2),), on_host_death=end)
    number = 0
    while True:
        number += 1
        argv = ["sh", "-c", SCRIPT, "sh", f"{project}/ledger-{number}", lines]
        task = await engine.spawn_task(f"n{number}", argv=argv, project_dir=project, policy=policy)
        os.write(1, b"accepted\\n")
        await task.wait()

async def main():
    plugins = {"disk": eventbus_tasks_disk}
    async with TaskEngine(plugins=plugins, load_installed=False) as engine:
        engine.signals.task_started.connect(lambda event: os.write(1, b"started\\n"))
        async with anyio.create_task_group() as group:
            for place in sys.argv[2:]:
                group.start_soon(work, engine, *place.split(":"))

anyio.run(main, backend=sys.argv[1])
"""


class Hosts:
    """Hosts whose tasks write numbered lines."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.projects = [directory / name for name in ("endless", "detached", "short")]
        for project in self.projects:
            project.mkdir()
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def run_and_kill(self, backend: str, word: bytes, times: int, delay: float) -> None:
        """Start a host, and kill it some time after it has said a word so many times."""
        endless, detached, short = self.projects
        places = [f"{endless}:kill:1000000000", f"{detached}:detach:2000", f"{short}:kill:20"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOST, backend, *places],
            stdout=subprocess.PIPE,
            bufsize=0,
            env=self._environment,
        )
        assert self._process.stdout is not None
        heard = b""
        limit = time.monotonic() + PATIENCE
        while heard.count(word) < times:
            ready = select.select([self._process.stdout], (), (), limit - time.monotonic())[0]
            assert ready, f"{heard!r} only"
            data = os.read(self._process.stdout.fileno(), 65536)
            assert data, "the host has ended"
            heard += data
        time.sleep(delay)  # this is the random moment, not a wait for anything
        self.close()

    def close(self) -> None:
        """Kill the host."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()


def wait_for_guardians(entries: list[Entry]) -> None:
    """Wait until nothing of any task runs."""
    limit = time.monotonic() + PATIENCE
    while any(map(guardian_lives, entries)):
        assert time.monotonic() < limit, "a guardian does not end"
        time.sleep(0.01)


def state_dir() -> Path:
    """The state directory of this test."""
    return Path(os.environ["EBT_STATE_DIR"])


def journal_of(entry: Entry) -> list[dict[str, Any] | None]:
    """Read a journal."""
    with open(entry.path_of(".events.jsonl"), "rb") as file:
        return list(records_forwards(file.fileno()))


def contents(*directories: Path) -> dict[Path, bytes]:
    """Return every file."""
    return {
        path: path.read_bytes()
        for directory in directories
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def hosts(tmp_path: Path, environment: dict[str, str], private_state: Path) -> Iterator[Hosts]:
    """Hosts, and projects for their tasks."""
    made = Hosts(tmp_path, environment)
    yield made
    made.close()
    wait_for_guardians(unfinished_entries(state_dir()))


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_at_any_moment(hosts: Hosts, seed: int) -> None:
    """Every line is in the log, the journal is whole, and each task gets one end, once."""
    chance = random.Random(seed)
    word = chance.choice([b"accepted", b"started"])
    times, delay = chance.randint(1, 5), chance.uniform(0, 0.1)
    print(f"{seed=} {word=} {times=} {delay=:.4f}")
    hosts.run_and_kill(("asyncio", "trio")[seed % 2], word, times, delay)

    # There may be none: a request that was accepted just now has no journal yet, nor any process.
    entries = unfinished_entries(state_dir())
    early = recover_all(state_dir())  # some guardians are still at work
    running = unfinished_entries(state_dir())
    wait_for_guardians(running)
    before = {entry.id: Path(entry.path_of(".events.jsonl")).read_bytes() for entry in running}
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: recover_all(state_dir()), range(2))
    assert not unfinished_entries(state_dir())
    # Those whose end had been written already need none.
    assert len({*early, *first, *second}) == len([*early, *first, *second])

    for entry in entries:
        check_task(entry, before.get(entry.id, b""))
    for project in hosts.projects:
        check_lines(project)
    places = (*hosts.projects, state_dir())
    kept = contents(*places)
    assert recover_all(state_dir()) == []
    assert contents(*places) == kept


def check_task(entry: Entry, before: bytes) -> None:
    """Check the files of a task that has been recovered."""
    records = journal_of(entry)
    assert None not in records
    whole = [record for record in records if record is not None]
    assert [record["seq"] for record in whole] == list(range(1, len(whole) + 1))
    assert [record["event"] in ENDS for record in whole] == [False] * (len(whole) - 1) + [True]
    after = Path(entry.path_of(".events.jsonl")).read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1])
    assert Path(entry.path_of("-output.md")).read_text().startswith(f"# Task {entry.id}: ")

    outcome = Outcome.from_dict(whole[-1]["outcome"])
    assert outcome.persist_error is None
    record = Path(entry.path_of(".end.json"))
    if not record.exists():
        assert outcome.reason == "host_lost"
        return
    last_word = json.loads(record.read_bytes())
    assert outcome.return_code == last_word["return_code"]
    assert dict(outcome.output_bytes) == last_word["sizes"]
    log = Path(entry.path_of(".stdout.log"))
    assert outcome.output_bytes["stdout"] == log.stat().st_size
    if last_word["reason"] is None:
        assert outcome.reason == "exited"
    else:
        assert outcome.reason == last_word["reason"]
    if "detached" in entry.project_dir and outcome.reason == "exited":
        assert log.read_bytes().endswith(b"line 2000\n")


def check_lines(project: Path) -> None:
    """Check that each line that was written for sure is in a log, in order, without a gap."""
    sure = sorted(len(path.read_bytes().splitlines()) for path in project.glob("ledger-*"))
    found = []
    for log in project.glob(".claude-tasks/*.stdout.log"):
        lines = log.read_bytes().splitlines()
        assert lines == [b"line %d" % number for number in range(1, len(lines) + 1)]
        found.append(len(lines))
    found = sorted(found)[len(found) - len(sure) :]  # some were never executed
    assert all(have >= written for have, written in zip(found, sure, strict=True))


@pytest.fixture
def lost(
    start_host: Callable[..., subprocess.Popen[str]], tmp_path: Path, private_state: Path
) -> Entry:
    """A task whose host was killed, and of which nothing runs any more."""
    project = tmp_path / "lost"
    project.mkdir()
    os.mkfifo(project / "begun")
    host = start_host(project, "sh", "-c", "echo kept; echo > begun; exec sleep 1000")
    try:
        (project / "begun").read_bytes()
    finally:
        host.kill()
        host.wait()
    (entry,) = unfinished_entries(state_dir())
    wait_for_guardians([entry])
    return entry


def test_torn_journal(lost: Entry) -> None:
    """What is torn at the end of a journal is cut off, and the terminal event comes next."""
    path = Path(lost.path_of(".events.jsonl"))
    whole = path.read_bytes()
    path.write_bytes(whole + encode_record({"event": "output.received", "seq": 99})[:-7])
    assert recover_all(state_dir()) == [lost.id]
    assert path.read_bytes().startswith(whole)
    seqs = [record and record["seq"] for record in journal_of(lost)]
    assert seqs == list(range(1, len(seqs) + 1))


def test_no_line_ending(lost: Entry) -> None:
    """A record that lacks nothing but its line ending is kept."""
    path = Path(lost.path_of(".events.jsonl"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert recover_all(state_dir()) == [lost.id]
    assert path.read_bytes().startswith(whole)
    assert None not in journal_of(lost)


def test_guardian_killed_too(lost: Entry) -> None:
    """Without a whole end record the reason is ``host_lost``, and all that was written is kept."""
    record = Path(lost.path_of(".end.json"))
    with record.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # until the guardian is gone, after its last word
    record.write_bytes(record.read_bytes()[:20])
    assert recover_all(state_dir()) == [lost.id]
    last = journal_of(lost)[-1]
    assert last is not None
    outcome = Outcome.from_dict(last["outcome"])
    assert (outcome.reason, outcome.return_code) == ("host_lost", None)
    assert outcome.output_bytes == {"stdout": 5}


def test_interrupted_recovery(lost: Entry) -> None:
    """What a recovery that was killed has left is taken away by the next."""
    folder = Path(lost.path_of("")).parent
    (folder / ".task-1-output.md.0123abcd").write_text("half")
    assert recover_all(state_dir()) == [lost.id]
    assert not list(folder.glob(".task*"))


def test_removed_project(lost: Entry) -> None:
    """A task whose files are gone is in nobody's way."""
    for path in Path(lost.path_of("")).parent.iterdir():
        path.unlink()
    assert recover_all(state_dir()) == []
    assert not unfinished_entries(state_dir())


@pytest.mark.anyio
async def test_engine_recovers(lost: Entry, make_engine: Callable[..., TaskEngine]) -> None:
    """An engine that starts looks after what dead hosts have left."""
    async with make_engine():
        limit = time.monotonic() + PATIENCE
        while unfinished_entries(state_dir()):
            assert time.monotonic() < limit
            await anyio.sleep(0.01)
    last = journal_of(lost)[-1]
    assert last is not None
    assert last["event"] == "task.failed"


@pytest.mark.anyio
async def test_running_tasks_are_left_alone(
    make_engine: Callable[..., TaskEngine], project: Path
) -> None:
    """A task whose host lives is nobody else's business, and its note goes with its end."""
    async with make_engine() as engine:
        task = await engine.spawn_task("run", argv=["sleep", "1000"], project_dir=project)
        assert [entry.uid for entry in unfinished_entries(state_dir())] in ([], [task.uid])
        assert recover_all(state_dir()) == []
        await task.cancel(now=True)
        assert not unfinished_entries(state_dir())

"""What is on disk after a host was killed: every byte, and every event up to that moment."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

# A host that does as it is told, and families of processes that keep books about themselves.
PROGRAMS: Final = Path(__file__).parents[1] / "faults" / "programs"
FAMILIES: Final = (
    ("stubborn", "session", "daemon"),
    ("session", "forking"),
    ("stubborn", "session", "leaver"),
)
PATIENCE: Final = 30.0


def until(condition: Callable[[], object]) -> None:
    """Look until something is true, from outside."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it did not become true"
        time.sleep(0.01)


class Killed:
    """A host, three projects, and what is found there after the host was killed."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.projects = [directory / f"project-{number}" for number in range(len(FAMILIES))]
        tasks = []
        for project, habits in zip(self.projects, FAMILIES, strict=True):
            (project / "book").mkdir(parents=True)
            program = str(PROGRAMS / "hostile.py")
            argv = [sys.executable, "-I", "-S", program, str(project / "book"), *habits]
            tasks.append([str(project), argv])
        options = {"plan": "churn", "plugins": True, "tasks": tasks, **options}
        path = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "host.py"), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path, "EBT_PLUGINS": "disk"},
        )
        self.heard = b""

    def hear(self, line: bytes, times: int) -> None:
        """Wait until the host has said a line so many times."""
        limit = time.monotonic() + PATIENCE
        while self.heard.count(b"\n" + line) < times:
            assert self.process.stdout is not None
            left = max(0.0, limit - time.monotonic())
            ready = select.select([self.process.stdout], (), (), left)[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"waiting for {line!r}, heard only {self.heard.decode()}"
            self.heard += data

    def kill(self) -> None:
        """Kill the host, and wait until its families are gone."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.heard += self.process.stdout.read()
        until(lambda: not [member for path in self.projects for member in living(path)])
        until(lambda: all(b"\n" in path.read_bytes() for path in self.end_records()))

    def started(self) -> list[int]:
        """The numbers of the tasks whose start was told to somebody."""
        lines = self.heard.decode().splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("started ")]

    def end_records(self) -> list[Path]:
        """The end records of the tasks whose start was told."""
        numbers = set(self.started())
        paths = [path for p in self.projects for path in p.glob(".claude-tasks/*.end.json")]
        return [path for path in paths if int(path.name.split(".")[0].split("-")[1]) in numbers]

    def close(self) -> None:
        """End what a failed test has left."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.kill()
        self.process.wait()
        for project in self.projects:
            for pid in living(project):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def living(project: Path) -> list[int]:
    """Return every process in the book of a project that can still run."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (project / "book" / "members").read_text().splitlines():
            pid, start = line.split()
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if fields[19] == start and fields[0] not in "ZX":
                    found.append(int(pid))
    return found


def lines_of(log: Path) -> dict[int, list[int]]:
    """Return the numbers of the lines that each process has in a log; each line must be whole."""
    found = defaultdict(list)
    for line in log.read_bytes().splitlines():
        pid, number, fill = line.split(b":")
        assert len(fill) == int(number) % 200, line
        found[int(pid)].append(int(number))
    return found


@pytest.fixture
def killed(tmp_path: Path, private_state: Path, request: pytest.FixtureRequest) -> Iterator[Killed]:
    """Kill a host at a moment that the seed decides."""
    seed, capture = request.param
    chance = random.Random(seed)
    phase = [b"started", b"whole", b"stopping", b"whole"][seed % 4]
    times = chance.randint(1, 3) if phase != b"whole" else chance.randint(1, 2)
    delay = chance.uniform(0, 0.3)
    print(f"{seed=} {phase=} {times=} {delay=:.4f}")
    host = Killed(tmp_path, capture=capture)
    try:
        host.hear(phase, times)
        time.sleep(delay)  # this is the random moment, not a wait for anything
        host.kill()
        yield host
    finally:
        host.close()


ROUNDS = pytest.mark.parametrize(
    "killed",
    [pytest.param((n, ("pipe", "file")[n % 2]), id=f"{n}") for n in range(8)],
    indirect=True,
)


@pytest.mark.slow
@ROUNDS
def test_log_has_every_line(killed: Killed) -> None:
    """Each line that a process has written is in the log, whole and in order, without a gap."""
    sure = 0
    for project in killed.projects:
        logs = sorted(project.glob(".claude-tasks/task-*.stdout.log"))
        lines: dict[int, list[int]] = {}
        for log in logs:
            lines.update(lines_of(log))
        for path in (project / "book").glob("ledger-*"):
            pid, written = int(path.name.partition("-")[2]), int(path.read_text() or 0)
            assert len(lines.get(pid, ())) >= written, f"{project.name}: lines of {pid} are lost"
            sure += written
        for pid, numbers in lines.items():
            assert numbers == list(range(1, len(numbers) + 1)), f"lines of {pid}"
    print(f"{sure} lines had been written for sure")


@pytest.mark.slow
@ROUNDS
def test_journal_and_end_record(killed: Killed) -> None:
    """The journal is whole up to the kill and agrees with the log; the end record has the rest."""
    told = set(killed.started())
    assert told
    for project in killed.projects:
        for path in project.glob(".claude-tasks/*.events.jsonl"):
            number = int(path.name.split(".")[0].split("-")[1])
            *whole, torn = path.read_bytes().split(b"\n")
            assert torn == b"", "events are written by one call: whole, or not at all"
            events = [json.loads(line) for line in whole]
            assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
            assert events[0]["event"] == "task.accepted"
            names = [event["event"] for event in events]
            if number not in told:
                continue
            told.discard(number)
            # What was told to anybody was written before.
            assert "task.started" in names
            log = path.with_name(f"task-{number}.stdout.log")
            record = json.loads(path.with_name(f"task-{number}.end.json").read_bytes())
            assert record["sizes"]["stdout"] == log.stat().st_size
            received = [event for event in events if event["event"] == "output.received"]
            position = 0
            for event in received:
                assert event["start"] == position
                position = event["end"]
            assert position <= log.stat().st_size
            if names[-1] in ("task.completed", "task.failed", "task.cancelled"):
                assert position == log.stat().st_size
                assert path.with_name(f"task-{number}-output.md").exists()
                assert record["reason"] != "host_lost"
            else:
                leader_had_ended = record["return_code"] == 0  # the one that leaves its family
                assert record["reason"] in ("host_lost", "cancelled") or leader_had_ended
    assert not told, f"no journal tells of {told}"

"""Kills hosts at random moments of random work, and counts what is left: has to be nothing.

``python3 dev.py random-kills 1000``, or ``python tests/faults/random_kills.py 1000 --seed 7 -j 4``.
Each kill is a host of its own with one to four hostile families (see ``programs``), which spawns
and cancels them again and again. After the kill:

- every process that was ever in the book of a family has ended within 10 seconds, and the
  warden and the guardians, too;
- no project is taken any more, and none was free while somebody of its family lived;
- the log of every task has exactly the lines that each process has noted, from its first on
  (and at most the one more that it had no time to note), each of them whole;
- every task whose start was told has its end record.

Exit code 0 if all of that was so, each time. What failed stays on disk for a look.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import fcntl
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PROGRAMS: Final = Path(__file__).resolve().parent / "programs"
GONE_WITHIN: Final = 10.0
PATIENCE: Final = 120.0
"""Seconds for a host to get somewhere; guards against a hang."""

FAMILIES: Final = (
    ("stubborn", "session", "daemon"),
    ("stubborn", "session", "stopped"),
    ("session", "daemon", "forking"),
    ("stubborn", "session", "daemon", "leaver"),
    (),
)
PHASES: Final = ("imported", "entered", "accepted", "started", "whole", "stopping", "again")
ONCE: Final = ("imported", "entered")


@dataclass
class Tally:
    """What was seen, over all kills."""

    kills: int = 0
    processes: int = 0
    living: int = 0
    tasks: int = 0
    lines: int = 0
    slowest: float = 0.0
    phases: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add what another round has seen."""
        for name in ("kills", "processes", "living", "tasks", "lines"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.slowest = max(self.slowest, other.slowest)
        self.phases += other.phases
        self.failures += other.failures

    def __str__(self) -> str:
        phases = ", ".join(f"{count} {phase}" for phase, count in sorted(self.phases.items()))
        return (
            f"{self.kills} kills, {len(self.failures)} failures; {self.processes} processes had "
            f"been started, {self.living} lived at the kill; all gone after {self.slowest:.1f} s "
            f"at most; {self.tasks} logs with {self.lines} lines compared; killed after: {phases}"
        )


class Project:
    """A project and the book of its family."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "book").mkdir(parents=True)

    def members(self) -> set[tuple[int, int]]:
        """Return everybody who has ever been in the family."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.directory / "book" / "members").read_text()
            return {(int(a), int(b)) for a, b in map(str.split, text.splitlines())}
        return set()

    def alive(self) -> set[tuple[int, int]]:
        """Return those who can still run."""
        return {member for member in self.members() if _is_alive(*member)}

    def is_free(self) -> bool:
        """Whether the lock can be taken; if so, nobody of the family may be alive."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alive = self.alive()
            if alive:
                raise Left(f"{self.directory} is free while {alive} live")
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def ledgers(self) -> dict[int, int]:
        """For each process that writes, how many lines it has noted."""
        paths = (self.directory / "book").glob("ledger-*")
        return {int(path.name.partition("-")[2]): int(path.read_text() or 0) for path in paths}

    def compare_logs(self) -> tuple[int, int]:
        """Compare logs and ledgers; return how many logs and lines there are."""
        found: dict[int, list[int]] = collections.defaultdict(list)
        logs = list(self.directory.glob(".claude-tasks/*.stdout.log"))
        for log in logs:
            data = log.read_bytes()
            if data and not data.endswith(b"\n"):
                raise Left(f"{log} ends within a line: {data[-80:]!r}")
            for line in data.splitlines():
                writer, number, fill = line.split(b":")
                if fill != b"x" * (int(number) % 200):
                    raise Left(f"{log} has a damaged line {line!r}")
                found[int(writer)].append(int(number))
        ledgers = self.ledgers()
        for pid in ledgers.keys() | found.keys():
            numbers, noted = found[pid], ledgers.get(pid, 0)
            if numbers != list(range(1, len(numbers) + 1)):
                raise Left(f"{self.directory}: the lines of {pid} have holes: {numbers}")
            if not noted <= len(numbers) <= noted + 1:
                raise Left(f"{self.directory}: {pid} noted {noted}, in the log are {len(numbers)}")
        return len(logs), sum(map(len, found.values()))


class Left(Exception):
    """Something was left behind, or is not true."""


def _is_alive(pid: int, start: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[19]) == start and (fields[0] not in "ZX" or int(fields[17]) > 1)


class Host:
    """One host, until it is killed."""

    def __init__(self, place: Path, chance: random.Random) -> None:
        self.place = place
        self.projects = [Project(place / f"p{n}") for n in range(chance.randint(1, 4))]
        self.stops = False  # whether a task is ever stopped: some end before anybody can do that
        tasks = []
        for project in self.projects:
            program = str(PROGRAMS / "hostile.py")
            book = str(project.directory / "book")
            habits = chance.choice(FAMILIES)
            self.stops |= "leaver" not in habits
            argv = [sys.executable, "-I", "-S", program, book, *habits]
            tasks.append([str(project.directory), argv])
        options = {
            "plan": "churn",
            "tasks": tasks,
            "plugins": True,
            "backend": chance.choice(("asyncio", "trio")),
            "capture": chance.choice(("pipe", "file")),
            "grace": chance.choice((0.0, 0.1, 0.3)),
        }
        self.mark = os.fsencode(f"{place}/state")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EBT_")}
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "host.py"), json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(place / "stderr").open("wb"),
            env={
                **environment,
                "EBT_STATE_DIR": f"{place}/state",
                "EBT_PLUGINS": "disk",
                "XDG_CONFIG_HOME": str(place),
            },
        )
        self.heard = b""

    def hear(self, phase: str, times: int) -> None:
        """Wait until the host has said a word so many times."""
        limit = time.monotonic() + PATIENCE
        assert self.process.stdout is not None
        while (b"\n" + self.heard).count(b"\n" + phase.encode()) < times:
            left = max(0.0, limit - time.monotonic())
            if not select.select([self.process.stdout], (), (), left)[0]:
                raise Left(f"the host hangs before {phase}: {self.heard[-200:]!r}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Left(f"the host ended: {(self.place / 'stderr').read_text()}")
            self.heard += data

    def kill(self) -> None:
        """Kill it, and read what it had said."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        # Nobody else has this pipe: its helpers have their own standard output.
        self.heard += self.process.stdout.read()

    def strangers(self) -> Iterator[int]:
        """Yield every process that this host, or what it has started, has started."""
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with contextlib.suppress(OSError):
                    if self.mark in Path(f"/proc/{name}/environ").read_bytes():
                        yield int(name)

    def wait_until_gone(self) -> float:
        """Return the seconds until nothing is left.

        Raises:
            Left: Something is, 10 seconds later.
        """
        begun = time.monotonic()
        while True:
            alive = [member for project in self.projects for member in project.alive()]
            taken = [str(p.directory) for p in self.projects if not p.is_free()]
            strangers = [] if alive or taken else list(self.strangers())
            if not (alive or taken or strangers):
                return time.monotonic() - begun
            if time.monotonic() > begun + GONE_WITHIN:
                raise Left(f"after {GONE_WITHIN:g} s: {alive=} {taken=} {strangers=}")
            time.sleep(0.02)

    def check_records(self) -> None:
        """Check that every task whose start was told has its end record."""
        lines = self.heard.splitlines()  # "failed receiver … started" is another thing
        told = {int(line.split()[1]) for line in lines if line.startswith(b"started ")}
        for number in told:
            records = [
                path
                for stem in (f"task-{number}", f"task-{number}-*")  # the other if it was taken
                for path in self.place.glob(f"p*/.claude-tasks/{stem}.end.json")
            ]
            if not records or not all(path.stat().st_size for path in records):
                raise Left(f"task {number} has no end record")

    def close(self) -> None:
        """End what a failed round has left."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()
        for pid in [p for project in self.projects for p, _ in project.alive()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill_once(seed: int, root: Path) -> Tally:
    """Kill one host, and return what was seen."""
    chance = random.Random(seed)
    phase = chance.choice(PHASES)
    times = 1 if phase in ONCE else chance.randint(1, 5)
    delay = chance.uniform(0, 0.6) ** 2
    place = root / f"seed-{seed}"
    place.mkdir()
    tally = Tally(kills=1, phases=collections.Counter({phase: 1}))
    host = Host(place, chance)
    try:
        host.hear(phase if host.stops or phase != "stopping" else "again", times)
        time.sleep(delay)  # this is the random moment
        tally.living = sum(len(project.alive()) for project in host.projects)
        host.kill()
        tally.slowest = host.wait_until_gone()
        tally.processes = sum(len(project.members()) for project in host.projects)
        for project in host.projects:
            tasks, lines = project.compare_logs()
            tally.tasks += tasks
            tally.lines += lines
        host.check_records()
    except Left as problem:
        tally.failures.append(f"seed {seed} ({phase} x{times} + {delay:.3f} s): {problem}")
    except Exception:  # noqa: BLE001 - one round that could not be judged must not hide the others
        tally.failures.append(f"seed {seed} could not be judged: {traceback.format_exc()}")
    finally:
        host.close()
    if not tally.failures:
        shutil.rmtree(place)
    return tally


def main(arguments: list[str] | None = None) -> int:
    """Kill as often as asked for, and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kills", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the first; counted up (default: 1)")
    parser.add_argument("--seeds", help="these seeds instead, separated by commas")
    parser.add_argument("-j", "--jobs", type=int, default=4, help="hosts at the same time")
    chosen: Any = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="ebt-kills-"))
    tally = Tally()
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
        seeds = (
            [int(seed) for seed in chosen.seeds.split(",")]
            if chosen.seeds
            else range(chosen.seed, chosen.seed + chosen.kills)
        )
        for done in concurrent.futures.as_completed(
            [pool.submit(kill_once, seed, root) for seed in seeds]
        ):
            tally.add(done.result())
            for failure in done.result().failures:
                print(f"FAILED {failure}", flush=True)
            if tally.kills % 50 == 0:
                print(f"[{time.monotonic() - begun:.0f} s] {tally}", flush=True)
    print(tally)
    if tally.failures:
        print(f"what is left of those that failed: {root}")
        return 1
    root.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())

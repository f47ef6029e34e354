"""Outside of the host: starts it, directs it, and judges by what everybody has written down."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from eventbus_tasks import EVENT_TYPES, TaskEnded
from tests.faults.suite.books import PATIENCE, Project, stat_of
from tests.faults.suite.registry import Scenario

__all__ = ["GONE_WITHIN", "HostProcess", "missing_need", "run_scenario"]

PLAY: Final = Path(__file__).parents[1] / "programs" / "play.py"

GONE_WITHIN: Final = 10.0
"""Seconds after the death of a host within which all of it must be gone: a promise."""

LIMIT: Final = 240.0
"""Seconds after which a host is taken for stuck."""


class HostProcess:
    """A host that plays a scenario.

    Attributes:
        scenario: What it plays.
        directory: The place of the scene.
        heard: Every line that it has said.
        copies: Forks of it, that have nothing to do with its tasks; they are ended at the end.
    """

    def __init__(self, scenario: Scenario, backend: str, directory: Path, state: Path) -> None:
        self.scenario = scenario
        self.directory = directory
        self.heard: list[str] = []
        self.copies: set[int] = set()
        self._more: list[HostProcess] = []
        self._backend, self._state = backend, state
        self._rest = b""
        self._mark = os.fsencode(f"{state}/")
        self._errors = (directory / "stderr").open("w+b")
        self.process = subprocess.Popen(
            [*scenario.wrap, sys.executable, str(PLAY), scenario.number, backend, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env={
                **os.environ,
                "EBT_PLUGINS": "disk" if "disk" in scenario.needs else "none",
            },
        )

    @property
    def pid(self) -> int:
        """Its process number (that of the wrapping command, where there is one)."""
        return self.process.pid

    def another(self, name: str) -> HostProcess:
        """Start another host, which plays the same in a directory of its own."""
        directory = self.directory / name
        directory.mkdir()
        self._more.append(HostProcess(self.scenario, self._backend, directory, self._state))
        return self._more[-1]

    def project(self, name: str = "project") -> Project:
        """Return a project of the scene."""
        return Project(self.directory, name)

    def hear(self, word: str) -> str:
        """Wait until it says a line that begins with a word, and return the rest of the line."""
        assert self.process.stdout is not None
        limit = time.monotonic() + PATIENCE
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                self.heard.append(line.decode())
                first, _, rest = self.heard[-1].partition(" ")
                if first == word:
                    return rest
            left = max(0.0, limit - time.monotonic())
            ready = select.select([self.process.stdout], (), (), left)[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"waiting for {word!r}, heard only {self.heard}\n{self.errors}"
            self._rest += data

    def say(self, word: str) -> None:
        """Say a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode() + b"\n")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        return self.process.wait(LIMIT)

    @property
    def state(self) -> str:
        """The kernel's letter for what it does."""
        return (stat_of(self.process.pid) or ["-"])[0]

    @property
    def errors(self) -> str:
        """What it has written to standard error."""
        return (self.directory / "stderr").read_text(errors="replace")

    def strangers(self) -> list[str]:
        """Return every process that was started by this host, or by what it has started."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) not in {os.getpid(), self.process.pid, *self.copies}:
                with contextlib.suppress(OSError):  # gone, or somebody else's
                    if self._mark in Path(f"/proc/{name}/environ").read_bytes():
                        command = Path(f"/proc/{name}/cmdline").read_bytes()[:150]
                        found.append(f"{name} {command.replace(bytes(1), b' ').decode()}")
        return found

    def assert_all_gone(self) -> float:
        """Wait for everything to be gone, as promised, and nothing to be free before.

        Returns:
            The seconds that it took.
        """
        begun = time.monotonic()
        while True:
            projects = Project.all(self.directory)
            taken = [project.name for project in projects if not project.is_free()]
            alive = [member for project in projects for member in project.alive]
            strangers = self.strangers()
            if not (taken or alive or strangers):
                return time.monotonic() - begun
            assert time.monotonic() < begun + GONE_WITHIN, (
                f"{GONE_WITHIN:g} s after the death of the host: "
                f"alive {alive}, taken {taken}, others {strangers}"
            )
            time.sleep(0.01)

    def close(self) -> None:
        """End what is still there: the host, and what a failed scenario has left."""
        for host in self._more:
            host.close()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()
        self.process.kill()
        self.process.wait()
        left = [member[0] for p in Project.all(self.directory) for member in p.alive]
        left += self.copies
        left += [int(stranger.split()[0]) for stranger in self.strangers()]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def run_scenario(scenario: Scenario, backend: str, directory: Path, state: Path) -> str:
    """Play a scenario in a host of its own, judge it, and return what was seen."""
    host = HostProcess(scenario, backend, directory, state)
    try:
        seen = ""
        if scenario.direct is not None:
            seen = scenario.direct(host)
            host.wait()
        else:
            try:
                status = host.wait()
            except subprocess.TimeoutExpired:
                status = -1
                host.process.send_signal(signal.SIGABRT)  # faulthandler: where does it hang?
                host.process.wait(PATIENCE)
            assert (directory / "result.json").exists(), f"ended ({status}): {host.errors}"
        result = _result(directory)
        assert "error" not in result or scenario.direct is not None, result["error"]
        host.assert_all_gone()
        ended = "seen" in result
        _judge_history(directory, whole=ended)
        if ended and not scenario.lossy:
            _judge_lines(directory)
        return seen or result["seen"]
    finally:
        host.close()


def _result(directory: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((directory / "result.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def _judge_history(directory: Path, *, whole: bool) -> None:
    """Check what each task has told: one end, last; a start, first; no number left out."""
    histories: dict[str, list[dict[str, Any]]] = defaultdict(list)
    file = directory / "history.jsonl"
    for entry in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):  # the host was killed while it wrote the last one
            event = json.loads(entry)
            histories[event["task"]["uid"]].append(event)
    histories.pop("", None)
    for uid, events in histories.items():
        names = [event["event"] for event in events if event["event"] in EVENT_TYPES]
        ends = [n for n, name in enumerate(names) if issubclass(EVENT_TYPES[name], TaskEnded)]
        assert len(ends) == 1 or (not whole and not ends), f"{uid} has {len(ends)} ends: {names}"
        after = set(names[ends[0] + 1 :]) if ends else set()
        assert after <= {"handler.failed", "task.removed"}, f"{uid}: after its end came {after}"
        assert names.count("task.started") <= 1, names
        if "output.received" in names:
            assert "task.started" in names[: names.index("output.received")], names
        numbers = [
            event["seq"]
            for event in events
            if event["event"] in EVENT_TYPES
            and EVENT_TYPES[event["event"]].journaled
            and event["event"] != "task.removed"
        ]
        first = events[0].get("first_seq") or events[0]["seq"]
        assert numbers == list(range(first, first + len(numbers))), f"{uid}: {numbers}"


def _judge_lines(directory: Path) -> None:
    """Check that the output of each project has every line of every ledger, in order."""
    for project in Project.all(directory):
        found: dict[int, list[int]] = defaultdict(list)
        for path in (directory / "outputs").glob(f"{project.name}.*.stdout"):
            for line in path.read_bytes().split(b"\n"):
                writer, _, rest = line.partition(b":")
                number, _, fill = rest.partition(b":")
                if writer.isdigit() and number.isdigit() and not fill.strip(b"x"):
                    found[int(writer)].append(int(number))
        for pid, count in project.ledgers.items():
            numbers = found[pid]
            assert numbers == list(range(1, len(numbers) + 1)), f"lines of {pid}: {numbers[:50]}"
            assert len(numbers) >= count, f"{pid} wrote {count} lines, there are {len(numbers)}"


def missing_need(scenario: Scenario) -> str:
    """Return what this machine cannot offer to a scenario; empty if it can be played."""
    for need in scenario.needs:
        if need == "root" and os.geteuid() != 0:
            return "needs root"
        if need == "userns" and not _has_user_namespaces():
            return "needs user namespaces"
        if need in ("strace", "unshare", "setpriv") and shutil.which(need) is None:
            return f"needs {need}"
        if need in ("claude", "disk") and not importlib.util.find_spec(f"eventbus_tasks_{need}"):
            return f"needs the plugin eventbus-tasks-{need}"
        if need.startswith("/") and not os.path.exists(need):
            return f"needs {need}"
    return ""


def _has_user_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-Urmpf", "--mount-proc", "true"]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

"""`ebt cancel` and `ebt wait`: tasks of other programs, with and without a history on disk."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from eventbus_tasks import RunningTask, find_running_tasks

from .conftest import StartEbt

ALONE = {"EBT_PLUGINS": "none"}
WITH_HISTORY = {"EBT_PLUGINS": "disk"}

needs_history = pytest.mark.skipif(
    "disk" not in {entry.name for entry in metadata.entry_points(group="eventbus_tasks")},
    reason="needs the disk plugin installed: tox run -e integration",
)
BOTH = [
    pytest.param(ALONE, id="memory"),
    pytest.param(WITH_HISTORY, id="disk", marks=needs_history),
]


def run(ebt: StartEbt, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Run a command to its end; return exit code, output and messages."""
    running = ebt(*arguments, environ=environ)
    code, errors = running.wait()
    return code, running.seen.decode(), errors


def start(
    ebt: StartEbt, project: Path, name: str, *script: str, environ: dict[str, str] = ALONE
) -> Any:
    """Start a task in another program, in a directory of its own; return when it runs."""
    directory = project / name.replace(" ", "-")
    directory.mkdir()
    words = script or ("echo ready; exec sleep 1000",)
    running = ebt(
        "run", "-C", str(directory), "--name", name, "--", "sh", "-c", *words, environ=environ
    )
    running.read_until(b"ready")
    return running


def only() -> RunningTask:
    """Return the one task that runs."""
    (task,) = find_running_tasks()
    return task


@pytest.mark.parametrize("environ", BOTH)
def test_cancel_from_another_terminal(
    ebt: StartEbt, project: Path, environ: dict[str, str]
) -> None:
    """A task is ended by name from another process; its own program tells the same end."""
    first = start(ebt, project, "build", environ=environ)
    code, _, errors = run(ebt, "cancel", "build")
    assert (code, errors) == (0, "ebt: stopping build\nebt: build: cancelled\n")
    assert find_running_tasks() == ()
    assert first.wait()[0] == 143


def test_cancel_now_and_all(ebt: StartEbt, project: Path) -> None:
    """--now kills what ignores SIGTERM; --all ends every task, and reports each."""
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    started = [start(ebt, project, "one", stubborn), start(ebt, project, "two", stubborn)]
    code, out, _ = run(ebt, "cancel", "--all", "--now", "--json")
    assert code == 0
    ended = json.loads(out)
    assert [item["name"] for item in ended] == ["one", "two"]
    assert {item["outcome"]["return_code"] for item in ended} == {-9}
    assert [running.wait()[0] for running in started] == [143, 143]


def test_cancel_by_uid_prefix(ebt: StartEbt, project: Path) -> None:
    """The beginning of the UUID is enough."""
    start(ebt, project, "build")
    assert run(ebt, "cancel", only().ref.uid[:8])[0] == 0
    assert find_running_tasks() == ()


def test_ambiguity_stops_nothing(ebt: StartEbt, project: Path) -> None:
    """A name that fits two tasks is refused with both candidates; neither is stopped."""
    start(ebt, project, "fix login")
    start(ebt, project, "fix logout")
    code, _, errors = run(ebt, "cancel", "log")
    assert code == 2
    assert "'log' may be any of 2 tasks" in errors
    for task in find_running_tasks():
        assert task.ref.uid[:8] in errors
        assert task.state == "running"
    assert run(ebt, "cancel", "fix login")[0] == 0  # an exact name wins
    assert only().ref.name == "fix logout"


def test_nobody_to_cancel(ebt: StartEbt) -> None:
    """A task that does not run is an error for `cancel`; no task at all is none for --all."""
    assert run(ebt, "cancel", "nobody")[::2] == (1, "ebt: there is no task 'nobody' that runs\n")
    assert run(ebt, "cancel", "--all")[0] == 0
    assert run(ebt, "cancel")[0] == 2
    assert run(ebt, "cancel", "--all", "5")[0] == 2


@pytest.mark.parametrize("environ", BOTH)
def test_wait_has_the_exit_code(
    ebt: StartEbt, project: Path, gate: Any, environ: dict[str, str]
) -> None:
    """`wait` ends with the task, and with its exit code."""
    first = start(ebt, project, "tests", f"echo ready; {gate.wait}; exit 7", environ=environ)
    code, _, errors = run(ebt, "wait", "tests", "--timeout", "0.1")
    assert (code, errors) == (124, "ebt: waiting for tests…\nebt: tests: still running\n")
    waiting = ebt("wait", "tests", "--timeout", "1e300", environ=environ)
    waiting.read_message("waiting")
    gate.open()
    assert waiting.wait()[0] == 7
    assert first.wait()[0] == 7


@needs_history
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("no-such-program-1", 127),
        ("./no-such-program-2", 127),
        ("./data", 126),
        ("./data/program", 126),
        ("./dangling", 126),
        ("./script", 126),
    ],
)
def test_wait_and_run_agree(ebt: StartEbt, project: Path, program: str, expected: int) -> None:
    """A program that is not there gives 127 to `run` and `wait`; one that will not do, 126."""
    (project / "data").write_text("no program\n")
    (project / "dangling").symlink_to("nothing")
    (project / "script").write_text("#!/no/such/interpreter\n")
    (project / "script").chmod(0o700)
    assert run(ebt, "run", "--name", "it", "--", program, **WITH_HISTORY)[0] == expected
    assert run(ebt, "wait", "it", **WITH_HISTORY)[0] == expected


@needs_history
def test_wait_for_the_past(ebt: StartEbt, project: Path) -> None:
    """A task that has ended is found in the history; without one it is not known."""
    first = start(ebt, project, "tests", "echo ready; exit 3", environ=WITH_HISTORY)
    assert first.wait()[0] == 3
    code, out, _ = run(ebt, "wait", "tests", "--json", **WITH_HISTORY)
    assert code == 3
    assert json.loads(out)[0]["outcome"]["reason"] == "exit_code"
    assert run(ebt, "wait", "tests", **ALONE)[::2] == (1, "ebt: there is no task 'tests'\n")


def test_nothing_stays_in_the_state_directory(ebt: StartEbt, project: Path) -> None:
    """Once its task has ended, no socket is left, however the task ended."""
    first = start(ebt, project, "tests", "echo ready; exit 3")
    assert first.wait()[0] == 3
    missing = ebt("run", "--", "no-such-program-at-all", environ=ALONE)
    assert missing.wait()[0] == 127
    assert os.listdir(Path(os.environ["EBT_STATE_DIR"]) / "run") == []

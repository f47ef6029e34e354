"""`ebt run --detach`: what it says, what it refuses, and what it lets go of."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from eventbus_tasks import find_running_tasks

from .conftest import PATIENCE, StartEbt

ALONE = {"EBT_PLUGINS": "none"}
WITH_HISTORY = {"EBT_PLUGINS": "disk"}

needs_history = pytest.mark.skipif(
    "disk" not in {entry.name for entry in metadata.entry_points(group="eventbus_tasks")},
    reason="needs the disk plugin installed: tox run -e integration",
)

SLOW_PLUGIN = """
    from eventbus_tasks import hookimpl

    @hookimpl
    def ebt_termination_policy(task):
        open({mark!r}, "w").close()
        open({gate!r}).readline()
"""

UNABLE_PLUGIN = """
    from eventbus_tasks import hookimpl

    @hookimpl
    def ebt_register_agents(register):
        register("unable", "cannot work")

    @hookimpl
    def ebt_build_command(task):
        raise ValueError("no such option")
"""


def test_without_a_plugin_it_is_refused(ebt: StartEbt, project: Path) -> None:
    """Nobody would read the output of such a task: the message says what to install."""
    running = ebt("run", "--detach", "--", "touch", "done", environ=ALONE)
    code, errors = running.wait()
    assert (code, running.seen) == (2, b"")
    assert "eventbus-tasks-disk" in errors
    assert not (project / "done").exists()


def test_nothing_is_shown(ebt: StartEbt) -> None:
    """An option about what is shown makes no sense, and is refused with what does."""
    code, errors = ebt("run", "--detach", "--raw", "--", "true", environ=ALONE).wait()
    assert code == 2
    assert "ebt logs -f" in errors


@needs_history
def test_refusals_and_failures(ebt: StartEbt) -> None:
    """What cannot be started is told as in the foreground, with the same exit codes."""
    for arguments, expected, word in (
        (("--", "no-such-program-at-all"), 127, "no-such-program-at-all"),
        (("-C", "/no/such/directory", "--", "true"), 2, "does not exist"),
        (("--agent", "nobody", "hello"), 2, "nobody"),
    ):
        code, errors = ebt("run", "--detach", *arguments, environ=WITH_HISTORY).wait()
        assert code == expected
        assert word in errors


@needs_history
def test_one_that_never_ran(ebt: StartEbt, make_plugin: Callable[..., dict[str, str]]) -> None:
    """A task whose plugin cannot build its command has not begun, and no number says so."""
    environ = {**make_plugin("unable", UNABLE_PLUGIN), "EBT_PLUGINS": "disk,unable"}
    running = ebt("run", "--detach", "--agent", "unable", "hello", environ=environ)
    code, errors = running.wait()
    assert (code, running.seen) == (125, b"")
    assert "no such option" in errors
    assert "runs in the background" not in errors


@needs_history
def test_the_number_is_the_output(ebt: StartEbt) -> None:
    """Standard output is the number alone, for scripts; what to do is said beside it."""
    running = ebt("run", "--detach", "--name", "nap", "--", "sleep", "1000", environ=WITH_HISTORY)
    code, errors = running.wait()
    assert code == 0
    number = int(running.seen)
    assert errors == f"ebt: nap: runs in the background, as task {number}\n"
    cancel = ebt("cancel", str(number))
    assert cancel.wait()[0] == 0
    assert find_running_tasks() == ()


@needs_history
def test_it_lets_go_of_the_terminal(ebt: StartEbt) -> None:
    """The host is in a session of its own, without terminal and files of its caller."""
    running = ebt(
        "run", "--detach", "--json", "--", "sleep", "1000", terminal=True, environ=WITH_HISTORY
    )
    assert running.wait()[0] == 0
    pid = json.loads(running.seen)["host_pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    session, terminal = int(fields[3]), int(fields[4])
    assert (session, terminal) == (pid, 0)
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
    running.close_output()  # the terminal is closed
    (task,) = find_running_tasks()
    assert task.host_pid == pid
    assert task.has_host
    assert ebt("cancel", "--all").wait()[0] == 0


@needs_history
def test_whoever_does_not_wait_leaves_nothing(
    ebt: StartEbt, project: Path, make_plugin: Callable[..., dict[str, str]], gate: Any
) -> None:
    """Ctrl-C before the number is known takes the task back: nobody could find it by that."""
    mark = project / "asked"
    environ = make_plugin("slow", SLOW_PLUGIN.format(mark=str(mark), gate=str(gate.path)))
    running = ebt(
        "run", "--detach", "--", "sleep", "1000", environ={**environ, "EBT_PLUGINS": "disk,slow"}
    )
    limit = time.monotonic() + PATIENCE
    while not mark.exists():
        assert time.monotonic() < limit, "the plugin was never asked"
        time.sleep(0.005)
    running.signal(signal.SIGINT)
    assert running.wait()[0] == 130
    gate.open()
    waiting = ebt("wait", "sleep", environ=WITH_HISTORY)
    assert waiting.wait()[0] == 143
    assert find_running_tasks() == ()

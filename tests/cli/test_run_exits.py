"""What ``ebt run`` exits with, what it says then, and that nothing is left."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from eventbus_tasks import (
    EventbusTasksError,
    InvalidRequestError,
    Outcome,
    ProjectBusyError,
    Reason,
    ResourceError,
    SessionBusyError,
)
from eventbus_tasks._cli import exits

CLERK = """
from eventbus_tasks import Command, hookimpl

@hookimpl
def ebt_register_agents(register):
    register("clerk", "always works in the same session")

@hookimpl
def ebt_build_command(task):
    if task.agent == "clerk":
        return Command(argv=("sh", "-c", task.prompt), session_id="s-1")
"""

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
def test_exit_code_is_that_of_the_command(ebt: Any, backend: str, command: str, code: int) -> None:
    """The exit code is passed on, 128 and more for a signal, and needs no words in a pipe."""
    running = ebt("run", "--backend", backend, "--", "sh", "-c", command)
    assert running.wait() == (code, "")


def test_watcher_is_told_how_it_ended(ebt: Any) -> None:
    """On a terminal the last line says what became of the task."""
    _, errors = ebt("run", "-n", "build", "--", "sh", "-c", "exit 3", terminal=True).wait()
    assert errors.startswith("ebt: build: exit status 3 (")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("command", ["no-such-program-1", "./no-such-program-2"])
def test_missing_program(ebt: Any, command: str) -> None:
    """A program that is not there gives 127 and one line that names it."""
    code, errors = ebt("run", "--", command).wait()
    assert code == 127
    assert len(errors.splitlines()) == 1
    assert command.removeprefix("./") in errors
    assert "Traceback" not in errors


def test_program_that_cannot_be_executed(ebt: Any, project: Path) -> None:
    """What is there but cannot be executed gives 126 and one line that names it."""
    (project / "data").write_text("no program\n")
    (project / "script").write_text("#!/no/such/interpreter\n")
    (project / "script").chmod(0o700)
    for command in ("./data", "/", "./script"):
        code, errors = ebt("run", "--", command).wait()
        assert code == 126
        assert len(errors.splitlines()) == 1
        assert command in errors


def test_timeout(ebt: Any) -> None:
    """A task that runs too long is ended, gives 124, and says so."""
    code, errors = ebt("run", "--timeout", "0.3", "-n", "nap", "--", "sleep", "1000").wait()
    assert code == 124
    assert errors.startswith("ebt: nap: ran longer than its timeout")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "-C", "no-such-directory", "--", "true"], "does not exist"),
        (["run", "--agent", "no-such-agent", "prompt"], "no plugin drives the agent"),
        (["run", "--"], "there must be a command"),
        (["run", "-"], "the prompt is empty"),
        (["run", "make", "test"], "put -- before it"),
        (["run", "prompt", "--", "true"], "not both"),
        (["run", "-a", "claude", "--", "make", "test"], "takes a prompt"),
        (["run", "-t", "soon", "--", "true"], "number of seconds"),
        (["run", "-t", "-1", "--", "true"], "number of seconds"),
        (["run", "-o", "model", "--", "true"], "KEY=VALUE"),
        (["run", "--timeou", "3", "--", "true"], "ebt run --help"),
        (["run", "--name", " ", "--", "true"], "must not be empty"),
        (["--no-such-option"], "ebt --help"),
        (["rnu"], "did you mean 'run'"),
    ],
)
def test_refusal_is_one_line(ebt: Any, arguments: list[str], words: str) -> None:
    """What is refused gives 2 and one line that says what to do; nothing is started."""
    running = ebt(*arguments)
    code, errors = running.wait()
    assert code == 2
    assert running.seen == b""
    assert len(errors.splitlines()) == 1
    assert errors.startswith("ebt: ")
    assert words in errors


def test_no_prompt_at_a_terminal(ebt: Any) -> None:
    """Without a prompt a person is asked for one, instead of waiting for the keyboard."""
    code, errors = ebt("run", terminal=True).wait()
    assert code == 2
    assert 'ebt run "prompt"' in errors


def test_wrong_settings(ebt: Any, project: Path) -> None:
    """A settings file that is wrong gives 2 and one line with file, key and remedy."""
    (project / ".eventbus-tasks.toml").write_text("agnet = 'x'\n")
    code, errors = ebt("run", "--", "true").wait()
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert ".eventbus-tasks.toml: agnet: " in errors
    assert "did you mean 'agent'" in errors


def test_busy_project(ebt: Any, gate: Any) -> None:
    """A second task in a directory gives 75 and one line that names the first."""
    first = ebt("run", "-n", "the first", "--", "sh", "-c", f"echo in; {gate.wait}")
    first.read_until(b"in\n")
    code, errors = ebt("run", "--", "true").wait()
    assert code == 75
    assert len(errors.splitlines()) == 1
    assert "'the first'" in errors
    assert str(first.process.pid) in errors
    gate.open()
    assert first.wait()[0] == 0
    assert ebt("run", "--", "true").wait()[0] == 0


FAMILY = "setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait"


@BACKENDS
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_stops_the_whole_family(
    ebt: Any, alive: Any, backend: str, number: int, code: int
) -> None:
    """Ctrl-C and the like end the command and what left its session, before ebt itself ends."""
    running = ebt("run", "--backend", backend, "--", "sh", "-c", FAMILY)
    pids = [int(line) for line in running.read_lines(2)]
    running.signal(number)
    exit_code, errors = running.wait()
    assert exit_code == code
    assert "stopping…" in errors
    assert not [pid for pid in pids if alive(pid)]


@BACKENDS
def test_second_interrupt_kills(ebt: Any, alive: Any, backend: str) -> None:
    """A command that ignores SIGTERM is killed at once by a second Ctrl-C."""
    script = "trap '' TERM; echo $$; while :; do sleep 1000; done"
    running = ebt("run", "--json", "--backend", backend, "--", "sh", "-c", script)
    running.read_until(b'", "truncated"')
    pid = int(running.seen.partition(b'"text": "')[2].partition(b'"')[0])
    running.signal(signal.SIGINT)
    running.read_message("Ctrl-C again to kill")
    running.read_until(b'"task.signal_sent"')
    running.signal(signal.SIGINT)
    assert running.wait()[0] == 130
    assert not alive(pid)
    events = [json.loads(line) for line in running.seen.splitlines()]
    sent = [event["signal"] for event in events if event["event"] == "task.signal_sent"]
    assert sent == [signal.SIGTERM, signal.SIGKILL]
    assert events[-1]["event"] == "task.cancelled"


def test_ctrl_c_at_a_terminal(ebt: Any, alive: Any) -> None:
    """The key itself stops the task; the command never sees it, only the polite signal."""
    script = "trap 'echo interrupted' INT; trap 'echo bye; exit' TERM; echo $$; echo ready; "
    running = ebt("run", "--", "sh", "-c", script + "while :; do sleep 0.1; done", terminal=True)
    seen = running.read_until(b"ready")
    os.write(running.out, b"\x03")
    code, errors = running.wait()
    assert code == 130
    assert b"bye" in running.seen
    assert b"interrupted" not in running.seen
    assert "stopping… (Ctrl-C again to kill)" in errors
    assert not alive(int(seen.split()[0]))


def test_ignored_signal_stays_ignored(ebt: Any, gate: Any, project: Path) -> None:
    """Started with SIGHUP ignored (nohup), ebt does not stop on it."""
    inner = f'{os.sys.executable} -m eventbus_tasks run -- sh -c "echo ready; {gate.wait}"'  # type: ignore[attr-defined]
    script = f"trap '' HUP; cd project; echo $$; exec {inner}"
    running = ebt("run", "-C", str(project.parent), "--", "sh", "-c", script)
    seen = running.read_until(b"ready")
    os.kill(int(seen.split()[0]), signal.SIGHUP)
    gate.open()
    assert running.wait()[0] == 0


def test_every_reason_has_a_code() -> None:
    """No end of a task leaves a script without an exit code."""
    special = {
        Reason.CANCELLED,
        Reason.ENGINE_CLOSED,
        Reason.EXIT_CODE,
        Reason.SIGNALLED,
        Reason.SPAWN_FAILED,
    }
    assert set(exits._BY_REASON) | special == set(Reason)
    assert not set(exits._BY_REASON) & special


def test_every_code_is_documented() -> None:
    """`ebt run --help` explains every exit code that ebt itself makes."""
    for code in (1, 2, 74, 75, 124, 125, 126, 127, 130, 143, 129, 141):
        assert f"{code}" in exits.TABLE


def test_queue_and_share(ebt: Any, project: Path) -> None:
    """While a task works in the directory, another waits for it when told to, or shares it."""
    holder = ebt("run", "--name", "holder", "--", "sh", "-c", "echo up; exec sleep 1000")
    holder.read_until(b"up\n")
    assert ebt("run", "--share", "--", "sh", "-c", "exit 5").wait() == (5, "")
    waiting = ebt("run", "--queue", "--", "sh", "-c", "exit 7")
    waiting.read_message("waiting for the project: task 1 'holder' of process")
    given_up = ebt("run", "--queue", "--", "true")
    given_up.read_message("behind 1 other")
    given_up.signal(signal.SIGINT)
    assert given_up.wait()[0] == 130
    holder.signal(signal.SIGINT)
    assert holder.wait()[0] == 130
    assert waiting.wait()[0] == 7


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (ProjectBusyError("/project", {}), 75),
        (SessionBusyError("claude", "s1", {}), 75),
        (ResourceError(errno.EMFILE, "no descriptors"), 75),
        (InvalidRequestError("name", "is empty"), 2),
    ],
)
def test_what_can_succeed_later(refusal: EventbusTasksError, code: int) -> None:
    """A script that tries again on 75 does so for every refusal that may be another one later."""
    assert exits.code_of_error(refusal) == code


def test_a_session_that_is_taken_when_its_turn_comes(ebt: Any, make_plugin: Any) -> None:
    """A task that finds its session taken is no program that cannot be found: try later."""
    environ = make_plugin("clerk", CLERK)
    holder = ebt("run", "-a", "clerk", "echo up; exec sleep 1000", environ=environ)
    holder.read_until(b"up\n")
    code, errors = ebt("run", "--share", "-a", "clerk", "echo never", environ=environ).wait()
    assert (code, "another task works in the session 's-1'" in errors) == (exits.BUSY, True)
    message = str(SessionBusyError("clerk", "s-1", {}))
    ended = Outcome(reason=Reason.SPAWN_FAILED, message=message)
    assert exits.code_of_end("clerk", ended) == exits.BUSY  # as a detached one is told of

"""Output that cannot be written: one line, one exit code, whatever the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventbus_tasks import find_running_tasks

from .conftest import PATIENCE, StartEbt
from .test_cancel_wait import WITH_HISTORY, needs_history, start

MESSAGE = "ebt: the output cannot be written: No space left on device"


def run_on_full_disk(project: Path, *arguments: str, **environ: str) -> tuple[int, list[str]]:
    """Run a command whose standard output is full; return exit code and messages."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "eventbus_tasks", *arguments],
            cwd=project,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "run --help",
        "doctor",
        "doctor --json",
        "plugins",
        "plugins --json",
        "agents",
        "agents --json",
        "cancel --all --json",
    ],
)
def test_one_line_and_one_code(project: Path, command: str) -> None:
    """Every command says so in the same line, and gives 74."""
    code, messages = run_on_full_disk(project, *command.split(), EBT_PLUGINS="none")
    assert (code, messages) == (74, [MESSAGE])


@needs_history
@pytest.mark.parametrize(
    "command", ["ls", "ls --json", "show", "show --json", "logs", "wait --json"]
)
def test_one_line_and_one_code_of_history(ebt: StartEbt, project: Path, command: str) -> None:
    """So do the commands about tasks of the past, which a plugin brings."""
    word, *options = command.split()
    assert start(ebt, project, "tests", "echo ready", environ=WITH_HISTORY).wait()[0] == 0
    which = [] if word == "ls" else ["tests"]
    code, messages = run_on_full_disk(project, word, *which, *options, **WITH_HISTORY)
    assert (code, messages) == (74, [MESSAGE])


def test_cancel_is_carried_out(ebt: StartEbt, project: Path) -> None:
    """A task is stopped, although what became of it cannot be written."""
    first = start(ebt, project, "build")
    assert run_on_full_disk(project, "cancel", "build", "--json") == (74, [MESSAGE])
    assert find_running_tasks() == ()
    assert first.wait()[0] == 143


@needs_history
def test_gc_is_carried_out(ebt: StartEbt, project: Path) -> None:
    """History is removed, although what was removed cannot be written."""
    assert start(ebt, project, "tests", "echo ready", environ=WITH_HISTORY).wait()[0] == 0
    code, messages = run_on_full_disk(project, "gc", "--keep", "0", "--json", **WITH_HISTORY)
    assert (code, messages) == (74, [MESSAGE])
    listing = ebt("ls", "--json", environ=WITH_HISTORY)
    assert listing.wait()[0] == 0
    assert listing.seen.strip() == b"[]"


def test_closed_output_is_nobodys_loss(project: Path) -> None:
    """Whoever closes standard output wants none: a command does its work, and says nothing."""
    script = f"exec '{sys.executable}' -m eventbus_tasks plugins --json >&-"
    done = subprocess.run(
        ["sh", "-c", script], cwd=project, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")

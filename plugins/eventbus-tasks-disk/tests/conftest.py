"""What the tests of this plugin share."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import eventbus_tasks_disk
import pytest
from eventbus_tasks_disk.records import records_forwards

from eventbus_tasks import TaskEngine

PATIENCE: Final = 60
"""Seconds that another process may take: a guard against a hang."""

HOST: Final = """
import json, os, sys
import anyio
import eventbus_tasks_disk
from eventbus_tasks import TaskEngine

async def main(project, *argv):
    async with TaskEngine(plugins={"disk": eventbus_tasks_disk}, load_installed=False) as engine:
        task = await engine.spawn_task("work", argv=argv, project_dir=project)
        outcome = await task.wait()
        print(json.dumps({"id": task.id, **outcome.to_dict()}))

before_start()
anyio.run(main, *sys.argv[1:])
"""
"""A host of its own: runs one command in a project and prints its outcome."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project."""
    path = tmp_path / "project"
    path.mkdir()
    return path


@pytest.fixture
def make_engine() -> Callable[..., TaskEngine]:
    """Makes engines with this plugin, and others by name."""

    def make(**others: object) -> TaskEngine:
        plugins = {"disk": eventbus_tasks_disk, **others}
        return TaskEngine(plugins=plugins, load_installed=False)

    return make


@pytest.fixture
def read_journal() -> Callable[..., list[dict[str, Any]]]:
    """Reads a journal, and fails if a line of it is damaged."""

    def read(project: Path, stem: str = "task-1") -> list[dict[str, Any]]:
        path = project / ".claude-tasks" / f"{stem}.events.jsonl"
        with path.open("rb") as file:
            records = list(records_forwards(file.fileno()))
        assert None not in records
        return [record for record in records if record is not None]

    return read


@pytest.fixture
def host_script(private_state: Path) -> Callable[..., list[str]]:
    """Makes the command line of a host of its own."""

    def make(project: Path, *argv: str, before: str = "pass") -> list[str]:
        code = f"def before_start():\n    {before}\n{HOST}"
        return [sys.executable, "-c", code, str(project), *argv]

    return make


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment in which other processes find what this one has imported."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture
def start_host(
    host_script: Callable[..., list[str]], environment: dict[str, str]
) -> Callable[..., subprocess.Popen[str]]:
    """Starts a host of its own."""

    def start(project: Path, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(host_script(project, *argv), env=environment, text=True)

    return start


@pytest.fixture
def run_host(
    host_script: Callable[..., list[str]], environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a host of its own to its end."""

    def run(
        project: Path, *argv: str, before: str = "pass", wrapper: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*wrapper, *host_script(project, *argv, before=before)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return run


@pytest.fixture
def ebt() -> Callable[..., int]:
    """Runs a command of this plugin, as the command line does."""

    def run(*words: str) -> int:
        parser = argparse.ArgumentParser(prog="ebt")
        commands = parser.add_subparsers(required=True)

        def register(name: str, help: str, configure: Callable[..., Any]) -> None:
            configure(commands.add_parser(name, help=help))

        eventbus_tasks_disk.ebt_register_commands(register)
        arguments = parser.parse_args(words)
        result: int = arguments.run(arguments)
        return result

    return run


_COMMANDS = """
import argparse, sys, eventbus_tasks_disk
parser = argparse.ArgumentParser()
commands = parser.add_subparsers()
eventbus_tasks_disk.ebt_register_commands(
    lambda name, help, configure: configure(commands.add_parser(name)))
arguments = parser.parse_args()
try:
    sys.exit(arguments.run(arguments))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def ebt_process(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Runs a command in a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str, merged: bool = False) -> subprocess.Popen[bytes]:
        """Start it; `merged` as at a terminal, where both streams are one."""
        stderr = subprocess.STDOUT if merged else subprocess.PIPE
        command = [sys.executable, "-c", _COMMANDS, *words]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()

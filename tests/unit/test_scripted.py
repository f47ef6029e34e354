"""The scripted program itself, where tests of other things rely on it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from eventbus_tasks.testing.agents import ScriptedCli

AT_ONCE = 24


def test_parallel_runs_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Many that begin at the same moment play their own scenarios, and one whole record is left."""
    fake = ScriptedCli(tmp_path / "bin", "agent")
    running = []
    for number in range(AT_ONCE):
        environment = {**os.environ, **fake.environment({"line": {"answer": f"answer {number}"}})}
        process = subprocess.Popen(
            [fake.executable],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        running.append(process)
    # Each has started and waits for the end of its input: now they all go on together.
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None  # communicate() would flush it
    for number, process in enumerate(running):
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")
        assert f'"answer {number}"'.encode() in output
    assert fake.record["stdin"] == b""
    assert not list(fake.directory.glob("*.part"))


def test_session_is_the_one_asked_for(tmp_path: Path) -> None:
    """The session of an argument stands in the lines."""
    fake = ScriptedCli(tmp_path / "bin", "agent")
    environment = {**os.environ, **fake.environment({"line": {"session": "$SESSION"}})}
    done = subprocess.run(
        [fake.executable, "--resume=s-1"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == b'{"session": "s-1"}\n'

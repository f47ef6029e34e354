"""The scripted Claude itself, where tests of other things rely on it."""

from __future__ import annotations

import os
import subprocess

from fake_claude import FakeClaude, init, result

AT_ONCE = 24


def test_parallel_runs_do_not_disturb_each_other(fake: FakeClaude) -> None:
    """Many that begin at the same moment play their own scenarios, and one whole record is left."""
    running = []
    for number in range(AT_ONCE):
        environment = {**os.environ, **fake.environment(init(), result(f"answer {number}"))}
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

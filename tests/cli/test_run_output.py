"""What ``ebt run -- command`` shows, and when."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eventbus_tasks import TaskCompleted, event_from_dict

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
WATCHERS = pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])


@BACKENDS
@WATCHERS
def test_line_is_shown_when_it_is_written(
    ebt: Any, gate: Any, terminal: bool, backend: str
) -> None:
    """A line can be read while the command waits to write the next one."""
    script = f"for i in 1 2 3; do echo line $i; {gate.wait}; done; exit 4"
    running = ebt("run", "--backend", backend, "--", "sh", "-c", script, terminal=terminal)
    for number in (1, 2, 3):
        seen = running.read_until(b"line %d" % number)
        assert b"line %d" % (number + 1) not in seen
        gate.open()
    assert running.wait()[0] == 4


@WATCHERS
def test_incomplete_line_is_shown(ebt: Any, gate: Any, terminal: bool) -> None:
    """A prompt without a line ending is shown while the command waits behind it."""
    running = ebt("run", "--", "sh", "-c", f"printf 'how much? '; {gate.wait}", terminal=terminal)
    running.read_until(b"how much? ")
    gate.open()
    assert running.wait()[0] == 0


def test_pipe_gets_every_byte_unchanged(ebt: Any, project: Path) -> None:
    """Whoever reads a pipe gets exactly what the command wrote: no byte more, less or changed."""
    script = (
        "import os; os.write(1, bytes(range(256)) + b'\\x1b[31mred\\r\\n\\xff' + b'x' * 100000)"
    )
    running = ebt("run", "--", sys.executable, "-I", "-S", "-c", script)
    assert running.wait() == (0, "")
    assert running.seen == bytes(range(256)) + b"\x1b[31mred\r\n\xff" + b"x" * 100000


def test_large_output_is_complete(ebt: Any) -> None:
    """Megabytes written at once by a command that ends at once arrive whole."""
    running = ebt("run", "--", "seq", "1", "700000")
    assert running.wait()[0] == 0
    assert running.seen == b"".join(b"%d\n" % number for number in range(1, 700001))


def test_terminal_is_safe(ebt: Any) -> None:
    """On a terminal control sequences, also ones written in pieces, have no effect."""
    script = "printf 'a\\033[3'; printf '1mred\\033[0m \\033]0;title\\007b\\n\\033[2Jc\\n'"
    running = ebt("run", "--", "sh", "-c", script, terminal=True)
    code, errors = running.wait()
    assert code == 0
    assert running.seen == b"ared b\r\nc\r\n"
    assert "done (" in errors


def test_standard_error_is_part_of_the_output(ebt: Any) -> None:
    """Both streams of a command arrive in the order in which they were written."""
    running = ebt("run", "--", "sh", "-c", "echo one; echo two >&2; echo three")
    assert running.wait() == (0, "")
    assert running.seen == b"one\ntwo\nthree\n"


def test_standard_input_of_a_command_is_empty(ebt: Any) -> None:
    """A command that reads comes to an end instead of waiting for ever."""
    running = ebt("run", "--", "cat", terminal=True)
    assert running.wait()[0] == 0


def test_arguments_arrive_as_they_are(ebt: Any) -> None:
    """Everything behind -- is the command's own, further dashes and options included."""
    words = ["--help", "--", "-C", "", "a b", "--timeout"]
    running = ebt("run", "--", "printf", "%s|", *words)
    assert running.wait() == (0, "")
    assert running.seen == b"--help|--|-C||a b|--timeout|"


@BACKENDS
def test_json_lines(ebt: Any, backend: str) -> None:
    """With --json each line is an event that can be read back; the last one is the end."""
    script = "echo one; echo two >&2; printf 'three \\033[1m'; exit 0"
    running = ebt("run", "--json", "--backend", backend, "-n", "n", "--", "sh", "-c", script)
    assert running.wait() == (0, "")
    events = [event_from_dict(json.loads(line)) for line in running.seen.splitlines()]
    assert events[0].name == "task.accepted"
    assert isinstance(events[-1], TaskCompleted)
    assert {event.task.name for event in events} == {"n"}
    lines = [event.to_dict()["text"] for event in events if event.name == "output.line"]
    assert lines == ["one", "two", "three \x1b[1m"]
    # A merged output event stands for all from its `first_seq` to its `seq`.
    numbers = [
        number
        for event in events
        if event.name != "output.line"
        for number in range(event.to_dict().get("first_seq") or event.seq, event.seq + 1)
    ]
    assert numbers == list(range(1, len(numbers) + 1))
    assert b"\x1b" not in running.seen


def test_json_tells_of_failure(ebt: Any) -> None:
    """With --json a failure is an event, and the exit code is the same as without."""
    running = ebt("run", "--json", "--", "sh", "-c", "exit 3")
    assert running.wait() == (3, "")
    last = json.loads(running.seen.splitlines()[-1])
    assert (last["event"], last["outcome"]["return_code"]) == ("task.failed", 3)


@BACKENDS
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["plain", "json"])
def test_reader_goes_away(
    ebt: Any, alive: Any, project: Path, backend: str, options: list[str]
) -> None:
    """`ebt run -- … | head -1` ends the command, says nothing, and exits like a broken pipe."""
    script = "echo $$ > pid; while :; do echo more; done"
    running = ebt("run", "--backend", backend, *options, "--", "sh", "-c", script)
    running.read_until(b"output.line" if options else b"more\n")
    running.close_output()
    assert running.wait() == (141, "")
    assert not alive(int((project / "pid").read_text()))


def test_reader_goes_away_from_a_silent_command(ebt: Any, gate: Any) -> None:
    """The command is ended at the first write that nobody reads, without waiting for another."""
    script = f"echo one; {gate.wait}; echo two; sleep 1000"
    running = ebt("run", "--", "sh", "-c", script)
    running.read_until(b"one\n")
    running.close_output()
    gate.open()
    assert running.wait() == (141, "")


def test_full_disk_is_told(ebt: Any, project: Path) -> None:
    """Output that cannot be written ends the command, with a message and a code of its own."""
    command = f"cd project; exec '{sys.executable}' -m eventbus_tasks run -- yes > /dev/full"
    # The outer ebt is only a convenient way to run a shell.
    running = ebt("run", "-C", str(project.parent), "--", "sh", "-c", command)
    code, _ = running.wait()
    assert code == 74
    assert running.seen == b"ebt: the output cannot be written: No space left on device\n"


@BACKENDS
def test_reader_that_does_not_read_stops_nothing(ebt: Any, backend: str) -> None:
    """With a full pipe the command runs on, and ebt can still be told to end."""
    script = "seq 1 200000; echo ready > ready; sleep 1000"
    running = ebt("run", "--backend", backend, "--", "sh", "-c", script)
    running.read_until(b"1\n")
    running.signal(signal.SIGTERM)
    # Its exit is waited for without reading the rest.
    assert running.process.wait(timeout=40) == 143


@BACKENDS
def test_reader_of_both_streams_that_does_not_read(project: Path, alive: Any, backend: str) -> None:
    """`ebt run -- … 2>&1 | less`: what ebt itself would say does not keep it from ending."""
    arguments = ["run", "--backend", backend, "--", "sh", "-c", "echo $$ > pid; exec yes"]
    out, inner = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "eventbus_tasks", *arguments],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=inner,
        stderr=inner,
    )
    try:
        while select.select((), (inner,), (), 0)[1]:
            assert process.poll() is None
            time.sleep(0.01)  # a full pipe tells nobody
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 143
    finally:
        process.kill()
        process.wait()
        os.close(inner)
        os.close(out)
    assert not alive(int((project / "pid").read_text()))


def test_reader_of_messages_that_does_not_read(ebt: Any, make_plugin: Any, project: Path) -> None:
    """What an agent writes to a standard error that nobody reads keeps nobody from stopping it."""
    source = """
        from eventbus_tasks import Command, hookimpl

        @hookimpl
        def ebt_register_agents(register):
            register("loud", "writes to standard error")

        @hookimpl
        def ebt_build_command(task):
            if task.agent == "loud":
                return Command(
                    argv=("sh", "-c", "echo $$ > pid; echo begun; exec yes >&2"),
                    stderr="separate",
                )
    """
    environ = make_plugin("loud", source)
    running = ebt("run", "--agent", "loud", "prompt", environ=environ)
    running.read_until(b"begun")
    assert running.process.stderr is not None
    # Read on a little: then it was full, and is being filled again.
    running.process.stderr.read(200_000)
    running.signal(signal.SIGTERM)
    assert running.process.wait(timeout=40) == 143

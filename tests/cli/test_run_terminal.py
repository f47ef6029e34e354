"""``ebt run --pty`` and ``ebt run -i``: commands at a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any

import pytest


def python(code: str) -> tuple[str, ...]:
    """Return a command that executes some Python."""
    return ("--", sys.executable, "-u", "-c", code)


def terminal_of(running: Any) -> list[Any]:
    """Return the state of the terminal at which somebody runs ``ebt``."""
    return termios.tcgetattr(running.out)


def type_in(running: Any, keys: bytes) -> None:
    """Type at that terminal."""
    os.write(running.out, keys)


def test_a_terminal_of_its_own(ebt: Any) -> None:
    """With --pty a command finds a terminal, of the usual size where nobody has one."""
    running = ebt("run", "--pty", "--", "sh", "-c", "test -t 0 && test -t 1 && stty size")
    code, errors = running.wait()
    assert (code, running.seen) == (0, b"24 80\r\n"), errors
    assert ebt("run", "--", "test", "-t", "1").wait()[0] == 1


def test_nobody_types_there(ebt: Any) -> None:
    """A command that asks at a terminal of its own finds the end of input, and no hang."""
    code, errors = ebt("run", "--pty", *python("input('name? ')")).wait()
    assert (code, errors) == (1, "")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_interactive(ebt: Any, backend: str) -> None:
    """Keys go to the command, what it shows is shown exactly, and the terminal is given back."""
    code = "name = input('name? '); print('\\x1b[1mhello', name)"
    running = ebt("run", "--backend", backend, "-i", *python(code), terminal=True)
    before = terminal_of(running)
    running.read_until(b"name? ")
    assert not terminal_of(running)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    type_in(running, b"you\r")
    running.read_until(b"hello you\r\n")
    code, _ = running.wait()
    assert code == 0
    assert running.seen.endswith(b"name? you\r\n\x1b[1mhello you\r\n")
    assert terminal_of(running) == before


def test_ctrl_c_is_a_key(ebt: Any) -> None:
    """Ctrl-C is for the command, which may live on; its exit code is that of the call."""
    code = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: print("interrupted"))
print("up")
for line in sys.stdin: sys.exit(7)
"""
    running = ebt("run", "-i", *python(code), terminal=True)
    running.read_until(b"up\r\n")
    type_in(running, b"\x03")
    running.read_until(b"interrupted\r\n")
    type_in(running, b"end\r")
    assert running.wait()[0] == 7


def test_size_of_the_window(ebt: Any) -> None:
    """A window that changes its size changes that of the command's terminal."""
    code = """
import os, signal
def show(*_): print(*os.get_terminal_size(0))
signal.signal(signal.SIGWINCH, show)
print("up")
while True: signal.pause()
"""
    running = ebt("run", "-i", *python(code), terminal=True)
    running.read_until(b"up\r\n")
    fcntl.ioctl(running.out, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    running.read_until(b"101 33\r\n")
    type_in(running, b"\x03")
    assert running.wait()[0] == 128 + signal.SIGINT


DEAF = """
import signal, tty
signal.signal(signal.SIGTERM, lambda *_: exit(0))
tty.setraw(0)
print("\\x1b[?1049h\\x1b[?25lup\\r\\n")
while True: signal.pause()
"""


LINGERING = """
    import anyio
    from eventbus_tasks import hookimpl

    async def linger(event):
        await anyio.sleep_forever()

    @hookimpl
    def ebt_engine_started(engine):
        engine.signals.task_completed.connect(linger)
"""


def test_keys_that_come_too_late(ebt: Any, make_plugin: Callable[..., dict[str, str]]) -> None:
    """Keys that are typed when the command has ended go nowhere, and change nothing."""
    environ = {**make_plugin("lingering", LINGERING), "EBT_RECEIVER_DEADLINE": "1"}
    running = ebt("run", "-i", *python("print('up')"), terminal=True, environ=environ)
    before = terminal_of(running)
    running.read_until(b"up\r\n")
    # A write at the moment in which its last user lets go of a terminal may never return.
    os.set_blocking(running.out, False)
    while running.process.poll() is None:
        with contextlib.suppress(OSError):  # full, or gone
            type_in(running, b"x")
        select.select([running.out], [], [], 0.01)
    os.set_blocking(running.out, True)
    code, errors = running.wait()
    assert code == 0, errors
    assert terminal_of(running) == before


@pytest.mark.parametrize("how", ["keys", "signal", "kill"])
def test_the_terminal_is_given_back(ebt: Any, how: str) -> None:
    """However it ends, by Ctrl-] three times, a signal, or its death: the terminal is as before."""
    running = ebt("run", "-i", *python("import os; print(os.getpid())\n" + DEAF), terminal=True)
    before = terminal_of(running)
    seen = running.read_until(b"up\r\n")
    if how == "keys":
        type_in(running, b"\x1d\x1d\x1d")
    elif how == "signal":
        running.signal(signal.SIGTERM)
    else:
        os.kill(int(seen.split()[0]), signal.SIGKILL)
    code, _ = running.wait()
    assert code == (128 + signal.SIGKILL if how == "kill" else 128 + signal.SIGTERM)
    assert terminal_of(running) == before
    if how == "kill":
        assert b"\x1b[?1049l" in running.seen
        assert b"\x1b[?25h" in running.seen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-i", "--", "true"], "-i needs a terminal"),
        (["-i", "--json", "--", "true"], "cannot go with --json"),
        (["--pty", "what to do"], "for commands"),
        (["--pty", "-i", "--", "true"], "not allowed with"),
    ],
)
def test_what_does_not_fit(ebt: Any, arguments: list[str], words: str) -> None:
    """What cannot be done is refused before anything starts."""
    code, errors = ebt("run", *arguments).wait()
    assert code == 2
    assert words in errors

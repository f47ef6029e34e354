"""Programs at a terminal of their own: what they see, what is typed, what is kept, what is left."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
from typing import Any

import anyio
import pytest

from eventbus_tasks._process import wire
from eventbus_tasks._process.family import children
from eventbus_tasks._process.pty import open_pty

from .conftest import Host, Run, alive, identity

pytestmark = pytest.mark.anyio

TERM = [{"signal": signal.SIGTERM, "scope": "tree", "grace": 5.0}]


def at_terminal(host: Host, *argv: str, **options: Any) -> Run:
    """Launch a program at a terminal."""
    return host.run(argv, capture="pty", **options)


def python(host: Host, code: str, **options: Any) -> Run:
    """Launch a Python program at a terminal."""
    return at_terminal(host, sys.executable, "-I", "-S", "-u", "-c", code, **options)


def keyboard() -> tuple[int, int]:
    """Return the two ends of what is typed."""
    return os.pipe2(os.O_CLOEXEC)


async def test_everything_is_the_terminal(host: Host) -> None:
    """All three streams are one terminal, the controlling one of a session of its own."""
    code = """
import os, sys
print([os.isatty(n) for n in (0, 1, 2)], os.ttyname(0) == os.ttyname(2))
print(os.getsid(0) == os.getpid() == os.tcgetpgrp(0))
os.write(os.open("/dev/tty", os.O_RDWR), b"by its name\\n")
print(sorted(os.listdir("/proc/self/fd"))[:3])
"""
    run = python(host, code)
    ended = await run.finish()
    assert ended.return_code == 0, run.output()
    assert run.output() == (
        b"[True, True, True] True\r\nTrue\r\nby its name\r\n['0', '1', '2']\r\n"
    )


async def test_size_and_name(host: Host) -> None:
    """A program finds the size that was asked for, and terminfo works."""
    run = at_terminal(host, "stty", "size", pty_size=(132, 43))
    await run.finish()
    assert run.output() == b"43 132\r\n"
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm"}
    run = at_terminal(host, "tput", "cols", env=environment, pty_size=(99, 9))
    await run.finish()
    assert run.output() == b"99\r\n"


async def test_a_new_size_is_told(host: Host) -> None:
    """A program that waits for SIGWINCH gets it, and finds the new size."""
    code = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
print("ready")
signal.sigwait({signal.SIGWINCH})
print(*os.get_terminal_size(1))
"""
    run = python(host, code)
    await run.output_has(b"ready")
    run.link.resize(111, 7)
    await run.finish()
    assert run.output().endswith(b"111 7\r\n")


async def test_a_question_is_answered(host: Host) -> None:
    """What is typed is echoed, as at any terminal, but for what a program does not want shown."""
    code = """
import getpass, os, sys
sys.path.append(os.path.dirname(os.__file__))
name = input("name? ")
secret = getpass.getpass("secret? ")
print(name, len(secret))
"""
    theirs, ours = keyboard()
    run = python(host, code, stdin=theirs)
    await run.output_has(b"name? ")
    os.write(ours, b"somebody\n")
    await run.output_has(b"secret? ")
    os.write(ours, b"12345\n")
    await run.output_has(b"somebody 5")
    os.close(ours)
    ended = await run.finish()
    assert ended.return_code == 0
    assert run.output() == b"name? somebody\r\nsecret? \r\nsomebody 5\r\n"


@pytest.mark.parametrize("typed", [b"", b"one\n", b"one\ntwo"])
async def test_the_end_of_what_is_typed(host: Host, typed: bytes) -> None:
    """A program that reads to the end gets everything and then the end, like from Ctrl-D."""
    code = """
import os, termios
mode = termios.tcgetattr(0)
mode[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, mode)
print(repr(open(0, "rb", closefd=False).read()))
"""
    theirs, ours = keyboard()
    run = python(host, "print('up')\n" + code, stdin=theirs)
    await run.output_has(b"up")
    os.write(ours, typed)
    os.close(ours)
    ended = await run.finish()
    assert ended.return_code == 0
    assert run.output().endswith(repr(typed).encode() + b"\r\n")


async def test_much_is_typed(host: Host) -> None:
    """Input far larger than a terminal holds arrives whole: nobody but its writer waits."""
    code = """
import sys, tty
tty.setraw(0)
sys.stdout.write("raw\\n")
size = total = 0
while size < 3_072_000:
    data = sys.stdin.buffer.raw.read(min(65536, 3_072_000 - size))
    size += len(data); total += sum(data)
print(size, total)
"""
    typed = bytes(range(256)) * 12_000
    theirs, ours = keyboard()
    run = python(
        host, "import os, sys; sys.path.append(os.path.dirname(os.__file__))" + code, stdin=theirs
    )
    await run.output_has(b"raw\n")

    def write() -> None:
        view = memoryview(typed)
        while view:
            view = view[os.write(ours, view) :]

    await anyio.to_thread.run_sync(write)
    os.close(ours)
    ended = await run.finish()
    assert ended.return_code == 0
    size, total = map(int, run.output().split(b"\n")[1].split())
    assert size == len(typed)
    assert total == sum(typed)


async def test_input_that_nobody_reads(host: Host) -> None:
    """A program that reads nothing is captured, and stopped, as any other."""
    theirs, ours = keyboard()
    run = at_terminal(host, "sh", "-c", "echo up; exec sleep 1000", stdin=theirs, steps=TERM)
    await run.output_has(b"up")
    os.set_blocking(ours, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(ours, b"line\n" * 1000)
    run.link.stop("cancelled")
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == ("cancelled", -signal.SIGTERM)
    os.close(ours)


async def test_a_flood_is_whole(host: Host) -> None:
    """Every byte of a flood is in the log, up to the last one before the end."""
    for _ in range(3):
        run = at_terminal(host, "seq", "100000")
        ended = await run.finish()
        expected = b"".join(b"%d\r\n" % n for n in range(1, 100_001))
        assert run.output() == expected
        assert ended.sizes == {"stdout": len(expected)}


async def test_last_words_are_kept(host: Host) -> None:
    """What was written immediately before the exit is there, time after time."""
    runs = [at_terminal(host, "printf", "last words %s", str(n)) for n in range(30)]
    for number, run in enumerate(runs):
        await run.finish()
        assert run.output() == f"last words {number}".encode()


async def test_ctrl_c_is_for_the_program(host: Host) -> None:
    """The interrupt character ends what runs in the foreground, and is no cancel of ours."""
    theirs, ours = keyboard()
    run = at_terminal(host, "sh", "-c", "echo up; exec sleep 1000", stdin=theirs)
    await run.output_has(b"up")
    os.write(ours, b"\x03")
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == (None, -signal.SIGINT)
    assert not run.all(wire.Stopping)
    os.close(ours)


async def test_a_terminal_that_is_closed_for_a_moment(host: Host) -> None:
    """A program that closes its streams and opens its terminal again is heard to its end."""
    # The pause is the case itself: time in which nobody but the guardian has the terminal open.
    code = """
import os, time
os.write(1, b"before\\n")
os.closerange(0, 3)
time.sleep(0.2)
os.write(os.open("/dev/tty", os.O_RDWR), b"after\\n")
"""
    run = python(host, code)
    ended = await run.finish()
    assert run.output() == b"before\r\nafter\r\n"
    assert ended.return_code == 0


async def test_leftovers_are_swept(host: Host) -> None:
    """What a program leaves behind at its terminal, deaf to hangups, is ended with the task."""
    code = """
import os, signal, sys
read, write = os.pipe()
for session in (0, 1):
    if not os.fork():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if session: os.setsid()
        os.write(write, b"%d\\n" % os.getpid())
        while True: signal.pause()
left = b""
while left.count(b"\\n") < 2: left += os.read(read, 100)
print(left.decode().split())
sys.stdout.flush()
signal.pause()
"""
    run = python(host, code, steps=TERM, exit_grace=0.0)
    text = await run.output_has(b"]")
    left = [identity(int(word)) for word in text.split(b"'")[1::2]]
    os.kill((await run.until(wire.Started)).pid, signal.SIGKILL)
    ended = await run.finish()
    assert ended.leftovers_killed == 2
    assert not any(map(alive, left))


async def test_hangup_at_the_end_of_the_leader(host: Host) -> None:
    """The foreground gets SIGHUP when the leader of the session has gone, as at any terminal."""
    code = """
import os, signal, sys
if not os.fork():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    print("up"); sys.stdout.flush()
    os.write(1, b"got %d" % signal.sigwait({signal.SIGHUP}))
    os._exit(0)
sys.stdin.readline()
"""
    theirs, ours = keyboard()
    run = python(host, code, stdin=theirs, exit_grace=10.0)
    await run.output_has(b"up")
    os.write(ours, b"\n")
    ended = await run.finish()
    assert run.output().endswith(b"got 1")
    assert ended.leftovers_killed == 0
    os.close(ours)


async def test_no_terminal_to_be_had() -> None:
    """With too few descriptors for a terminal it says what is missing, and leaves nothing open."""
    free = os.dup(0)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))
    try:
        with pytest.raises(OSError, match="no terminal to be had") as caught:
            open_pty(80, 24)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.errno == errno.EMFILE


async def test_full_disk(host: Host) -> None:
    """A program at a terminal whose log cannot be written goes on to its end; the loss is told."""
    before = resource.prlimit(host.warden.pid, resource.RLIMIT_FSIZE)
    for pid in (host.warden.pid, *children(host.warden.pid)):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, before[1]))
    run = at_terminal(host, "seq", "50000")
    ended = await run.finish()
    resource.prlimit(host.warden.pid, resource.RLIMIT_FSIZE, before)
    expected = b"".join(b"%d\r\n" % n for n in range(1, 50_001))
    assert ended.return_code == 0
    assert ended.sizes == {"stdout": len(expected)}
    assert ended.dropped == {"stdout": len(expected) - 100_000}
    assert sum(m.end - m.start for m in run.all(wire.Dropped)) == len(expected) - 100_000
    assert run.output() == expected[:100_000]

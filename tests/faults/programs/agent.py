"""A process of a task that does what a scene says, and keeps books about itself.

Usage: ``agent.py BOOK CODE``. CODE is Python, with the functions of this module at hand. Every
process writes its number and start time into BOOK/members before it does anything else, and each
that writes lines keeps in BOOK/ledger-<pid> how many it has written.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

BOOK, CODE = sys.argv[1:3]


def note() -> None:
    """Write this process into the book of truth."""
    with open("/proc/self/stat") as stat:
        start = stat.read().rpartition(")")[2].split()[19]
    book = os.open(f"{BOOK}/members", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(book, f"{os.getpid()} {start}\n".encode())
    os.close(book)


def ignore(*signals: int) -> None:
    """Ignore signals: the polite ones when none is named."""
    polite = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    for number in signals or polite:
        signal.signal(number, signal.SIG_IGN)


def out(data: bytes, descriptor: int = 1) -> None:
    """Write bytes, all of them."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def lines(count: int, pause: float = 0.0) -> None:
    """Write numbered lines, and note each when it has been written."""
    pid = os.getpid()
    ledger = os.open(f"{BOOK}/ledger-{pid}", os.O_RDWR | os.O_CREAT, 0o600)
    number = int(os.pread(ledger, 12, 0) or b"0")
    for _ in range(count):
        number += 1
        out(b"%d:%d:%s\n" % (pid, number, b"x" * (number % 50)))
        os.pwrite(ledger, b"%012d" % number, 0)
        if pause:
            time.sleep(pause)
    os.close(ledger)


def flag(name: str, text: str = "") -> None:
    """Make a flag file, whole."""
    with open(f"{BOOK}/{name}.new", "w") as file:
        file.write(text)
    os.rename(f"{BOOK}/{name}.new", f"{BOOK}/{name}")


def wait(name: str) -> None:
    """Wait until there is a flag file."""
    while not os.path.exists(f"{BOOK}/{name}"):
        time.sleep(0.003)


def rest() -> NoReturn:
    """Stay for ever."""
    while True:
        time.sleep(600)


def child(
    behave: Callable[[], object] = rest,
    *,
    session: bool = False,
    daemon: bool = False,
    stubborn: bool = False,
    wiped: bool = False,
    hidden: bool = False,
) -> int:
    """Fork, and return once the child is in the book.

    A daemon is forked twice, in a session of its own; a wiped one has no environment, a hidden
    one no descriptors either, and these only rest.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            if session or daemon:
                os.setsid()
            if daemon and os.fork():
                os._exit(0)
            if stubborn:
                ignore()
            note()
            if hidden or wiped:
                os.dup2(writer, 200, inheritable=False)
                os.closerange(0 if hidden else 3, 200)
                os.chdir("/")
                command = ["cron", "-I", "-S", __file__, BOOK, "rest()"]
                os.execve(sys.executable, command, {})
            os.write(writer, b".")
            os.close(writer)
            behave()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    if daemon:
        os.waitpid(pid, 0)
    return pid


def comet(pause: float = 0.0, session: bool = False) -> NoReturn:
    """Change the process number again and again: fork, and let the child go on."""
    while True:
        if os.fork():
            os._exit(0)
        note()
        if session:
            os.setsid()
        time.sleep(pause)


if __name__ == "__main__":
    note()
    exec(CODE, globals())

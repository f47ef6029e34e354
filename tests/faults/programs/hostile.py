"""A family of processes that does not want to end, and keeps books about itself.

Usage: ``hostile.py BOOK [HABIT]...``, in a directory where it may write. Before a process does
anything else it writes its number and start time into BOOK/members. Those that still have their
standard output write numbered lines, and after each into BOOK/ledger-<pid> that it was written.

Habits: ``stubborn`` ignores every polite signal; ``session`` has a child in a session of its own;
``daemon`` has one that was forked twice and has no descriptors and no environment; ``stopped``
has one that is stopped; ``forking`` forks short-lived children all the time; ``leaver`` exits at
once and leaves the others behind.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NoReturn


def note() -> None:
    """Write this process into the book of truth."""
    with open("/proc/self/stat") as stat:
        start = stat.read().rpartition(")")[2].split()[19]
    entry = f"{os.getpid()} {start}\n".encode()
    book = os.open(f"{BOOK}/members", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(book, entry)
    os.close(book)


def ignore() -> None:
    """Take no notice of anything polite."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def write(fork: bool = False) -> NoReturn:
    """Write numbered lines for ever, and note each when it has been written."""
    pid = os.getpid()
    ledger = os.open(f"{BOOK}/ledger-{pid}", os.O_WRONLY | os.O_CREAT, 0o600)
    number = 0
    while True:
        number += 1
        os.write(1, b"%d:%d:%s\n" % (pid, number, b"x" * (number % 200)))
        os.pwrite(ledger, b"%012d" % number, 0)
        if fork and number % 10 == 0 and not os.fork():
            note()
            time.sleep(0.05)
            os._exit(0)
        while fork and reap():
            pass
        time.sleep(0.001)


def reap() -> bool:
    """Reap one child, if there is one."""
    try:
        return bool(os.waitpid(-1, os.WNOHANG)[0])
    except ChildProcessError:
        return False


def rest() -> NoReturn:
    """Stay for ever."""
    while True:
        time.sleep(600)


BOOK, *HABITS = sys.argv[1:]


def main() -> None:
    """Behave."""
    note()
    if "again" in HABITS:  # the daemon, with its new program
        ignore()
        rest()
    if "stubborn" in HABITS:
        ignore()
    if "session" in HABITS and not os.fork():
        note()
        os.setsid()
        write()
    if "daemon" in HABITS and not os.fork():
        note()
        os.setsid()
        if os.fork():
            os._exit(0)
        note()
        os.closerange(0, 256)
        os.chdir("/")
        os.execve(sys.executable, ["cron", "-I", "-S", __file__, BOOK, "again"], {})
    if "stopped" in HABITS and not os.fork():
        note()
        os.kill(os.getpid(), signal.SIGSTOP)
        rest()
    if "leaver" in HABITS:
        os._exit(0)
    write("forking" in HABITS)


main()

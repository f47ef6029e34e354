"""The rehearsal of a warden: what it leaves behind, and what happens where there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eventbus_tasks._process.family import children
from eventbus_tasks._process.handle import WardenClient

from .conftest import GUARD, wait_until

REHEARSE = """
import os, signal, sys
from eventbus_tasks._process import rehearsal, spawn
from eventbus_tasks._process.board import Board
from eventbus_tasks._process.family import children
board, host = Board(), os.pidfd_open(os.getpid())
before = sorted(os.listdir("/proc/self/fd"))
free = len(board._free)
{first}
terminated = rehearsal.rehearse(board, host)
print(
    terminated,
    sorted(os.listdir("/proc/self/fd")) == before,
    len(board._free) == free,
    children(os.getpid()),
    spawn.fork is os.fork,
    signal.set_wakeup_fd(-1),
)
"""


def rehearse(first: str = "") -> list[str]:
    """Rehearse in a process of its own, and return what it has printed."""
    process = subprocess.run(
        [sys.executable, "-c", REHEARSE.format(first=first)],
        capture_output=True,
        check=True,
        text=True,
        timeout=GUARD,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    return process.stdout.split()


NOTHING = ["True", "True", "[]", "True", "-1"]


def test_nothing_is_left() -> None:
    """Afterwards there is no descriptor, child, slot in use or wake-up pipe that was not before."""
    assert rehearse() == ["False", *NOTHING]


def test_without_a_shell() -> None:
    """Where the shell cannot be started there is no rehearsal, and nothing is left of it either."""
    assert rehearse('rehearsal._SHELL = "/nowhere/sh"') == ["False", *NOTHING]


def test_shell_that_ends_at_once() -> None:
    """A shell that does not wait is reaped once, and no other process is signalled for it."""
    assert rehearse('rehearsal._SHELL = "/bin/true"') == ["False", *NOTHING]


def test_without_descriptors() -> None:
    """A rehearsal that runs out of descriptors is broken off, and gives back what it has taken."""
    first = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))"
    assert rehearse(first) == ["False", *NOTHING]


@pytest.mark.parametrize("round", [0, 5, 9])
def test_sigterm_meanwhile(round: int) -> None:
    """A SIGTERM in any round is not lost: whoever rehearses hears of it."""
    first = f"""
rounds = iter(range(100))
go = rehearsal._go_through
def through(*given, **options):
    go(*given, **options)
    if next(rounds) == {round}:
        os.kill(os.getpid(), signal.SIGTERM)
rehearsal._go_through = through
"""
    assert rehearse(first) == ["True", *NOTHING]


BEFORE_A_CALL = """
calls = iter(range(1, 10**9))
def watch(frame, event, argument):
    if event in ("call", "c_call") and next(calls) == {call}:
        {kill}
go = rehearsal._go_through
def through(*given, **options):
    sys.setprofile(watch)
    try:
        go(*given, **options)
    finally:
        sys.setprofile(None)
rehearsal._go_through = through
"""
TERMINATE = "os.kill(os.getpid(), signal.SIGTERM)"


@pytest.mark.parametrize("call", range(150, 400, 10))
def test_sigterm_to_the_shell_as_well(call: int) -> None:
    """A service manager that signals everybody is heard, though the shell is gone by then."""
    kill = f"""
        for shell in children(os.getpid()):
            os.kill(shell, signal.SIGKILL)
            os.waitid(os.P_PID, shell, os.WEXITED | os.WNOWAIT)
        {TERMINATE}"""
    assert rehearse(BEFORE_A_CALL.format(call=call, kill=kill)) == ["True", *NOTHING]


@pytest.mark.parametrize("call", [*range(120, 400, 20), *range(400, 1900, 300)])
def test_sigterm_before_any_call(call: int) -> None:
    """A SIGTERM before any call of a rehearsal is heard of, and nothing is left behind."""
    first = 'signal.signal(signal.SIGTERM, lambda *_: sys.exit("nobody was there to hear it"))'
    first += BEFORE_A_CALL.format(call=call, kill=TERMINATE)
    assert rehearse(first) == ["True", *NOTHING]


def test_who_is_there_before_the_first_task() -> None:
    """A warden has its fork server below it and a guardian that waits, and nobody else."""

    def name(pid: int) -> str:
        return Path(f"/proc/{pid}/comm").read_text().strip()

    warden = WardenClient.start()
    try:
        assert name(warden.pid) == "ebt-warden"
        expected = ["ebt-forkserver", "ebt-guardian"]
        wait_until(lambda: sorted(map(name, children(warden.pid))) == expected)
        assert not any(map(children, children(warden.pid)))
    finally:
        warden.close()
        assert warden.reap(GUARD)


def test_warden_that_was_killed_is_known_at_once() -> None:
    """That a warden was killed shows as soon as the signal is sent, and from then on."""
    for _ in range(20):
        warden = WardenClient.start()
        try:
            assert not warden.ending
            os.kill(warden.pid, signal.SIGKILL)
            while not warden.reap(0):
                assert warden.ending
            assert warden.ending
        finally:
            warden.close()


ADAPTED = """
import dis
from eventbus_tasks._process import family, guardian, leader
def adapted(function):
    plain = [i.opname for i in dis.get_instructions(function)]
    now = [i.opname for i in dis.get_instructions(function, adaptive=True)]
    return sum(one != other for one, other in zip(plain, now, strict=True))
functions = [leader.start_at_once, guardian.Guardian._go_on, guardian.Guardian._wait,
             family.stat_fields]
print(*map(adapted, functions))
"""


def test_code_has_adapted_before_the_first_fork() -> None:
    """What guardians run has met what it will meet, so they need not adapt their copies of it."""
    before = map(int, rehearse(ADAPTED)[:4])
    told = rehearse(f"import atexit\natexit.register(exec, {ADAPTED!r}, {{}})")
    after = map(int, told[-4:])
    assert all(less < more for less, more in zip(before, after, strict=True))

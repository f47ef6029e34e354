"""Guardians that are there before their task, and what happens where they are not."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from eventbus_tasks._process import handle, wire
from eventbus_tasks._process.board import Board
from eventbus_tasks._process.family import children, read_process
from eventbus_tasks._process.forkserver import ForkServer, Inherited

from .conftest import GUARD, Host, alive, identity, open_host, wait_until

pytestmark = pytest.mark.anyio


def name(pid: int) -> str:
    """Return what a process calls itself; nothing for one that has gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def below(host: Host, what: str) -> list[int]:
    """Return the children of a host's warden that have a name."""
    return [pid for pid in children(host.warden.pid) if name(pid) == what]


def fork_server(host: Host) -> int:
    """Wait for the fork server of a host's warden, and return its number."""
    wait_until(lambda: below(host, "ebt-forkserver"))
    return below(host, "ebt-forkserver")[0]


def spare(host: Host) -> int:
    """Wait for a guardian without a task, while there is no other one, and return its number."""
    wait_until(lambda: below(host, "ebt-guardian"))
    return below(host, "ebt-guardian")[0]


def parent_of(pid: int) -> int:
    """Return the number of a living process's parent."""
    process = read_process(pid)
    assert process is not None
    return process.parent


async def test_guardian_is_there_before_its_task(host: Host) -> None:
    """The guardian that waits gets the task, is a child of the warden, and another one comes."""
    first = spare(host)
    started = await (run := host.run(["sleep", "600"])).until(wire.Started)
    assert parent_of(started.pid) == first
    assert parent_of(first) == host.warden.pid
    wait_until(lambda: len(below(host, "ebt-guardian")) == 2)
    run.link.stop("cancelled", now=True)
    await run.finish()


async def test_guardian_knows_nothing_of_other_tasks(host: Host) -> None:
    """A guardian has no descriptor of another task, so that it can keep nothing of it."""
    run = host.run(["sleep", "600"])
    await run.until(wire.Started)

    def opened(pid: int) -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    other = host.run(["sleep", "600"])
    guardians = [parent_of((await one.until(wire.Started)).pid) for one in (run, other)]
    wait_until(lambda: opened(guardians[0]) == opened(guardians[1]))
    for one in (run, other):
        one.link.stop("cancelled", now=True)
        await one.finish()


@pytest.mark.parametrize("whom", ["fork server", "spare", "both"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_of_them_is_lost(host: Host, whom: str, how: signal.Signals) -> None:
    """Whatever becomes of fork server and waiting guardian, tasks run, and both are replaced."""
    server, waiting = fork_server(host), spare(host)
    victims = {"fork server": [server], "spare": [waiting], "both": [server, waiting]}[whom]
    members = [identity(victim) for victim in victims]
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):  # it ends with the fork server
            os.kill(victim, how)
    if how is signal.SIGKILL:
        wait_until(lambda: not any(map(alive, members)))
    if how is signal.SIGSTOP and waiting in victims:
        # It gets the task; whoever stops that has it go on.
        run = host.run(["sleep", "600"])
        run.link.stop("cancelled")
        assert (await run.finish()).reason == "cancelled"
    for _ in range(3):
        run = host.run(["sh", "-c", "echo hello; exit 3"])
        ended = await run.finish()
        assert (ended.return_code, run.output()) == (3, b"hello\n")
    wait_until(lambda: fork_server(host) not in victims and spare(host) not in victims)


async def test_guardian_is_killed_and_the_next_one_waits(host: Host) -> None:
    """While orphans are swept there is no fork server; after the next task there is one again."""
    server = fork_server(host)
    run = host.run(["sleep", "600"])
    leader = (await run.until(wire.Started)).pid
    os.kill(parent_of(leader), signal.SIGKILL)
    await run.released()
    run.only(wire.GuardianLost)
    assert not name(leader)
    assert not below(host, "ebt-forkserver")
    run = host.run(["true"])
    assert (await run.finish()).return_code == 0
    assert fork_server(host) != server


async def test_warden_is_killed(host: Host) -> None:
    """Fork server and waiting guardian end with their warden, even when they were stopped."""
    members = [identity(fork_server(host)), identity(spare(host))]
    os.kill(members[0][0], signal.SIGSTOP)
    os.kill(members[1][0], signal.SIGSTOP)
    os.kill(host.warden.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, members)))


async def test_nothing_is_left_of_them(tmp_path: Path) -> None:
    """When the warden has ended nobody is left whom it has made."""
    async with open_host(tmp_path) as host:
        members = [identity(fork_server(host)), identity(spare(host))]
        host.warden.close()
        assert host.warden.reap(GUARD)
        assert not any(map(alive, members))


async def test_number_of_one_that_was_reaped_is_not_used() -> None:
    """A guardian that has ended before the warden hears its number is none: others may have it."""
    board = Board()
    server = ForkServer(Inherited(0, 0, board, None))
    server._born, born = os.pipe()
    for reaped in (set(), {4_000_001}):
        server._ordered, waiting = socket.socketpair()
        for pid in reaped:
            server.reaped(pid)
        os.write(born, (4_000_001).to_bytes(8, sys.byteorder))
        spare = server.take()
        assert (spare is None) == bool(reaped)
        if spare is not None:
            spare.close()
        assert waiting.recv(1) == b""
        waiting.close()
    os.close(born)
    os.close(server._born)
    board.close()


REFUSED = """
from eventbus_tasks._process import linux
def fork_sibling():
    raise OSError(38, "refused")
linux.fork_sibling = fork_sibling
"""


async def test_where_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a filter refuses such forks the warden forks guardians itself."""
    boot = f"exec({REFUSED!r})\nfrom eventbus_tasks._process.warden import main"
    plain = "from eventbus_tasks._process.warden import main"
    monkeypatch.setattr(handle, "_BOOT", handle._BOOT.replace(plain, boot, 1))
    async with open_host(tmp_path) as host:
        for _ in range(3):
            run = host.run(["sh", "-c", "echo hello; exit 5"])
            assert ((await run.finish()).return_code, run.output()) == (5, b"hello\n")
        wait_until(lambda: not below(host, "ebt-guardian"))

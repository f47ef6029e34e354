"""What guardians will do is done in the warden first, before it forks any of them.

A forked process shares its memory with the one it was forked from, until either of them writes to
it. CPython writes whenever it runs code for the first times: it counts calls, replaces
instructions by others that suit what they have met (PEP 659), and remembers where it has found a
name. Each guardian would do all of that again, for the same code with the same result, and would
have to copy each page for it: a silent task takes half as much again (1.6 instead of 1.1 MiB,
measured with CPython 3.11), and its start a millisecond more.

So the warden goes through the start of a guardian some times, with everything but a fork: its
leader is one and the same shell, which waits for input that never comes.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import signal
import socket
from typing import Final

from eventbus_tasks._process import spawn, vfork
from eventbus_tasks._process.board import Board
from eventbus_tasks._process.descriptors import (
    Descriptors,
    be_a_guardian,
    close_all,
    close_others,
)
from eventbus_tasks._process.dispositions import block_handled
from eventbus_tasks._process.forkserver import Inherited, Practice, Spare, await_task
from eventbus_tasks._process.guardian import Guardian
from eventbus_tasks._process.sample import FILE, PACKET

__all__ = ["rehearse"]

_ROUNDS: Final = 10
"""CPython 3.11 begins to adapt code at its eighth call."""

_SHELL: Final = "/bin/sh"


def rehearse(board: Board, host: int, *, forks: bool = False) -> bool:
    """Go through the start of a guardian, in a process that has nothing else to do yet.

    Afterwards the signals of wardens are blocked, and there is nothing that was not there before.
    Where there is no shell, nothing is done.

    Args:
        board: From which guardians get their slots.
        host: Descriptor of the host's process.
        forks: Whether guardians will fork for their programs, come what may.

    Returns:
        Whether a SIGTERM came meanwhile.
    """
    kept = sorted(filter(_is_open, map(int, os.listdir("/proc/self/fd"))))
    guardians: list[Guardian] = []
    wait, never = os.pipe2(os.O_CLOEXEC)
    leader = 0
    clone = vfork.clone
    try:
        vfork.try_out()
        leader = os.posix_spawn(
            _SHELL,
            ["sh", "-c", "read line"],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, wait, 0)],
        )
        spawn.fork = lambda: leader
        vfork.clone = lambda *_: leader
        for _ in range(_ROUNDS):
            vfork.prepare()
            block_handled()  # as it will be, until there is a guardian that can handle it
            _go_through(board, host, guardians, forks=forks)
            be_a_guardian(sorted([*kept, wait, never]))
            if guardians[-1].terminations:
                break
    except OSError:
        pass  # no shell, or no descriptors: then guardians are bigger than they could be
    finally:
        vfork.prepare()
        block_handled()
        spawn.fork = os.fork
        vfork.clone = clone
        if leader:
            _end(leader)
        signal.set_wakeup_fd(-1)
        close_others(kept)
    return any(guardian.terminations for guardian in guardians)


def _go_through(board: Board, host: int, guardians: list[Guardian], *, forks: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tasks, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    waiting = _socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, other.detach())
    slot = board.take()
    try:
        spec = os.memfd_create("ebt-rehearsal", os.MFD_CLOEXEC)
        os.write(spec, FILE)
        pipe, end = os.pipe2(os.O_CLOEXEC)
        descriptors = Descriptors(
            control=theirs.detach(),
            bell=os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),
            spec=spec,
            stdin=os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC),
            stdout=os.memfd_create("ebt-rehearsal", os.MFD_CLOEXEC),
            host=os.dup(host),
            stdout_pipe=pipe,
            stdout_end=end,
            rendezvous=os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),
        )
        inherited = Inherited(descriptors.host, os.dup(host), board, None)
        if not forks:
            Practice().go_through(inherited)
        offset = -1 if slot is None else slot.offset
        Spare(0, tasks).give(PACKET, descriptors, 1024, offset, at_once=not forks)
        close_all(descriptors.numbers(but=(descriptors.host,)))
        guardian = await_task(waiting, inherited)
        if guardian is not None:
            guardians.append(guardian)
            guardian.rehearse()
    finally:
        if slot is not None:
            board.give_back(slot)
        ours.detach()
        tasks.detach()
        waiting.detach()


def _end(child: int) -> None:
    # A guardian has reaped it if it has ended by itself; then the number is not ours any more.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True

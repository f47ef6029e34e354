"""Guardians that are there before their task.

To fork takes as long as there is memory, and afterwards each of the two has to copy what it writes
to: the guardian, and the warden as well when it goes on. So the warden does not fork guardians
itself. It has a fork server, a fork of it that was made as soon as it was ready, which does nothing
but fork again: what it hands down stays shared, for it hardly writes to anything. Its forks are
children of the warden (``CLONE_PARENT``, clone(2)). One at a time, they wait for a task.

Nothing here has to be there: where a fork server or a guardian that waits is missing, the warden
forks. All of them end with the warden, whatever becomes of it.
"""

from __future__ import annotations

import _socket
import array
import contextlib
import marshal
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from eventbus_tasks._process import launch, linux
from eventbus_tasks._process.board import Board
from eventbus_tasks._process.descriptors import (
    PLACES,
    Descriptors,
    be_a_guardian,
    close_all,
    close_others,
)
from eventbus_tasks._process.dispositions import block_handled, unblock_all
from eventbus_tasks._process.guardian import GUARDIAN_FAILED, Guardian
from eventbus_tasks._process.leader import prepare, start_at_once, tell
from eventbus_tasks._process.sample import FILE, PACKET

__all__ = ["SETTLE", "ForkServer", "Inherited", "Practice", "Spare", "await_task"]

_PATIENCE: Final = 1000
"""Milliseconds that the warden waits for a guardian that is being made, which takes one or two."""

SETTLE: Final = 20
"""Milliseconds that the warden leaves the processor to a guardian that starts its program."""

_MOST: Final = len(PLACES)
_RIGHTS: Final = socket.CMSG_LEN(_MOST * 4)
_ONE: Final = socket.CMSG_LEN(4)
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_KILL: Final = int(signal.SIGKILL)
_FAMILY: Final = int(socket.AF_UNIX)
_TYPE: Final = int(socket.SOCK_SEQPACKET)
_NUMBER: Final = 8  # bytes of the number of a process
_ROOM: Final = launch.MOST + 4096


class Inherited:
    """What guardians have from their warden.

    Attributes:
        host: The host's process.
        warden: Socket to the warden.
        board: What they share with it.
        cgroups: Below which control group tasks get their own, if they can have one.
        room: For a task.
    """

    __slots__ = ("board", "cgroups", "host", "room", "warden")

    def __init__(self, host: int, warden: int, board: Board, cgroups: str | None) -> None:
        """All of it stays the caller's."""
        self.host = host
        self.warden = warden
        self.board = board
        self.cgroups = cgroups
        self.room = memoryview(bytearray(_ROOM))


class Spare:
    """A guardian without a task, as its warden sees it.

    Attributes:
        pid: Its number.
    """

    def __init__(self, pid: int, connection: socket.socket) -> None:
        """Take over the connection at which it waits."""
        self.pid = pid
        self._connection = connection

    def give(
        self, packet: bytes, descriptors: Descriptors, nofile: int, slot: int, *, at_once: bool
    ) -> None:
        """Give it a task.

        Args:
            packet: The `launch.LaunchRequest`.
            descriptors: What it has not inherited; they stay the caller's.
            nofile: Soft limit of open files.
            slot: Where on the board its slot is; -1 if it has none.
            at_once: Whether it may start the program without a fork.

        Raises:
            OSError: It has gone, or the kernel refuses to pass something on.
        """
        places, numbers = [], []
        for name, place in PLACES.items():
            number = getattr(descriptors, name)
            if number is not None and name not in ("host", "warden", "board"):
                places.append(place)
                numbers.append(number)
        values = (places, nofile, slot, at_once, marshal.loads(packet))
        socket.send_fds(self._connection, [marshal.dumps(values)], numbers)

    def settle(self) -> None:
        """Wait until its program is on its way, but not long, and close the connection.

        What there is to do here can wait for that: it would take the processor away.
        """
        poll = select.poll()
        poll.register(self._connection, 0)  # hung up when the host has been told
        poll.poll(SETTLE)
        self.close()

    def close(self) -> None:
        """Close the connection: it ends if it has no task."""
        self._connection.close()

    def end(self) -> None:
        """End it, and reap it."""
        self.close()
        _end(self.pid)


class _Task:
    """A task as it comes to its guardian."""

    __slots__ = ("at_once", "fds", "nofile", "offset", "request")

    def __init__(self, values: Sequence[Any], content: bytes, inherited: Inherited) -> None:
        """Understand what `Spare.give` has sent."""
        places, self.nofile, self.offset, self.at_once, plain = values
        given: list[Any] = [None] * _MOST
        numbers = memoryview(content).cast("i")
        for place, number in zip(places, numbers):  # noqa: B905 - an argument more is a page more
            given[place] = number
        self.fds = fds = Descriptors(*given)
        fds.host, fds.warden = inherited.host, inherited.warden
        fds.board = inherited.board.descriptor
        self.request = launch.restored(plain)


def await_task(connection: _socket.socket, inherited: Inherited) -> Guardian | None:
    """Wait for a task, start it, and return its guardian; ``None`` if none will come.

    Args:
        connection: The other end of the spare's; it is closed.
        inherited: What else there is.

    Raises:
        ValueError: Descriptors got lost on the way, because a limit was reached.
    """
    room = inherited.room
    size, travelling, _, _ = connection.recvmsg_into([room], _RIGHTS, _CLOEXEC)
    if not size:
        return None
    linux.set_parent_death_signal(0)  # from here on it does not need its warden
    task = _Task(marshal.loads(room[:size]), travelling[0][2], inherited)
    request, fds = task.request, task.fds
    start = prepare(request, fds, task.nofile) if task.at_once else None
    if start is not None:
        start_at_once(start, request, fds)
    connection.close()
    slot = None if task.offset < 0 else inherited.board.at(task.offset)
    return Guardian(fds, request, task.nofile, inherited.cgroups, slot, start)


class Practice:
    """A sample, with which guardians that wait touch what they will need.

    Each page that they touch is copied, and that takes longer than what they do with it. So they do
    it once before anybody waits for them.
    """

    def __init__(self) -> None:
        """Prepare; the descriptors `spec` and `null` are the caller's.

        Raises:
            OSError: There is no descriptor or no memory to be had.
        """
        self.spec = os.memfd_create("ebt-sample", os.MFD_CLOEXEC)
        os.write(self.spec, FILE)
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        given = dict.fromkeys(("control", "bell", "stdin", "stdout"), self.null)
        given |= {"stdout_pipe": self.null, "stdout_end": self.null, "spec": self.spec}
        places = [PLACES[name] for name in given]
        self._content = array.array("i", given.values()).tobytes()
        values = (places, 1024, -1, True, marshal.loads(PACKET))
        self._data = memoryview(marshal.dumps(values))

    def go_through(self, inherited: Inherited) -> None:
        """Do what `await_task` does, but for the program."""
        task = _Task(marshal.loads(self._data), self._content, inherited)
        start = prepare(task.request, task.fds, task.nofile)
        if start is not None:
            start.loaded.programs = ()
            start_at_once(start, task.request, task.fds)
            start.pid = os.getppid()
            try:
                tell(start, task.fds.control)
            except OSError:
                pass  # where nobody may look at others


class ForkServer:
    """The fork server, as its warden sees it, and the guardian that it has made."""

    def __init__(self, inherited: Inherited) -> None:
        """Begin without one."""
        self._inherited = inherited
        self._pid = 0
        self._orders: socket.socket | None = None
        self._born = -1
        self._ordered: socket.socket | None = None  # of the guardian that is being made
        self._reaped: set[int] = set()  # whoever has ended since then: its number is free
        self._spare: Spare | None = None

    def begin(self) -> None:
        """Have a fork server, if that is possible, and a guardian from it that waits."""
        if not self._pid:
            self._start()
        if self._orders is not None and self._ordered is None and self._spare is None:
            with contextlib.suppress(OSError):  # without it the warden forks
                self._ordered = self._order(self._orders)

    def _start(self) -> None:
        theirs: list[int] = []
        try:
            with contextlib.ExitStack() as undo:
                practice = Practice()
                theirs += (practice.spec, practice.null)
                ours, other = socket.socketpair(_FAMILY, _TYPE)
                undo.callback(ours.close)
                theirs.append(orders := other.detach())
                born, end = os.pipe2(os.O_CLOEXEC)
                undo.callback(os.close, born)
                theirs.append(end)
                # For good in the fork server, until they are guardians in its forks.
                block_handled()
                try:
                    self._pid = os.fork()
                    if not self._pid:
                        _serve(orders, end, self._inherited, practice)
                finally:
                    unblock_all()
                undo.pop_all()
        except OSError:
            return
        finally:
            close_all(theirs)
        self._orders, self._born = ours, born

    def _order(self, orders: socket.socket) -> socket.socket:
        """Have a guardian made, and return where it will wait.

        Raises:
            OSError: There are no descriptors left, or the fork server has gone.
        """
        ours, theirs = socket.socketpair(_FAMILY, _TYPE)
        with theirs:
            try:
                socket.send_fds(orders, [b"\0"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def take(self) -> Spare | None:
        """Return a guardian that waits for a task, or will soon; ``None`` if there is none."""
        if self._ordered is not None and not self._collect(self._ordered):
            self.end()  # somebody has stopped it, or worse
        spare, self._spare = self._spare, None
        return spare

    def _collect(self, connection: socket.socket) -> bool:
        """Wait for the guardian that is being made, and return whether it is known what became."""
        poll = select.poll()
        poll.register(self._born, select.POLLIN)
        if not poll.poll(_PATIENCE):
            return False
        self._ordered = None
        # 0 when it could not be made, nothing when there is nobody to make it: the warden tries it,
        # and tells why.
        pid = int.from_bytes(os.read(self._born, _NUMBER), sys.byteorder)
        if pid and pid not in self._reaped:
            self._spare = Spare(pid, connection)
        else:
            connection.close()
        self._reaped.clear()
        return True

    def reaped(self, pid: int) -> None:
        """Some child of the warden has ended, and was reaped."""
        if self._ordered is not None:
            self._reaped.add(pid)
        if pid == self._pid:
            self._forget()
        elif self._spare is not None and pid == self._spare.pid:
            self._spare.close()
            self._spare = None

    def end(self) -> None:
        """End the fork server, and the guardian that waits."""
        pid, self._pid = self._pid, 0
        if pid:
            _end(pid)
            if self._ordered is not None:
                self._collect(self._ordered)  # it is there already, or will never be
            self._forget()
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()

    def _forget(self) -> None:
        self._pid = 0
        os.close(self._born)
        for one in (self._orders, self._ordered):
            if one is not None:
                one.close()
        self._orders = self._ordered = None
        self._reaped.clear()


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, _KILL)  # a child that nobody has reaped
        os.waitpid(pid, 0)


def _serve(orders: int, born: int, inherited: Inherited, practice: Practice) -> NoReturn:
    """Be the fork server; never returns into the warden's loop."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        linux.set_process_name(b"ebt-forkserver")
        linux.set_parent_death_signal(_KILL)
        kept = [0, 1, 2, inherited.host, inherited.warden, inherited.board.descriptor]
        close_others(sorted([*kept, orders, born, practice.spec, practice.null]))
        listening = _socket.socket(_FAMILY, _TYPE, 0, orders)
        while True:
            order, travelling, _, _ = listening.recvmsg(1, _ONE, _CLOEXEC)
            if not order:
                break
            number = int.from_bytes(travelling[0][2][:4], sys.byteorder)
            connection = _socket.socket(_FAMILY, _TYPE, 0, number)
            try:
                child = linux.fork_sibling()
            except OSError:
                child = -1
            if not child:
                _wait_and_live([*kept, number], connection, inherited, practice)
            connection.close()
            os.write(born, max(0, child).to_bytes(_NUMBER, sys.byteorder))
        code = 0
    finally:
        os._exit(code)


def _wait_and_live(
    kept: list[int], connection: _socket.socket, inherited: Inherited, practice: Practice
) -> NoReturn:
    """Be a guardian, in a fork."""
    code = GUARDIAN_FAILED
    try:
        linux.set_parent_death_signal(_KILL)
        practice.go_through(inherited)
        kept.sort()
        be_a_guardian(kept)
        guardian = await_task(connection, inherited)
        if guardian is not None:
            guardian.run()
        code = 0
    finally:
        os._exit(code)

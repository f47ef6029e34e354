"""A guardian hangs, and the warden carries out its ladder."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks._process import wire
from eventbus_tasks._process.board import Board, Slot, State
from eventbus_tasks._process.family import children, read_process
from eventbus_tasks._process.guardian import Descriptors, Guardian
from eventbus_tasks._process.ladder import KILL, Ladder, Policy, Rung
from eventbus_tasks._process.launch import LaunchRequest

from .conftest import GUARD, alive, wait_until
from .test_stop import FAMILY, SHORT, STUBBORN

if TYPE_CHECKING:
    from .conftest import Host, Run

Book = Callable[[int], list[tuple[int, int]]]

POLITE = (
    STUBBORN
    + """
import time
def bye(*_): os.write(1, b"bye"); os._exit(9)
signal.signal(15, bye)
print("ready", flush=True)
rest()
"""
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000


def trace(request: int, pid: int) -> None:
    """Call `ptrace`."""
    if _libc.ptrace(request, pid, None, None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """Keep a process from doing anything, as a debugger does; signals do not change that."""
    try:
        trace(_SEIZE, pid)
    except PermissionError:
        pytest.skip("nobody may be traced here")
    trace(_INTERRUPT, pid)
    os.waitpid(pid, _WALL)
    try:
        yield
    finally:
        trace(_DETACH, pid)


async def guardian_of(run: Run) -> int:
    """Return the number of a run's guardian."""
    leader = read_process((await run.until(wire.Started)).pid)
    assert leader is not None
    return leader.parent


async def signals(run: Run, count: int) -> list[int]:
    """Wait until so many signals have been told, and return them."""
    with anyio.fail_after(GUARD):
        while len(run.all(wire.SignalSent)) < count:
            await run.link.wait_readable()
            run.messages += run.link.poll()
    return [message.signal for message in run.all(wire.SignalSent)]


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
async def test_guardian_that_was_stopped(host: Host, book: Book, number: signal.Signals) -> None:
    """A guardian that somebody has stopped goes on when its task has to end."""
    run = host.python(FAMILY + "note(); rest()", steps=SHORT)
    guardian = await guardian_of(run)
    members = book(3)
    os.kill(guardian, number)
    run.link.stop("cancelled")
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == ("cancelled", -9)
    assert not any(map(alive, members))
    assert await signals(run, 2) == [15, 9]


@pytest.mark.anyio
async def test_whole_ladder_of_a_hanging_guardian(host: Host, book: Book) -> None:
    """While the guardian hangs the warden climbs, and the guardian repeats nothing afterwards."""
    run = host.python(FAMILY + "note(); rest()", steps=SHORT)
    guardian = await guardian_of(run)
    members = book(3)
    with held(guardian):
        run.link.stop("cancelled")
        assert await signals(run, 2) == [15, 9]
        wait_until(lambda: not any(map(alive, members)))
        assert not run.all(wire.Ended)
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == ("cancelled", -9)
    assert await signals(run, 2) == [15, 9]
    assert run.kinds().count("stopping") == 1
    sent = run.all(wire.SignalSent)
    assert set(sent[0].pids) == set(sent[1].pids) == {pid for pid, _ in members}


@pytest.mark.anyio
async def test_program_that_obeys_while_its_guardian_hangs(host: Host) -> None:
    """An exit within the grace is noticed: nobody is killed, and its status and words are kept."""
    run = host.python(POLITE)
    guardian = await guardian_of(run)
    await run.output_has(b"ready")
    with held(guardian):
        run.link.stop("cancelled")
        assert await signals(run, 1) == [15]
        leader = run.only(wire.Started).pid
        wait_until(lambda: (p := read_process(leader)) is None or not p.alive)
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == ("cancelled", 9)
    assert run.output() == b"ready\nbye"
    assert await signals(run, 1) == [15]


@pytest.mark.anyio
async def test_guardian_hangs_in_the_middle_of_the_ladder(host: Host, book: Book) -> None:
    """The warden goes on with a ladder that the guardian has begun, whoever has asked for it."""
    steps: list[dict[str, Any]] = [{"signal": 15, "scope": "tree", "grace": 1.5}]
    run = host.python(FAMILY + "note(); rest()", steps=steps, timeout=0.5)
    members = book(3)
    guardian = await guardian_of(run)
    assert await signals(run, 1) == [15]
    with held(guardian):
        wait_until(lambda: not any(map(alive, members)))
        assert await signals(run, 2) == [15, 9]
    assert (await run.finish()).reason == "timed_out"
    assert await signals(run, 2) == [15, 9]


@pytest.mark.anyio
async def test_guardian_comes_back_in_the_middle_of_the_ladder(host: Host, book: Book) -> None:
    """The guardian goes on where the warden was, with the grace that had begun."""
    steps = [
        {"signal": 1, "scope": "leader", "grace": 0.0},
        {"signal": 15, "scope": "tree", "grace": 1.0},
    ]
    run = host.python(FAMILY + "note(); rest()", steps=steps)
    members = book(3)
    with held(await guardian_of(run)):
        run.link.stop("cancelled")
        assert await signals(run, 2) == [1, 15]
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == ("cancelled", -9)
    assert await signals(run, 3) == [1, 15, 9]
    assert not any(map(alive, members))


@pytest.mark.anyio
async def test_second_stop_while_the_guardian_hangs(host: Host, book: Book) -> None:
    """A second stop shortens the ladder that the warden climbs."""
    steps = [{"signal": 15, "scope": "tree", "grace": 600}]
    run = host.python(FAMILY + "note(); rest()", steps=steps)
    members = book(3)
    with held(await guardian_of(run)):
        run.link.stop("cancelled")
        assert await signals(run, 1) == [15]
        run.link.stop("engine_closed", now=True)
        assert await signals(run, 2) == [15, 9]
        wait_until(lambda: not any(map(alive, members)))
    assert (await run.finish()).reason == "cancelled"


@pytest.mark.anyio
async def test_timeout_while_the_guardian_hangs(host: Host, book: Book) -> None:
    """The task's timeout is kept by the warden when the guardian cannot keep it."""
    run = host.python(FAMILY + "note(); rest()", steps=SHORT, timeout=2.0)
    members = book(3)
    with held(await guardian_of(run)):
        assert await signals(run, 2) == [15, 9]
        wait_until(lambda: not any(map(alive, members)))
    assert (await run.finish()).reason == "timed_out"


def test_guardian_that_hung_just_before_it_looked() -> None:
    """A leader that the warden has ended has been ended for the warden's reason."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null, bell = os.open(os.devnull, os.O_RDONLY), os.eventfd(0)
    request = LaunchRequest(1, "u", Policy(), "pipe", (80, 24), None, None, ["stdout"], 0, [])
    slot = Slot.private()
    with ours, subprocess.Popen(["sh", "-c", "kill -KILL $$"]) as leader:
        guardian = Guardian(
            Descriptors(theirs.detach(), bell, null, null, null, null), request, 64, slot=slot
        )
        guardian._leader = leader.pid
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
        slot.write(State((), 5.0, 0.2, due=time.monotonic(), reason="timed_out"))
        slot.taken = True
        guardian._check_leader()
        assert (guardian._reason, guardian._return_code) == ("timed_out", -9)
        assert [wire.decode(ours.recv(999)).kind for _ in "12"] == ["stopping", "leader_exited"]
        guardian._control.close()
    os.close(null)
    os.close(bell)


@pytest.mark.anyio
async def test_hanging_guardian_delays_no_other_task(host: Host, book: Book) -> None:
    """Other tasks of the same warden start and end while one guardian hangs."""
    run = host.python(STUBBORN + "note(); rest()", steps=SHORT)
    book(1)
    with held(await guardian_of(run)):
        run.link.stop("cancelled")
        other = host.run(["echo", "on time"])
        assert (await other.finish()).return_code == 0
        assert other.output() == b"on time\n"
    await run.finish()


def freeze(directory: Path, option: str) -> None:
    """Freeze (``-f``) a file system, or let it go on (``-u``)."""
    subprocess.run(["fsfreeze", option, directory], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which is not frozen any more in the end."""
    image, directory = tmp_path / "image", tmp_path / "disk"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, directory], check=False).returncode:
        pytest.skip("there is no loop device to be had")
    try:
        yield directory
    finally:
        subprocess.run(["fsfreeze", "-u", directory], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", directory], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount and freeze a disk")
@pytest.mark.anyio
@pytest.mark.parametrize("grace", [0.5, 2.0])
async def test_frozen_disk(host: Host, book: Book, disk: Path, grace: float) -> None:
    """The ladder keeps its timing while the disk of the log is frozen, and no byte gets lost."""
    other = host.python(STUBBORN + "note(); rest()", steps=SHORT)
    apart = book(1)
    host.log = lambda: os.open(disk, os.O_TMPFILE | os.O_RDWR, 0o600)  # type: ignore[method-assign]
    steps = [{"signal": 15, "scope": "tree", "grace": grace}]
    flood = "note()\nfor i in range(10): time.sleep(0.001); print(i, flush=True)\n"
    run = host.python(FAMILY + "import time\n" + flood * 100 + "rest()", steps=steps)
    members = [who for who in book(4) if who not in apart]
    await run.output_has(b"9\n")
    freeze(disk, "-f")
    guardian = await guardian_of(run)
    wait_until(lambda: (process := read_process(guardian)) and process.state == "D")
    begin = time.monotonic()
    run.link.stop("cancelled")
    assert await signals(run, 2) == [15, 9]
    took = time.monotonic() - begin
    wait_until(lambda: not any(map(alive, members)))
    other.link.stop("cancelled")
    assert (await other.finish()).return_code == -9
    assert not run.all(wire.Ended)
    freeze(disk, "-u")
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == ("cancelled", -9)
    assert await signals(run, 2) == [15, 9]
    assert b"".join(b"%d\n" % (i % 10) for i in range(1000)).startswith(run.output())
    assert grace <= took < grace + 5
    print(f"SIGKILL {took - grace:+.3f} s beside its time")
    for log in run.logs.values():
        os.close(log)
    run.logs = {}
    run.link.close()


only_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="fanotify lets only root hold up an execve; faults-root runs it"
)


class SlowDisk:
    """A program whose file does not come when it is to be executed, like one on a dead server."""

    def __init__(self, program: Path) -> None:
        """Hold up everybody who executes this from now on (fanotify(7), ``FAN_OPEN_EXEC_PERM``)."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue = libc.fanotify_init(0x1 | 0x2 | 0x4, os.O_RDONLY)
        mask = ctypes.c_uint64(0x40000)
        if self._queue < 0 or libc.fanotify_mark(self._queue, 0x1, mask, -100, bytes(program)):
            why = os.strerror(ctypes.get_errno())
            self.let_go()
            pytest.skip(f"this kernel lets nobody hold up an execve (fanotify): {why}")

    def let_go(self) -> None:
        """Let everybody go on, now and later."""
        queue, self._queue = self._queue, -1
        if queue >= 0:
            os.close(queue)


@pytest.fixture
def slow_program(tmp_path: Path) -> Iterator[tuple[str, SlowDisk]]:
    """A program, and what holds up everybody who executes it."""
    program = tmp_path / "slow"
    shutil.copy("/bin/sleep", program)
    disk = SlowDisk(program)
    try:
        yield str(program), disk
    finally:
        disk.let_go()


def wait_until_held_up(host: Host) -> None:
    """Wait until the only guardian of a host waits for its child to execute something."""

    def held_up() -> bool:
        processes = map(read_process, children(host.warden.pid))
        return any(process is not None and process.state == "D" for process in processes)

    wait_until(held_up)


@pytest.mark.root
@only_root
@pytest.mark.anyio
async def test_program_on_a_slow_disk(host: Host, slow_program: tuple[str, SlowDisk]) -> None:
    """A program whose file comes late is started late, and is a task like any other."""
    program, disk = slow_program
    run = host.run([program, "1000"])
    wait_until_held_up(host)
    run.messages += run.link.poll()
    assert not run.all(wire.Started)
    disk.let_go()
    assert (await run.until(wire.Started)).executable == program
    run.link.stop("cancelled")
    assert (await run.finish()).reason == "cancelled"


@pytest.mark.root
@only_root
@pytest.mark.anyio
@pytest.mark.parametrize("why", ["cancelled", "timed_out", "terminated"])
async def test_program_on_a_disk_that_hangs(
    host: Host, slow_program: tuple[str, SlowDisk], why: str
) -> None:
    """A program whose file never comes is stopped like any other, and never was started."""
    program, _ = slow_program
    run = host.run([program, "1000"], steps=SHORT, timeout=1.0 if why == "timed_out" else None)
    wait_until_held_up(host)
    other = host.run(["echo", "on time"])
    assert (await other.finish()).return_code == 0
    if why == "cancelled":
        run.link.stop("cancelled")
    elif why == "terminated":
        os.kill(host.warden.pid, signal.SIGTERM)
    ended = await run.finish()
    assert ended.reason == ("timed_out" if why == "timed_out" else "cancelled")
    assert ended.return_code in (-15, -9)  # who waits so can only be killed, by either
    assert not run.all(wire.Started)


finite = st.floats(allow_nan=False, allow_infinity=False)
states = st.builds(
    State,
    rungs=st.lists(
        st.builds(Rung, st.integers(1, 64), st.sampled_from(["tree", "group", "leader"]), finite),
        max_size=8,
    ).map(tuple),
    kill_wait=finite,
    exit_grace=finite,
    due=st.none() | finite,
    killing_since=st.none() | finite,
    for_leader=st.booleans(),
    reason=st.none() | st.text(max_size=40),
    leader=st.none() | st.tuples(st.integers(1, 2**31), st.integers(0, 2**63)),
    stops=st.integers(0, 10**6),
    time_limit=st.none() | finite,
    kills_for_host=st.booleans(),
    over=st.booleans(),
)


@given(states)
def test_any_state_survives_a_slot(state: State) -> None:
    """What is read from a slot equals what was written."""
    slot = Slot.private()
    slot.write(state)
    assert slot.read() == state


def test_slot_that_is_half_written_says_nothing() -> None:
    """Whoever is killed while writing leaves a slot from which nothing is read, and no error."""

    class Killed(Exception):
        pass

    class Memory(bytearray):
        left = 0

        def __setitem__(self, place: Any, value: Any) -> None:
            if not Memory.left:
                raise Killed
            Memory.left -= 1
            super().__setitem__(place, value)

    memory = Memory(2048)
    slot = Slot(memory, 0, -1)
    state = State((Rung(15, "tree", 5.0),), 2.0, 0.2)
    for calls in range(1, 5):
        Memory.left = 100
        slot.write(state)
        Memory.left = calls
        with pytest.raises(Killed):
            slot.write(State((), 1.0, 0.1))
        assert slot.read() is None


def test_slots_keep_what_is_written() -> None:
    """A ladder survives the way through a slot; one that is too long leaves nothing to read."""
    board = Board()
    slot, other = board.take(), board.take()
    assert slot is not None
    assert other is not None
    rungs = (Rung(2, "leader", 1.5), Rung(15, "tree", 5.0))
    state = State(rungs=rungs, kill_wait=2.0, exit_grace=0.2, leader=(7, 8), stops=1)
    ladder = Ladder(rungs, kill_wait=2.0, now=10.0)
    ladder.advance(10.0)
    state.take(ladder)
    with slot.locked() as mine:
        assert mine
        slot.write(state)
    found = slot.read()
    assert found == state
    assert other.read() is None
    assert found is not None
    resumed = found.ladder()
    assert resumed is not None
    assert resumed.standing() == ladder.standing()
    resumed.leader_left(10.1)
    assert [resumed.advance(10.1), resumed.advance(15.2)] == [rungs[1], KILL]
    slot.write(State(rungs=rungs * 100, kill_wait=2.0, exit_grace=0.2))
    assert slot.read() is None
    board.give_back(slot)
    again = board.take()
    assert again is not None
    assert again.offset == slot.offset
    assert again.read() is None
    board.close()


def locker(board: Board, slot: Slot, how: str, then: str = "") -> list[str]:
    """Return a program that locks a slot, and then does something else."""
    place = f"{how}, 1, {slot.offset}"
    code = f"import fcntl, sys\nfcntl.lockf({board.descriptor}, {place})\n{then}"
    return [sys.executable, "-I", "-S", "-c", code]


def test_a_lock_that_is_not_let_go_is_passed_over() -> None:
    """Whoever was stopped while holding a slot keeps the other one for a moment only."""
    board = Board()
    slot = board.take()
    assert isinstance(slot, Slot)
    with subprocess.Popen(
        locker(board, slot, "fcntl.LOCK_EX", "print(flush=True); sys.stdin.read()"),
        pass_fds=[board.descriptor],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with slot.locked() as mine:
            assert not mine
        process.kill()
    with slot.locked() as mine:
        assert mine
    board.close()


def test_a_lock_may_be_used_again() -> None:
    """What `Slot.locked` returns locks whenever it is entered, and lets go when it is left."""
    board = Board()
    slot = board.take()
    assert isinstance(slot, Slot)

    def is_free() -> bool:
        other = subprocess.run(
            locker(board, slot, "fcntl.LOCK_EX | fcntl.LOCK_NB"),
            pass_fds=[board.descriptor],
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return other.returncode == 0

    lock = slot.locked()
    for _ in range(2):
        with lock as mine:
            assert mine
            assert not is_free()
        assert is_free()
    board.close()

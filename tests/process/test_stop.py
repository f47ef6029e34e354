"""Stopping: ladders, limits, leftovers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventbus_tasks._process import wire
from eventbus_tasks._process.guardian import Descriptors, Guardian
from eventbus_tasks._process.ladder import Policy
from eventbus_tasks._process.launch import LaunchRequest

from .conftest import GUARD, alive, identity, open_host, wait_until

if TYPE_CHECKING:
    from .conftest import Host

pytestmark = pytest.mark.anyio

Book = Callable[[int], list[tuple[int, int]]]

STUBBORN = """
import os, signal, sys
for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(n, signal.SIG_IGN)
def note():
    pid = os.getpid()
    start = open("/proc/self/stat").read().rpartition(")")[2].split()[19]
    with open(f"book/.{pid}", "w") as f: f.write(start)
    os.rename(f"book/.{pid}", f"book/{pid}")
def rest(seconds=600):
    import time
    end = time.monotonic() + seconds
    while time.monotonic() < end: time.sleep(1)
"""

FAMILY = (
    STUBBORN
    + """
if os.fork() == 0:            # a child in a session of its own
    os.setsid(); note(); rest(); os._exit(0)
if os.fork() == 0:            # a child in the leader's group
    note(); rest(); os._exit(0)
"""
)

DAEMON = (
    STUBBORN
    + """
note_code = sys.argv[1]
if os.fork() == 0:            # a daemon: double fork, own session, no environment, no descriptors
    os.setsid()
    if os.fork(): os._exit(0)
    os.closerange(0, 64)
    os.execve(sys.executable, ["daemon", "-I", "-S", "-c", note_code], {})
"""
)

LEFTOVER = """
if os.fork():
    while not os.listdir("book"): pass
    sys.exit(5)
note(); rest()
"""

SHORT: list[dict[str, Any]] = [{"signal": 15, "scope": "tree", "grace": 0.3}]


async def test_polite_program_gets_one_signal(host: Host) -> None:
    """A program that obeys SIGTERM ends with its own last words and is not killed."""
    run = host.python(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(9)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    await run.output_has(b"ready")
    run.link.stop("cancelled")
    ended = await run.finish()
    assert (ended.return_code, ended.reason) == (9, "cancelled")
    assert run.output().endswith(b"bye\n")
    assert [m.signal for m in run.all(wire.SignalSent)] == [15]
    assert run.only(wire.Stopping).reason == "cancelled"


async def test_stubborn_family(host: Host, book: Book) -> None:
    """Leader, group and a session of its own that all ignore SIGTERM are killed after the grace."""
    run = host.python(FAMILY + "note(); print('ready', flush=True); rest()", steps=SHORT)
    await run.output_has(b"ready")
    members = book(3)
    run.link.stop("cancelled")
    ended = await run.finish()
    assert not any(map(alive, members))
    assert ended.return_code == -9
    assert [m.signal for m in run.all(wire.SignalSent)] == [15, 9]
    assert set(run.all(wire.SignalSent)[0].pids) == {pid for pid, _ in members}


@pytest.mark.parametrize("ending", ["exit", "cancel", "crash"])
async def test_invisible_daemon(host: Host, book: Book, ending: str) -> None:
    """A daemon that has left every trace behind ends with its task, however that ends."""
    last = {"exit": "sys.exit(0)", "crash": "os.abort()", "cancel": "rest()"}[ending]
    code = DAEMON + "print('ready', flush=True)\nwhile not os.listdir('book'): pass\n" + last
    run = host.python(code, STUBBORN + "note(); rest()", steps=SHORT)
    await run.output_has(b"ready")
    (daemon,) = book(1)
    if ending == "cancel":
        run.link.stop("cancelled")
    ended = await run.finish()
    assert not alive(daemon)
    assert ended.reason == ("cancelled" if ending == "cancel" else None)
    assert ended.leftovers_killed == (0 if ending == "cancel" else 1)
    if ending == "exit":
        assert ended.return_code == 0


async def test_stopped_program_ends_by_sigterm(host: Host) -> None:
    """A program that is stopped by SIGSTOP acts on SIGTERM, because SIGCONT follows it."""
    run = host.run(["sh", "-c", "trap 'echo bye; exit 9' TERM; echo ready; kill -STOP $$; :"])
    await run.output_has(b"ready")
    pid = run.only(wire.Started).pid if run.messages else (await run.until(wire.Started)).pid
    from eventbus_tasks._process.family import read_process

    wait_until(lambda: (p := read_process(pid)) and p.state == "T")
    run.link.stop("cancelled")
    assert (await run.finish()).return_code == 9
    assert [m.signal for m in run.all(wire.SignalSent)] == [15]


async def test_scopes(host: Host, book: Book) -> None:
    """A rung for the leader reaches the leader only, one for the group spares other sessions."""
    steps = [
        {"signal": 10, "scope": "leader", "grace": 0.2},
        {"signal": 12, "scope": "group", "grace": 0.2},
        {"signal": 15, "scope": "tree", "grace": 0.2},
    ]
    ignore = "for n in (10, 12): signal.signal(n, signal.SIG_IGN)\n"
    code = STUBBORN + ignore + FAMILY.removeprefix(STUBBORN) + "note(); rest()"
    run = host.python(code, steps=steps)
    members = book(3)
    run.link.stop("cancelled")
    await run.finish()
    started = run.only(wire.Started)
    sent = {m.signal: m.pids for m in run.all(wire.SignalSent)}
    assert sent[10] == (started.pid,)
    assert len(sent[12]) == 2
    assert len(sent[15]) == len(sent[9]) == len(members) == 3


async def test_rung_for_the_leader_ends_with_it(host: Host, book: Book) -> None:
    """Those whom an obedient leader has left get the grace after an exit, not that of its rung."""
    steps = [{"signal": 2, "scope": "leader", "grace": 600}, *SHORT]
    obey = "signal.signal(2, lambda *_: sys.exit(3)); note(); rest()"
    run = host.python(FAMILY + obey, steps=steps)
    members = book(3)
    run.link.stop("cancelled")
    ended = await run.finish()
    assert (ended.return_code, ended.reason, ended.leftovers_killed) == (3, "cancelled", 2)
    assert [m.signal for m in run.all(wire.SignalSent)] == [2, 15, 9]
    assert not any(map(alive, members))


async def test_second_stop_only_shortens(host: Host, book: Book) -> None:
    """A second stop can hurry the ladder but neither prolong it nor change the reason."""
    run = host.python(
        STUBBORN + "note(); rest()", steps=[{"signal": 15, "scope": "tree", "grace": 600}]
    )
    book(1)
    run.link.stop("cancelled")
    await run.until(wire.SignalSent)
    run.link.stop("engine_closed", steps=[{"signal": 1, "scope": "tree", "grace": 900}])
    run.link.stop("engine_closed", now=True)
    ended = await run.finish()
    assert ended.reason == "cancelled"
    assert [m.signal for m in run.all(wire.SignalSent)] == [15, 9]
    assert len(run.all(wire.Stopping)) == 1


async def test_stop_before_start(host: Host) -> None:
    """A task that is stopped at once ends as cancelled, whether or not its program ran."""
    for _ in range(10):
        run = host.run(["sleep", "600"])
        run.link.stop("cancelled")
        ended = await run.finish()
        assert ended.reason == "cancelled"
        assert ended.return_code in (None, -15)


async def test_stop_after_exit_does_not_change_the_reason(host: Host, book: Book) -> None:
    """A stop that comes after the leader's exit ends the leftovers and leaves the outcome alone."""
    code = STUBBORN + LEFTOVER
    run = host.python(code, exit_grace=600, steps=SHORT)
    await run.until(wire.LeaderExited)
    (left,) = book(1)
    run.link.stop("cancelled")
    ended = await run.finish()
    assert (ended.return_code, ended.reason, ended.leftovers_killed) == (5, None, 1)
    assert not alive(left)
    assert not run.all(wire.Stopping)


async def test_late_lines_of_a_grandchild(host: Host) -> None:
    """What a leftover writes within its grace is in the log."""
    run = host.run(["sh", "-c", "(sleep 0.2; echo late) & echo early"], exit_grace=20)
    ended = await run.finish()
    assert run.output() == b"early\nlate\n"
    assert ended.leftovers_killed == 0


async def test_leave(host: Host, book: Book) -> None:
    """With after_exit="leave" survivors are named at the end, and Released waits for them."""
    code = STUBBORN + LEFTOVER
    run = host.python(code, after_exit="leave", exit_grace=0)
    ended = await run.until(wire.Ended)
    (left,) = book(1)
    assert [(s.pid, s.start_time) for s in ended.survivors] == [left]
    assert "-I -S -c" in ended.survivors[0].command
    assert alive(left)
    assert not run.link.released
    os.kill(left[0], signal.SIGKILL)
    await run.finish()
    assert len(run.all(wire.Ended)) == 1


async def test_timeout(host: Host) -> None:
    """A task that takes too long ends as timed_out."""
    run = host.run(["sleep", "600"], timeout=0.2)
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == ("timed_out", -15)


@pytest.mark.parametrize("seconds", [60, 3_000_000, 1e300])
async def test_timeout_that_is_kept(host: Host, seconds: float) -> None:
    """A task within its limits ends by itself, however long those are."""
    run = host.run(["sleep", "0.1"], timeout=seconds, idle_timeout=seconds, max_output=10)
    assert (await run.finish()).reason is None
    next_one = host.run(["true"])  # of the same warden
    assert (await next_one.finish()).reason is None


async def test_grace_of_months(host: Host) -> None:
    """A rung may wait longer than the kernel can count."""
    steps = [{"signal": signal.SIGTERM, "scope": "tree", "grace": 3_000_000.0}]
    run = host.run(["sleep", "600"], steps=steps)
    await run.until(wire.Started)
    run.link.stop("cancelled")
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == ("cancelled", -15)


@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_idle(host: Host, capture: str) -> None:
    """A task that falls silent ends as idle; one that goes on writing does not."""
    code = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done; sleep 600"
    run = host.run(["sh", "-c", code], idle_timeout=1.0, capture=capture)
    ended = await run.finish()
    assert ended.reason == "idle"
    assert run.output() == b"1\n2\n3\n4\n5\n6\n"


@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_output_limit(host: Host, capture: str) -> None:
    """A task that writes too much ends as output_limit, and what it wrote is kept."""
    run = host.run(["yes"], max_output=100_000, capture=capture)
    ended = await run.finish()
    assert ended.reason == "output_limit"
    assert ended.sizes["stdout"] > 100_000
    assert len(run.output()) == ended.sizes["stdout"]


CHAT = "import time\nwhile True: print('chat', flush=True); time.sleep(0.002)"


@pytest.mark.parametrize(
    ("limit", "reason"), [({"timeout": 0.7}, "timed_out"), ({"max_output": 500}, "output_limit")]
)
@pytest.mark.parametrize("streams", [1, 2])
async def test_limits_of_a_chatty_task(
    host: Host, limit: dict[str, Any], reason: str, streams: int
) -> None:
    """A task that never pauses for long is held to its limits like any other."""
    run = host.python(CHAT, separate=streams == 2, **limit)
    ended = await run.finish()
    assert ended.reason == reason
    assert run.output() == (b"chat\n" * 10_000)[: ended.sizes["stdout"]]
    assert len(run.output()) > limit.get("max_output", -1)


@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_retention(host: Host, capture: str) -> None:
    """With keep="tail" old bytes are freed and told, offsets stay, and the end is there."""
    run = host.run(["seq", "1000000"], max_output=1_000_000, keep="tail", capture=capture)
    ended = await run.finish()
    whole = b"".join(b"%d\n" % i for i in range(1, 1_000_001))
    dropped = run.all(wire.Dropped)
    assert {m.why for m in dropped} == {"retention"}
    assert dropped[0].start == 0
    assert all(a.end == b.start for a, b in pairwise(dropped))
    low = dropped[-1].end
    assert ended.dropped == {"stdout": low}
    assert ended.sizes == {"stdout": len(whole)}
    assert len(whole) - low >= 1_000_000
    assert run.output()[low:] == whole[low:]
    assert os.fstat(run.logs["stdout"]).st_blocks * 512 < 3_000_000


async def test_stop_in_a_flood(host: Host) -> None:
    """A task that floods its pipe is stopped like any other, with nothing lost."""
    run = host.run(["yes", "flood"])
    await run.output_has(b"flood")
    run.link.stop("cancelled")
    ended = await run.finish()
    assert ended.reason == "cancelled"
    assert len(run.output()) == ended.sizes["stdout"]


async def test_stranger_with_the_pipe(host: Host, tmp_path: Path) -> None:
    """A process outside the family that holds the pipe delays the end by the drain time only."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        run = host.python(
            "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
            "socket.send_fds(s, [b'x'], [1])\ns.recv(1)\nprint('said')",
            path,
            drain=0.2,
        )
        connection, _ = await anyio.to_thread.run_sync(server.accept)
        with connection:
            _, (pipe,), _, _ = socket.recv_fds(connection, 1, 1)
            connection.send(b"y")
            begin = time.monotonic()
            await run.finish()
            assert time.monotonic() - begin < 10
            os.close(pipe)
    assert run.output() == b"said\n"


async def test_sigterm_to_guardian_stops_the_task(host: Host) -> None:
    """A guardian that gets SIGTERM stops its task, and says so."""
    run = host.run(["sleep", "600"])
    started = await run.until(wire.Started)
    from eventbus_tasks._process.family import read_process

    leader = read_process(started.pid)
    assert leader is not None
    os.kill(leader.parent, signal.SIGTERM)
    assert (await run.finish()).reason == "cancelled"


async def test_sigterm_to_warden_stops_everything(host: Host) -> None:
    """A warden that gets SIGTERM stops all tasks and ends; every task has a true end."""
    runs = [host.run(["sleep", "600"]) for _ in range(5)]
    for run in runs:
        await run.until(wire.Started)
    os.kill(host.warden.pid, signal.SIGTERM)
    for run in runs:
        assert (await run.finish()).reason == "cancelled"
    assert await anyio.to_thread.run_sync(host.warden.reap, 20)


# An interpreter whose warden gets SIGTERM in the middle of a launch.
TERMINATED_IN_A_LAUNCH = '''\
#!{python} -IS
import sys
boot, sys.argv = sys.argv[4], ["-c", *sys.argv[5:]]
HOOK = """
import os, select, signal
from eventbus_tasks._process import forkserver, warden
if {forks}:
    forkserver.ForkServer.begin = lambda self: None
class Poll:
    def __init__(self):
        self.real = select.poll()
        self.register = self.real.register
    def poll(self, timeout):
        if timeout == forkserver.SETTLE:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.real.poll(timeout)
warden.select = forkserver.select = types.SimpleNamespace(**dict(vars(select), poll=Poll))
"""
exec(boot.replace("main(arguments)", HOOK + "main(arguments)"))
'''


@pytest.mark.parametrize("forks", [False, True])
async def test_sigterm_to_warden_in_a_launch(tmp_path: Path, forks: bool) -> None:
    """A guardian that gets its task just then, or is just forked, is stopped with all others."""
    python = tmp_path / "python"
    python.write_text(TERMINATED_IN_A_LAUNCH.format(python=sys.executable, forks=forks))
    python.chmod(0o700)
    async with open_host(tmp_path, str(python)) as host:
        ended = await host.run(["sleep", "600"]).finish()
        assert ended.reason == "cancelled"
        assert await anyio.to_thread.run_sync(host.warden.reap, 20)


async def test_many_at_once(host: Host) -> None:
    """100 stubborn tasks are stopped together, in about the time of one."""
    runs = [
        host.run(["sh", "-c", "trap '' TERM; echo ready; sleep 600 & wait; wait"], steps=SHORT)
        for _ in range(100)
    ]
    for run in runs:
        await run.output_has(b"ready")
    members = [identity((await run.until(wire.Started)).pid) for run in runs]
    for run in runs:
        run.link.stop("engine_closed")
    for run in runs:
        assert (await run.finish()).return_code == -9
    assert not any(map(alive, members))


@pytest.mark.anyio
async def test_ladder_of_a_thousand_steps(host: Host) -> None:
    """The longest ladder that there is reaches the guardian when the task is stopped."""
    run = host.python(STUBBORN + "print('ready', flush=True); rest()")
    await run.output_has(b"ready")
    step = {"signal": 15, "scope": "leader", "grace": 1.2345678901234567e-300}
    run.link.stop("cancelled", steps=[step] * 1000)
    ended = await run.finish()
    assert (ended.reason, ended.return_code) == ("cancelled", -9)


def test_start_that_is_seen_after_the_end() -> None:
    """A program that begins when its task has been given up is not told: there was a last word."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null, bell = os.open(os.devnull, os.O_RDONLY), os.eventfd(0)
    spec = os.memfd_create("spec")
    request = LaunchRequest(1, "u", Policy(), "pipe", (80, 24), None, None, ["stdout"], 0, [])
    report, end = os.pipe()
    os.close(end)
    with ours, subprocess.Popen(["sleep", "600"]) as leader:
        guardian = Guardian(Descriptors(theirs.detach(), bell, spec, null, null, null), request, 64)
        guardian._leader, guardian._report, guardian._ended = leader.pid, report, True
        assert guardian._check_start() is False
        assert guardian._told == []
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        guardian._control.close()
        leader.kill()
    os.close(null)
    os.close(bell)


UNKILLABLE = """
import os, socket, sys
from eventbus_tasks._process import guardian, signalling, wire
from eventbus_tasks._process.ladder import Policy
from eventbus_tasks._process.launch import LaunchRequest
# Stands in for a process in uninterruptible sleep: no signal has any effect until it wakes up.
one, group = signalling.signal_process, signalling._send_group
signalling.signal_process = lambda *a: os.path.exists("thaw") and one(*a)
signalling._send_group = lambda *a: os.path.exists("thaw") and group(*a)
spec = wire.LaunchSpec(
    uid="u", argv=["sh", "-c", "echo one; read x < fifo; echo two; sleep 600"], cwd=os.getcwd(),
    env=dict(os.environ))
request = LaunchRequest(
    task=1, uid="u", policy=Policy(rungs=(), timeout=0.2, kill_wait=0.3), capture="pipe",
    pty_size=(80, 24), nofile=None, rendezvous=None, pipes=["stdout"], image=len(spec.encode()) + 1,
    descriptors=[])
memory = os.memfd_create("spec")
os.write(memory, spec.encode())
pipe, end = os.pipe()
guardian.Guardian(guardian.Descriptors(
    stdout_pipe=pipe, stdout_end=end,
    control=int(sys.argv[1]), stdout=int(sys.argv[2]), host=int(sys.argv[3]), spec=memory,
    bell=os.eventfd(0), stdin=os.open("/dev/null", os.O_RDONLY)), request, 1024).run()
"""


def test_unkillable(tmp_path: Path) -> None:
    """A family that resists SIGKILL is named in time, is still drained, and is waited for."""
    os.mkfifo(tmp_path / "fifo")
    log = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
    host = os.pidfd_open(os.getpid())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    numbers = (theirs.fileno(), log, host)
    with (
        ours,
        subprocess.Popen(
            [sys.executable, "-c", UNKILLABLE, *map(str, numbers)],
            pass_fds=numbers,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ) as process,
    ):
        theirs.close()
        ours.settimeout(GUARD)
        heard: list[Any] = []
        while not heard or not isinstance(heard[-1], wire.Ended):
            heard.append(wire.decode(ours.recv(wire.PACKET)))
        ended = heard[-1]
        assert (ended.unkillable, ended.reason, ended.return_code) == (True, "timed_out", None)
        assert [s.pid for s in ended.survivors] == [heard[0].pid]
        assert process.poll() is None
        (tmp_path / "fifo").write_text("go\n")
        wait_until(lambda: os.pread(log, 100, 0) == b"one\ntwo\n")
        (tmp_path / "thaw").touch()
        assert process.wait(GUARD) == 0
        assert ours.recv(wire.PACKET) == b""
    os.close(log)
    os.close(host)

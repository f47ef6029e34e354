"""Host, guardian or warden die, and what happens to the task then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventbus_tasks._process import wire
from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.lock import Busy, ProjectLock
from eventbus_tasks._process.rescue import prepare_rescue, rescue

from .conftest import alive, identity, open_host, wait_until
from .test_stop import DAEMON, FAMILY, SHORT, STUBBORN

if TYPE_CHECKING:
    from .conftest import Host

Book = Callable[[int], list[tuple[int, int]]]

HOST = """
import json, os, sys, time
from pathlib import Path
from eventbus_tasks._process.handle import WardenClient
from eventbus_tasks._process.lock import ProjectLock
from eventbus_tasks._process.wire import LaunchSpec
directory, options = Path(sys.argv[1]), json.loads(sys.argv[2])
lock = ProjectLock.acquire(directory, directory / "state", {"host_pid": os.getpid()})
log = os.open(directory / "log", os.O_CREAT | os.O_RDWR, 0o600)
record = os.open(directory / "end.json", os.O_CREAT | os.O_RDWR, 0o600)
null = os.open("/dev/null", os.O_RDWR)
warden = WardenClient.start()
link = warden.launch(
    LaunchSpec(uid="u", argv=options["argv"], cwd=str(directory), env=dict(os.environ),
               capture=options.get("capture", "pipe"), policy=options["policy"]),
    stdin=null, stdout_log=log, lock=lock.fd, end_record=record)
lock.close()
if options.get("fork") and os.fork() == 0:
    while not (directory / "over").exists():
        time.sleep(0.01)
    (directory / "over").unlink()
    os._exit(0)
while not (messages := link.poll()):
    time.sleep(0.001)
print(json.dumps([messages[0].pid, warden.pid, os.getpid()]), flush=True)
while True:
    time.sleep(60)
"""


def start_host(directory: Path, argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Run a host in a process of its own; its first line names leader and warden."""
    policy = options.pop("policy", {"steps": SHORT})
    data = json.dumps({"argv": argv, "policy": policy, **options})
    return subprocess.Popen(
        [sys.executable, "-c", HOST, str(directory), data],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def is_free(directory: Path) -> bool:
    """Return whether the project lock can be taken."""
    lock = ProjectLock.acquire(directory, directory / "state", {})
    if isinstance(lock, Busy):
        return False
    lock.close()
    return True


def guardian_of(leader: int) -> int:
    """Return the number of a leader's guardian."""
    process = read_process(leader)
    assert process is not None
    return process.parent


@pytest.mark.parametrize("capture", ["pipe", "file"])
@pytest.mark.parametrize("fork", [False, True])
def test_host_killed(tmp_path: Path, book: Book, capture: str, fork: bool) -> None:
    """After SIGKILL of the host everything is gone, the log is complete and the project free."""
    code = FAMILY + "note(); print('x' * 100_000, flush=True); rest()"
    argv = [sys.executable, "-I", "-S", "-c", code]
    with start_host(tmp_path, argv, capture=capture, fork=fork) as process:
        assert process.stdout is not None
        leader, warden, _ = json.loads(process.stdout.readline())
        members = [*book(3), identity(leader), identity(warden)]
        assert not is_free(tmp_path)
        wait_until(lambda: (tmp_path / "log").stat().st_size == 100_001)
        process.kill()
        begin = time.monotonic()
        wait_until(lambda: not any(map(alive, members)), 10)
        assert time.monotonic() - begin < 10
        wait_until(lambda: is_free(tmp_path), 10)
        process.stdout.close()
    if fork:
        (tmp_path / "over").touch()
        wait_until(lambda: not (tmp_path / "over").exists())
    assert (tmp_path / "log").read_bytes() == b"x" * 100_000 + b"\n"
    record = json.loads((tmp_path / "end.json").read_text())
    assert (record["reason"], record["return_code"]) == ("host_lost", -9)


def test_host_killed_and_task_detached(tmp_path: Path) -> None:
    """With on_host_death="detach" the task outlives its host and its output is kept."""
    os.mkfifo(tmp_path / "fifo")
    argv = ["sh", "-c", "echo one; read x < fifo; echo two; exit 5"]
    with start_host(tmp_path, argv, policy={"on_host_death": "detach"}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
        assert not is_free(tmp_path)
        (tmp_path / "fifo").write_text("go\n")
        wait_until(lambda: is_free(tmp_path))
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    record = json.loads((tmp_path / "end.json").read_text())
    assert (record["reason"], record["return_code"]) == (None, 5)


def test_host_stopped_delays_nothing(tmp_path: Path, book: Book) -> None:
    """While the host is stopped its task meets its timeout all the same."""
    argv = [sys.executable, "-I", "-S", "-c", FAMILY + "note(); rest()"]
    with start_host(tmp_path, argv, policy={"steps": SHORT, "timeout": 1.0}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        members = book(3)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not any(map(alive, members)), 10)
        wait_until(lambda: is_free(tmp_path), 10)
        process.kill()


@pytest.mark.anyio
async def test_guardian_killed(host: Host, book: Book, tmp_path: Path) -> None:
    """When the guardian is killed the warden sweeps the family and only then frees the project."""
    lock = ProjectLock.acquire(tmp_path, tmp_path / "state", {})
    assert isinstance(lock, ProjectLock)
    code = FAMILY + DAEMON.removeprefix(STUBBORN) + "note(); rest()"
    run = host.python(code, STUBBORN + "note(); rest()", lock=lock.fd)
    lock.close()
    started = await run.until(wire.Started)
    members = book(4)
    os.kill(guardian_of(started.pid), signal.SIGKILL)
    await run.released()
    assert not any(map(alive, members))
    assert is_free(tmp_path)
    assert run.kinds() == ["started", "guardian_lost", "released"]
    assert run.only(wire.GuardianLost).code == -signal.SIGKILL


@pytest.mark.anyio
async def test_other_tasks_survive_a_killed_guardian(host: Host, book: Book) -> None:
    """The sweep after one guardian's death touches no other task."""
    other = host.run(["sh", "-c", "echo ready; sleep 0.7; echo done"])
    victim = host.python(FAMILY + "note(); rest()")
    await other.output_has(b"ready")
    started = await victim.until(wire.Started)
    book(3)
    os.kill(guardian_of(started.pid), signal.SIGKILL)
    await victim.released()
    ended = await other.finish()
    assert (ended.return_code, other.output()) == (0, b"ready\ndone\n")


WRITER = """
import os, signal, sys, time
os.write(1, b"0" * 10)
while not os.path.exists("go"): time.sleep(0.002)
for i in range(int(sys.argv[1])): os.write(1, b"%d" % (i % 10) * 1000)
os.write(2, b"separate")
open("written", "w").close()
signal.pause()
"""


@pytest.mark.anyio
@pytest.mark.parametrize("separate", [False, True])
async def test_bytes_in_the_pipe_outlive_the_guardian(
    host: Host, tmp_path: Path, separate: bool
) -> None:
    """What the program had written, and its guardian had not read when it was killed, is saved."""
    run = host.python(WRITER, "60", separate=separate)
    started = await run.until(wire.Started)
    await run.output_has(b"0" * 10)
    guardian = guardian_of(started.pid)
    os.kill(guardian, signal.SIGSTOP)
    (tmp_path / "go").touch()
    wait_until((tmp_path / "written").exists)
    os.kill(guardian, signal.SIGKILL)
    await run.released()
    streams = [stream for stream, _ in run.link.pipes]
    assert streams == (["stdout", "stderr"] if separate else ["stdout"])
    logs = {stream: (log, 0) for stream, log in run.logs.items()}
    assert rescue(run.link.pipes, logs, 0.0) == []
    whole = b"0" * 10 + b"".join(b"%d" % (i % 10) * 1000 for i in range(60))
    if separate:
        assert (run.output(), run.output("stderr")) == (whole, b"separate")
    else:
        assert run.output() == whole + b"separate"
    assert rescue(run.link.pipes, logs, 0.0) == [], "there was nothing more"
    assert len(run.output()) == len(whole) + 8 * (not separate)


FLOOD = """
import mmap, os
with open("count", "wb") as file: file.truncate(8)
with open("count", "r+b") as file: count = mmap.mmap(file.fileno(), 8)
whole = b"".join(b"%07d\\n" % i for i in range(100_000))
done = 0
while True:
    done += os.write(1, memoryview(whole)[done % len(whole):])
    count[:] = done.to_bytes(8, "little")
"""


@pytest.mark.anyio
async def test_flood_outlives_the_guardian(host: Host, tmp_path: Path) -> None:
    """In a flood, whatever moment the guardian is killed at, no byte is lost, doubled or moved."""
    round_ = b"".join(b"%07d\n" % i for i in range(100_000))
    for size in (1, 100_000, 3_000_000, 5_000_000, 7_000_000):
        run = host.python(FLOOD)
        started = await run.until(wire.Started)
        while os.fstat(run.logs["stdout"]).st_size < size:
            os.sched_yield()
        os.kill(guardian_of(started.pid), signal.SIGKILL)
        await run.released()
        if size > 5_000_000:
            assert len(run.link.pipes) == 2, "nobody has kept the relay of the flood"
        assert rescue(run.link.pipes, {"stdout": (run.logs["stdout"], 0)}, 0.0) == []
        written = int.from_bytes((tmp_path / "count").read_bytes(), "little")
        output = run.output()
        assert len(output) >= written
        assert output == (round_ * (len(output) // len(round_) + 1))[: len(output)]


TWO_FLOODS = """
import os, signal, time
while not os.path.exists("go"): time.sleep(0.002)
stream = 1 + (os.fork() == 0)
for _ in range(1000): os.write(stream, b"x" * 100_000)
signal.pause()
"""


@pytest.mark.anyio
async def test_all_pipes_of_a_guardian_outlive_it(host: Host, tmp_path: Path) -> None:
    """A warden that is busy learns of every pipe that a guardian had, also after its death."""
    run = host.python(TWO_FLOODS, separate=True)
    guardian = guardian_of((await run.until(wire.Started)).pid)
    os.kill(host.warden.pid, signal.SIGSTOP)
    try:
        (tmp_path / "go").touch()
        # Far more than what makes a guardian take another pipe for each of the two.
        wait_until(lambda: all(os.fstat(log).st_size > 20_000_000 for log in run.logs.values()))
        who = identity(guardian)
        os.kill(guardian, signal.SIGKILL)
        wait_until(lambda: not alive(who))
    finally:
        os.kill(host.warden.pid, signal.SIGCONT)
    await run.released()
    streams = [stream for stream, _ in run.link.pipes]
    assert sorted(streams) == ["stderr", "stderr", "stdout", "stdout"]


def test_bytes_of_several_pipes_are_saved_in_their_order(tmp_path: Path) -> None:
    """Behind the log of a stream come the bytes of its first pipe, then those of the second."""
    logs = {name: os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600) for name in ("a", "b")}
    os.write(logs["a"], b"begun ")
    pipes = []
    for stream, data in (("a", b"first "), ("b", b"other"), ("a", b"second")):
        pipe, end = os.pipe()
        os.write(end, data)
        os.close(end)
        pipes.append((stream, pipe))
    lost = rescue(pipes, {"a": (logs["a"], 0), "b": (logs["b"], 10)}, 0.0)
    assert lost == []
    assert os.pread(logs["a"], 100, 0) == b"begun first second"
    # Of the other one, more is known to be lost than its log has.
    assert os.pread(logs["b"], 100, 0) == bytes(10) + b"other"
    for number in (*logs.values(), *(pipe for _, pipe in pipes)):
        os.close(number)


def test_what_cannot_be_saved_is_counted(tmp_path: Path) -> None:
    """Bytes that the log does not take are taken out of the pipe, and told."""
    pipe, end = os.pipe()
    os.write(end, b"x" * 1000)
    os.close(end)
    full = os.open("/dev/full", os.O_RDWR)
    (lost,) = rescue([("stdout", pipe)], {"stdout": (full, 7)}, 0.0)
    assert (lost.stream, lost.start, lost.end, lost.why) == ("stdout", 7, 1007, "ENOSPC")
    os.close(pipe)
    os.close(full)


def test_who_writes_on_does_not_hold_up_a_rescue() -> None:
    """A writer that lives, and never stops, gets its time and no more."""
    pipe, end = os.pipe()
    log = os.open(os.devnull, os.O_RDWR)
    with subprocess.Popen(["yes"], stdout=end) as writer:
        os.close(end)
        try:
            assert rescue([("stdout", pipe)], {"stdout": (log, 0)}, 0.05) == []
        finally:
            writer.kill()
    for number in (pipe, log):
        os.close(number)


def test_a_rescue_that_is_late_touches_nothing_else(tmp_path: Path) -> None:
    """Whoever has given it up may close everything: its numbers can be those of others by then."""
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_RDWR, 0o600)
    pipe, end = os.pipe()
    os.write(end, b"saved")
    os.close(end)
    before = len(os.listdir("/proc/self/fd"))
    work = prepare_rescue([("stdout", pipe)], {"stdout": (log, 0)}, 0.0)
    others = os.pipe()
    os.write(others[1], b"of others")
    other_log = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR, 0o600)
    os.dup2(others[0], pipe)
    os.dup2(other_log, log)
    assert work() == []
    assert (tmp_path / "log").read_bytes() == b"saved"
    assert (tmp_path / "other").read_bytes() == b""
    assert os.read(others[0], 100) == b"of others"
    prepare_rescue([("stdout", pipe)], {"stdout": (log, 0)}, 0.0)  # never called
    for number in (*others, other_log):
        os.close(number)
    assert len(os.listdir("/proc/self/fd")) == before
    for number in (pipe, log):
        os.close(number)


RESIST = """
import os, sys
code = sys.argv[4].replace("main(arguments)", '''
import os
from eventbus_tasks._process import warden
real = warden.signal_process
# Stands in for uninterruptible sleep: no signal has any effect on those who are in this book.
warden.signal_process = lambda pid, *a: not os.path.exists(f"asleep/{pid}") and real(pid, *a)
main(arguments)
'''.replace("asleep", os.environ["ASLEEP"]))
sys.argv[1:] = sys.argv[5:]
exec(code)
"""


@pytest.fixture
def asleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which those have a file whom the warden of `python` cannot kill."""
    directory = tmp_path / "asleep"
    directory.mkdir()
    monkeypatch.setenv("ASLEEP", str(directory))
    (tmp_path / "resist.py").write_text(RESIST)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I {tmp_path}/resist.py "$@"\n')
    python.chmod(0o700)
    return directory


@pytest.mark.anyio
async def test_orphans_that_resist(tmp_path: Path, asleep: Path) -> None:
    """Orphans that withstand SIGKILL are named, and keep the project for as long as they live."""
    (tmp_path / "book").mkdir()
    async with open_host(tmp_path, str(tmp_path / "python")) as host:
        lock = ProjectLock.acquire(tmp_path, tmp_path / "state", {})
        assert isinstance(lock, ProjectLock)
        run = host.python(
            FAMILY + "print('ready', flush=True); rest()", lock=lock.fd, kill_wait=0.2
        )
        lock.close()
        started = await run.until(wire.Started)
        await run.output_has(b"ready")
        wait_until(lambda: len(list((tmp_path / "book").glob("[0-9]*"))) == 2)
        orphans = {int(path.name) for path in (tmp_path / "book").iterdir()}
        for pid in orphans:
            (asleep / str(pid)).touch()
        os.kill(guardian_of(started.pid), signal.SIGKILL)
        unswept = await run.until(wire.Unswept)
        assert {one.pid for one in unswept.survivors} == orphans
        assert all("-I -S -c" in one.command for one in unswept.survivors)
        assert not run.link.released
        assert not is_free(tmp_path)
        for pid in orphans:
            (asleep / str(pid)).unlink()
        await run.released()
        assert is_free(tmp_path)
        assert run.kinds() == ["started", "guardian_lost", "unswept", "released"]


@pytest.mark.anyio
async def test_orphans_are_told_apart(tmp_path: Path, asleep: Path) -> None:
    """A task whose guardian was killed does not wait for the orphans of another one."""
    (tmp_path / "book").mkdir()
    async with open_host(tmp_path, str(tmp_path / "python")) as host:
        code = STUBBORN + "if os.fork() == 0: note()\nrest()"
        first = host.python(code, uid="first", kill_wait=600)
        leader = (await first.until(wire.Started)).pid
        wait_until(lambda: list((tmp_path / "book").glob("[0-9]*")))
        (orphan,) = (tmp_path / "book").iterdir()
        (asleep / orphan.name).touch()
        os.kill(guardian_of(leader), signal.SIGKILL)
        await first.until(wire.GuardianLost)
        second = host.python(code, uid="second", kill_wait=600)
        leader = (await second.until(wire.Started)).pid
        wait_until(lambda: len(list((tmp_path / "book").glob("[0-9]*"))) == 2)
        os.kill(guardian_of(leader), signal.SIGKILL)
        await second.released()
        assert not first.link.released
        assert alive(identity(int(orphan.name)))
        (asleep / orphan.name).unlink()
        await first.released()


@pytest.mark.anyio
async def test_lock_is_free_exactly_with_released(host: Host, tmp_path: Path) -> None:
    """The project is taken until Released, and free as soon as it is heard, among many others."""
    noise = [host.run(["true"]) for _ in range(20)]
    for i in range(20):
        lock = ProjectLock.acquire(tmp_path, tmp_path / "state", {"task": i})
        assert isinstance(lock, ProjectLock), i
        run = host.run(["sh", "-c", "read x; exit 0"], lock=lock.fd)
        lock.close()
        noise.append(host.run(["true"]))
        await run.until(wire.Started)
        await run.finish()
    for run in noise:
        await run.finish()


# An interpreter whose warden forks its guardians itself, and these stop before they have closed
# anything, while a file is there.
STALLED = '''\
#!{python} -IS
import sys
boot, sys.argv = sys.argv[4], ["-c", *sys.argv[5:]]
HOOK = """
import os, signal
from eventbus_tasks._process import forkserver, warden
forkserver.ForkServer.begin = lambda self: None
run_guardian = warden._run_guardian
def stalled(*arguments, **options):
    if os.path.exists({stall!r}):
        with open({stall!r}, "w") as file:
            file.write(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    run_guardian(*arguments, **options)
warden._run_guardian = stalled
"""
exec(boot.replace("main(arguments)", HOOK + "main(arguments)"))
'''


@pytest.mark.anyio
async def test_lock_is_free_beside_a_guardian_that_comes_late(tmp_path: Path) -> None:
    """A new guardian that has not closed its copies of others' locks yet keeps no project taken."""
    stall = tmp_path / "stall"
    python = tmp_path / "python"
    python.write_text(STALLED.format(python=sys.executable, stall=str(stall)))
    python.chmod(0o700)
    async with open_host(tmp_path, str(python)) as host:
        lock = ProjectLock.acquire(tmp_path, tmp_path / "state", {})
        assert isinstance(lock, ProjectLock)
        first = host.run(["sleep", "600"], lock=lock.fd)
        lock.close()
        await first.until(wire.Started)
        stall.touch()
        second = host.run(["true"])
        wait_until(stall.read_text)
        first.link.stop("cancelled", now=True)
        await first.finish()
        assert is_free(tmp_path)
        os.kill(int(stall.read_text()), signal.SIGCONT)
        assert (await second.finish()).return_code == 0


@pytest.mark.anyio
async def test_warden_killed(host: Host, book: Book) -> None:
    """When the warden is killed running tasks go on, are told, and can still be stopped."""
    run = host.python(FAMILY + "note(); rest()", steps=SHORT)
    await run.until(wire.Started)
    members = book(3)
    os.kill(host.warden.pid, signal.SIGKILL)
    await run.until(wire.WardenLost)
    assert host.warden.lost
    with pytest.raises(OSError, match="gone"):
        host.run(["true"])
    run.link.stop("cancelled")
    ended = await run.finish()
    assert ended.reason == "cancelled"
    assert not any(map(alive, members))


@pytest.mark.anyio
async def test_agent_kills_its_parent(host: Host, book: Book) -> None:
    """A program that kills the guardian ends with it."""
    run = host.python(STUBBORN + "note()\nsys.stdin.readline()\nos.kill(os.getppid(), 9)\nrest()")
    await run.released()
    assert run.kinds()[-2:] == ["guardian_lost", "released"]


@pytest.mark.anyio
async def test_closed_link_is_host_death(host: Host, book: Book) -> None:
    """A guardian whose link is closed ends its task."""
    run = host.python(FAMILY + "note(); rest()", steps=SHORT)
    await run.until(wire.Started)
    members = book(3)
    run.link.close()
    await anyio.to_thread.run_sync(wait_until, lambda: not any(map(alive, members)))

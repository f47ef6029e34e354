"""H: hosts that die, in every way in which a program can."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio

from eventbus_tasks import ClaudeTask, Outcome, Reason, Settings, SignalSent, TaskManager
from tests.faults.suite.books import stat_of, until_true
from tests.faults.suite.machine import make_group
from tests.faults.suite.outside import HostProcess
from tests.faults.suite.persist import ebt, kept
from tests.faults.suite.registry import BOTH, scenario
from tests.faults.suite.scene import Scene, quick, until

WORST = """
child(session=True, stubborn=True)
child(daemon=True, stubborn=True, hidden=True)
ignore()
flag("up")
lines(10**9, 0.002)
"""
"""A family that nobody but its guardian can find, and that has to be killed."""


async def _three_tasks(scene: Scene, engine: Any) -> None:
    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(scene.start, engine, scene.project(name), WORST)


def _killed(host: HostProcess) -> str:
    """Wait for the host's death and for everything to be gone."""
    status = host.wait()
    seconds = host.assert_all_gone()
    family = sum(len(set(host.project(name).members)) for name in "abc")
    assert family >= 9, family
    return f"host ended with {status}; {family} processes gone within {seconds:.1f} s"


@scenario("H01", "SIGKILL with 3 tasks", "all gone, then projects free", backends=BOTH)
async def sigkill(scene: Scene) -> str:
    async with scene.engine() as engine:
        await _three_tasks(scene, engine)
        scene.tell("ready")
        await anyio.sleep_forever()
    return ""


@sigkill.direct
def kill_host(host: HostProcess) -> str:
    host.hear("ready")
    host.signal(signal.SIGKILL)
    return _killed(host)


@scenario("H02", "os._exit with 3 tasks", "the same", backends=BOTH)
async def hard_exit(scene: Scene) -> str:
    async with scene.engine() as engine:
        await _three_tasks(scene, engine)
        os._exit(7)
    return ""


hard_exit.direct(_killed)


@scenario("H03", "the manager is forgotten: sys.exit with 3 tasks", "the same", fixed=True)
async def forgets(scene: Scene) -> str:
    manager = TaskManager()
    for name in "abc":
        project = scene.project(name)
        await manager.spawn_task(
            name, "", project.directory, argv=project.argv(WORST), policy=quick()
        )
        await until(lambda project=project: project.has("up"))  # type: ignore[misc]
    sys.exit(7)


forgets.direct(_killed)


@scenario("H04", "Ctrl-C twice", "the same", backends=BOTH)
async def ctrl_c(scene: Scene) -> str:
    async with scene.engine() as engine:
        await _three_tasks(scene, engine)
        engine.signals.task_stopping.connect(lambda event: scene.tell("stopping"))
        scene.tell("ready")
        await anyio.sleep_forever()
    return ""


@ctrl_c.direct
def interrupt_twice(host: HostProcess) -> str:
    host.hear("ready")
    host.signal(signal.SIGINT)
    host.hear("stopping")
    host.signal(signal.SIGINT)
    return _killed(host)


@scenario(
    "H05",
    "killed; another program looks at what is left",
    "host_lost; all output kept; project free",
    needs=("disk",),
)
async def recovery(scene: Scene) -> str:
    async with scene.engine(load_installed=True) as engine:
        await scene.start(engine, scene.project(), WORST)
        await until(lambda: max(scene.project().ledgers.values(), default=0) > 50)
        scene.tell("ready")
        await anyio.sleep_forever()
    return ""


@recovery.direct
def look_afterwards(host: HostProcess) -> str:
    host.hear("ready")
    host.kill()
    host.assert_all_gone()
    project = host.project()
    log = next(kept(host).glob("*.stdout.log")).read_bytes()
    (pid, count), *others = project.ledgers.items()
    assert not others
    numbers = [int(line.split(b":")[1]) for line in log.split(b"\n")[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= count, f"{pid} wrote {count}, kept are {len(numbers)}"
    os.environ["EBT_PLUGINS"] = "disk"
    done = ebt("show", "1")
    del os.environ["EBT_PLUGINS"]
    assert "host_lost" in done.stdout or "lost" in done.stdout, done
    assert project.is_free()
    return f"{len(numbers)} lines kept, {count} in the ledger; lost, free"


@scenario("H06", "os.fork in the host; the host is killed", "the copy keeps nothing alive")
async def forked(scene: Scene) -> str:
    async with scene.engine() as engine:
        await _three_tasks(scene, engine)
        pid = os.fork()
        if not pid:
            while True:
                threading.Event().wait(600)
        scene.tell("copy", pid)
        await anyio.sleep_forever()
    return ""


@forked.direct
def kill_original(host: HostProcess) -> str:
    copy = int(host.hear("copy"))
    host.copies.add(copy)
    host.signal(signal.SIGKILL)
    seen = _killed(host)
    os.kill(copy, 0)
    return seen + ", the copy lives"


@scenario(
    "H07",
    "a guardian is killed; the warden is killed",
    "guardian_lost and swept; tasks go on without a warden, and new ones start",
    backends=BOTH,
    lossy=True,
)
async def helpers_killed(scene: Scene) -> str:
    project, other = scene.project(), scene.project("other")
    async with scene.engine() as engine:
        task = await scene.start(engine, project, WORST)
        survivor = await scene.start(engine, other, "flag('up'); wait('go'); sys.exit(3)")
        assert task.pid is not None
        guardian = int(stat_of(task.pid)[1])
        warden = int(stat_of(guardian)[1])
        os.kill(guardian, signal.SIGKILL)
        outcome = await task.wait()
        assert outcome.reason is Reason.GUARDIAN_LOST
        assert not project.alive
        assert project.is_free()
        os.kill(warden, signal.SIGKILL)
        await scene.works(engine, project)
        other.flag("go")
        assert (await survivor.wait()).return_code == 3
    return "guardian_lost, 0 alive; the other task ended with its 3, a new one ran"


@scenario(
    "H08", "the engine closes with 4 stubborn tasks", "one grace for all, not four", backends=BOTH
)
async def closing(scene: Scene) -> str:
    async with scene.engine() as engine:
        for name in "abcd":
            code = "child(stubborn=True); ignore(); flag('up'); rest()"
            await scene.start(engine, scene.project(name), code, policy=quick(2.0))
    polite = [event.at for event in scene.of(SignalSent) if event.signal == 15]
    kills = [event.at for event in scene.of(SignalSent) if event.signal == 9]
    assert len(polite) == len(kills) == 4
    assert max(polite) < min(kills)
    return f"all TERM before the first KILL; {(max(kills) - min(polite)).total_seconds():.1f} s"


@scenario(
    "H09",
    "SIGKILL at a random instant of many spawns, 6 times",
    "nothing left",
    backends=BOTH,
    lossy=True,
)
async def killed_in_spawn(scene: Scene) -> str:
    async with scene.engine() as engine:
        scene.tell("go")
        for n in range(30):
            await scene.spawn(engine, scene.project(f"project-{n}"), WORST)
        await anyio.sleep_forever()
    return ""


@killed_in_spawn.direct
def kill_in_spawn(host: HostProcess) -> str:
    chance = random.Random(9)
    begun = []
    for n in range(6):
        one = host.another(f"host-{n}") if n else host
        one.hear("go")
        time.sleep(chance.uniform(0, 0.15))  # this is the random instant, not a wait
        one.kill()
        one.assert_all_gone()
        books = one.directory / "books"
        begun.append(len(list(books.glob("*/members"))))
    return f"killed when {begun} of 30 families had begun; 0 processes left"


@scenario(
    "H10",
    "the host is killed for want of memory",
    "as by SIGKILL",
    needs=("root", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
async def out_of_memory(scene: Scene) -> str:
    async with scene.engine() as engine:
        await _three_tasks(scene, engine)
        with make_group("memory") as group:
            scene.tell("group", group)
            (group / "memory.limit_in_bytes").write_text("60000000")
            held = []
            while True:
                held.append(bytearray(b"x") * 1_000_000)
    return ""


@out_of_memory.direct
def wait_for_oom(host: HostProcess) -> str:
    group = Path(host.hear("group"))
    assert host.wait() == -signal.SIGKILL
    seen = _killed(host)
    group.rmdir()
    return seen


@scenario(
    "H11",
    "asyncio.run ends under the manager; a nursery crashes around an engine",
    "the families are gone; who waits gets an answer",
    lossy=True,
)
def loop_ends(scene: Scene) -> str:
    project = scene.project()

    async def leave() -> ClaudeTask:
        task = await TaskManager().spawn_task(
            "x", "", project.directory, argv=project.argv(WORST), policy=quick()
        )
        await until(lambda: project.has("up"))
        return task

    task = asyncio.run(leave())
    until_true(project.is_free, "the end of the family")
    assert TaskManager().get_task(task.id) is task

    async def look() -> Outcome:
        return await task.wait()

    outcome = asyncio.run(look())
    assert outcome.reason is Reason.ENGINE_CLOSED, outcome

    class Crash(Exception):
        pass

    async def crash() -> None:
        async with anyio.create_task_group() as group, scene.engine() as engine:
            await scene.start(engine, scene.project("crash"), WORST)
            waiting = await scene.start(engine, scene.project("other"), WORST)
            group.start_soon(waiting.wait)
            raise Crash

    for backend in BOTH:
        try:
            anyio.run(crash, backend=backend)
            raise AssertionError("no crash")
        except* Crash:
            pass
        for name in ("crash", "other"):
            assert not scene.project(name).alive
            (scene.project(name).book / "up").unlink()
    asyncio.run(TaskManager.reset())
    return "engine_closed for the waiter; 3 families gone, twice at the crash itself"


@scenario(
    "H12",
    "`ebt run`: the reader of its output goes; its terminal is closed",
    "the family is gone; exit code of a signal",
    lossy=True,
)
def closed_outputs(scene: Scene) -> str:
    piped, terminal = scene.project("piped"), scene.project("terminal")

    def command(name: str) -> list[str]:
        project = scene.project(name)
        run = [sys.executable, "-m", "eventbus_tasks", "run", "-C", str(project.directory), "--"]
        return [*run, *project.argv(WORST)]

    with subprocess.Popen(command("piped"), stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        reader.stdout.close()
        first = reader.wait(240)
    assert not piped.alive
    pid, master = pty.fork()
    if not pid:
        os.execv(sys.executable, command("terminal"))
    until_true(lambda: terminal.has("up"), "the start")
    os.close(master)
    until_true(lambda: stat_of(pid)[:1] == ["Z"], "the end of ebt")
    second = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert not terminal.alive
    assert first in (141, -13), first
    assert second in (129, -1), second
    return f"exit codes {first} and {second}; both families gone"


@scenario(
    "H13",
    "SIGTERM to `ebt run` that is PID 1 of a container",
    "a graceful stop, exit code 143",
    needs=("userns",),
    lossy=True,
)
def pid_one(scene: Scene) -> str:
    project = scene.project()
    command = ["unshare", "-Urmpf", "--mount-proc", "--kill-child", sys.executable]
    command += ["-m", "eventbus_tasks", "run", "-C", str(project.directory), "--"]
    # The numbers in the book are those of the container, so the flags have to do here.
    code = """
def bye(*_):
    flag("bye")
    os._exit(0)
signal.signal(signal.SIGTERM, bye)
child(stubborn=True, session=True)
flag("up")
rest()
"""
    with subprocess.Popen([*command, *project.argv(code)], stdout=subprocess.DEVNULL) as outer:
        until_true(lambda: project.has("up"), "the start")
        listing = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        inner = int(listing.read_text().split()[0])
        os.kill(inner, signal.SIGTERM)
        status = outer.wait(240)
    assert project.has("bye")
    assert status in (143, -15), status
    return f"exit code {status}; the agent could say goodbye; the container is gone"


@scenario("H14", "the clock of the helpers jumps by hours, all the time", "deadlines do not move")
async def clock_jumps(scene: Scene) -> str:
    project = scene.project()
    jumpy = scene.directory / "python"
    jumpy.write_text(f"""#!{sys.executable} -IS
import sys, time
real, calls = time.time, 0
def jump():
    global calls
    calls += 1
    return real() + (3600 if calls % 2 else -3600)
time.time = jump
code = sys.argv[sys.argv.index("-c") + 1]
sys.argv = ["-c", *sys.argv[sys.argv.index("-c") + 2:]]
exec(code)
""")
    jumpy.chmod(0o755)
    async with scene.engine(settings=Settings(python=jumpy)) as engine:
        code = """
def bye(*_):
    flag("asked")
    wait("go")
    os._exit(0)
signal.signal(signal.SIGTERM, bye)
flag("up")
rest()
"""
        task = await scene.start(engine, project, code, policy=quick(30))
        task.cancel_nowait()
        await until(lambda: project.has("asked"))
        await anyio.sleep(0.2)
        assert task.is_running
        project.flag("go")
        await task.wait()
        sent = [event.signal for event in scene.of(SignalSent, task)]
        assert sent == [15]
        _, outcome = await scene.run(engine, project, "ignore(); rest()", timeout=0.5)
        assert outcome.reason is Reason.TIMED_OUT
    times = [event.at for event in scene.of(SignalSent)]
    assert (max(times) - min(times)).total_seconds() > 3000  # the fake was in force
    return "no early KILL in a grace of 30 s; a timeout of 0.5 s came"


@scenario(
    "H15",
    "an exit handler spawns while the interpreter is finalising",
    "it works or is refused; no hang, nothing left",
)
def finalising(scene: Scene) -> str:
    project = scene.project()
    program = f"""
import asyncio, atexit, threading
from eventbus_tasks import TaskManager
async def spawn(argv):
    task = await TaskManager().spawn_task("x", "", {str(project.directory)!r}, argv=argv)
    return await task.wait()
async def leave(argv):
    await TaskManager().spawn_task("x", "", {str(scene.project("left").directory)!r}, argv=argv)
def late():
    try:
        print("late:", asyncio.run(spawn(["true"])).reason, flush=True)
    except BaseException as error:
        print("late:", type(error).__name__, flush=True)
atexit.register(late)
threading.Thread(target=lambda: asyncio.run(asyncio.sleep(600)), daemon=True).start()
asyncio.run(leave({scene.project("left").argv(WORST)!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240
    )
    until_true(scene.project("left").is_free, "the end of what was left")
    assert done.returncode == 0, done
    assert "late: " in done.stdout, done
    return done.stdout.strip() + "; exit code 0"

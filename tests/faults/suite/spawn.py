"""S: starting a task, and everything that can be wrong with that."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio

from eventbus_tasks import (
    Command,
    InvalidRequestError,
    Reason,
    ResourceError,
    Settings,
    Task,
    TaskEngine,
    TaskStarted,
    hookimpl,
)
from eventbus_tasks._process.family import children
from tests.faults.suite.machine import group_of_pids
from tests.faults.suite.registry import BOTH, scenario
from tests.faults.suite.scene import Scene, until


@scenario("S01", "missing binary", "spawn_failed names it; nothing left, project free")
async def missing_binary(scene: Scene) -> str:
    project = scene.project()
    async with scene.engine() as engine:
        task, outcome = await scene.run(engine, project, "", argv=["/nope/program"])
        assert outcome.reason is Reason.SPAWN_FAILED
        assert "/nope/program" in outcome.message
        assert not scene.of(TaskStarted, task)
        await scene.works(engine, project)
    return outcome.message


class Elsewhere:
    """Builds commands that work in another directory than the project."""

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command | None:
        if where := task.request.options.get("cwd"):
            return Command(argv=task.request.argv, cwd=Path(where))
        return None


@scenario(
    "S02",
    "not executable, bad shebang, a directory; cwd missing or a file",
    "each error names the right path and cause; project free",
)
async def wrong_files(scene: Scene) -> str:
    project = scene.project()
    plain, script = project.directory / "plain", project.directory / "script"
    plain.write_text("data")
    script.write_text("#!/nope/interpreter\n")
    script.chmod(0o755)
    gone = str(project.directory / "gone")
    cases: list[tuple[list[str], dict[str, str], str, str]] = [
        ([str(plain)], {}, str(plain), "not executable"),
        ([str(script)], {}, "/nope/interpreter", "does not exist"),
        ([str(project.directory)], {}, str(project.directory), "directory"),
        (["true"], {"cwd": gone}, gone, "cannot work in"),
        (["true"], {"cwd": str(plain)}, str(plain), "cannot work in"),
    ]
    async with scene.engine(plugins={"elsewhere": Elsewhere()}) as engine:
        for argv, options, path, cause in cases:
            _, outcome = await scene.run(engine, project, "", argv=argv, options=options)
            assert outcome.reason is Reason.SPAWN_FAILED
            assert path in outcome.message, outcome.message
            assert cause in outcome.message, outcome.message
        for wrong in (gone, str(plain)):
            with contextlib.suppress(InvalidRequestError):
                await scene.spawn(engine, project, "", project_dir=wrong)
                raise AssertionError("accepted in a directory that is none")
        await scene.works(engine, project)
    return f"{len(cases)} reasons and 2 refusals, each with its path"


@scenario(
    "S03", "E2BIG, NUL, lone surrogate", "refused before exec or spawn_failed; nothing is left"
)
async def impossible_arguments(scene: Scene) -> str:
    project = scene.project()
    refused = 0
    async with scene.engine() as engine:
        wrong: list[dict[str, Any]] = [
            {"argv": ["true", "x" * 131072]},
            {"argv": ["true", "a\0b"]},
            {"argv": ["true", "\ud800"]},
            {"env": {"A=B": "c"}},
            {"env": {"A": "\0"}},
            {"env": {"A": "x" * 131072}},
        ]
        for options in wrong:
            try:
                await scene.spawn(engine, project, "", **options)
            except InvalidRequestError:
                refused += 1
        assert refused == len(wrong)
        # Each argument is possible, all of them together are not.
        argv = ["true", *["x" * 120_000] * 60]
        _, outcome = await scene.run(engine, project, "", argv=argv)
        assert outcome.reason is Reason.SPAWN_FAILED, outcome
        await scene.works(engine, project)
    return f"{refused} refused; {outcome.message[-40:]}"


@contextlib.contextmanager
def _few_descriptors(more: int) -> Iterator[None]:
    """Leave this process so many free descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    plugs: list[int] = []
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more + 2, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                plugs.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(more):
            os.close(plugs.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for plug in plugs:
            os.close(plug)


@scenario(
    "S04",
    "EMFILE: 0 to 14 descriptors left",
    "a task that ran, or a ResourceError that says so; no leak, and it works afterwards",
    backends=BOTH,
)
async def no_descriptors(scene: Scene) -> str:
    project = scene.project()
    seen = []
    async with scene.engine() as engine:
        await scene.works(engine, project)
        for more in range(15):
            with _few_descriptors(more):
                try:
                    _, outcome = await scene.run(engine, project, "pass")
                    assert outcome.reason in (Reason.EXITED, Reason.SPAWN_FAILED), outcome
                    seen.append(outcome.reason.value)
                    assert outcome.reason is Reason.EXITED or "files" in outcome.message, outcome
                except ResourceError as error:
                    assert error.errno == errno.EMFILE, error
                    seen.append(type(error).__name__)
            await scene.works(engine, project)
    assert seen[-1] == "exited", seen
    return ", ".join(f"{seen.count(one)}x {one}" for one in dict.fromkeys(seen))


@scenario(
    "S05",
    "EAGAIN at fork: the cgroup has no process left",
    "spawn_failed says so; it works once there is room",
    needs=("root",),
)
async def no_processes(scene: Scene) -> str:
    project = scene.project()
    with group_of_pids() as group:
        async with scene.engine() as engine:
            await scene.works(engine, project)
            group.freeze_count()
            _, outcome = await scene.run(engine, project, "pass")
            assert outcome.reason is Reason.SPAWN_FAILED, outcome
            group.thaw_count()
            await scene.works(engine, project)
    return outcome.message


@scenario("S06", "the host has inheritable descriptors", "the child has 0, 1 and 2 only")
async def inherited_descriptors(scene: Scene) -> str:
    project = scene.project()
    extra = os.open("/dev/null", os.O_RDWR)
    os.set_inheritable(extra, True)
    other = os.dup2(extra, 57, inheritable=True)
    async with scene.engine() as engine:
        await scene.run(engine, project, "flag('fds', str(sorted(os.listdir('/proc/self/fd'))))")
    os.close(extra)
    os.close(other)
    found = project.text("fds")
    assert found == "['0', '1', '2', '3']", found  # 3 lists the directory
    return "0, 1, 2"


@scenario(
    "S07",
    "the host ignores TERM and HUP and blocks USR1",
    "the child ignores and blocks nothing",
)
async def inherited_signals(scene: Scene) -> str:
    project = scene.project()
    before = [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGHUP)]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    async with scene.engine() as engine:
        task, _ = await scene.run(engine, project, "", argv=["cat", "/proc/self/status"])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    for number, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
        signal.signal(number, handler)
    fields = dict(line.split(":\t") for line in task.output.text().splitlines() if ":\t" in line)
    # 32 and 33 are the C library's own: it lets no program touch them, in either direction.
    theirs = 1 << 31 | 1 << 32
    found = {name: int(fields[name], 16) & ~theirs for name in ("SigBlk", "SigIgn")}
    assert found == {"SigBlk": 0, "SigIgn": 0}, fields
    return "SigBlk 0, SigIgn 0"


@scenario("S08", "the host ignores SIGCHLD", "status 7 is 7", backends=BOTH)
async def sigchld_ignored(scene: Scene) -> str:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    async with scene.engine() as engine:
        _, outcome = await scene.run(engine, scene.project(), "sys.exit(7)")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert outcome.return_code == 7
    return "7"


@scenario("S09", "a thread of the host reaps every child", "status 7 is 7", backends=BOTH)
async def waitpid_thief(scene: Scene) -> str:
    over = threading.Event()
    stolen = []

    def steal() -> None:
        while not over.is_set():
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid:
                    stolen.append(pid)
            except ChildProcessError:
                pass
            time.sleep(0.0005)

    thief = threading.Thread(target=steal)
    thief.start()
    async with scene.engine() as engine:
        victim = os.posix_spawn("/bin/true", ["true"], os.environ)
        _, outcome = await scene.run(engine, scene.project(), "sys.exit(7)")
        await until(lambda: victim in stolen, "the theft")
    over.set()
    thief.join()
    assert outcome.return_code == 7
    return f"7, while {len(stolen)} children of the host were stolen"


@scenario(
    "S10",
    "the caller is cancelled at every await of spawn, by scope and natively",
    "no process left; the task has ended or was never there",
    backends=BOTH,
)
async def cancelled_in_spawn(scene: Scene) -> str:
    code = "child(stubborn=True); rest()"
    tries = finished = 0
    async with scene.engine() as engine:

        async def spawn() -> None:
            nonlocal finished
            # A project for each: one that was given up may be taken for another moment.
            task = await scene.spawn(engine, scene.project(f"project-{tries}"), code)
            finished += 1
            await task.cancel(now=True)

        async def by_scope(wait: Callable[[], Any]) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(spawn)
                await wait()
                group.cancel_scope.cancel()

        async def natively(wait: Callable[[], Any]) -> None:
            spawning = asyncio.ensure_future(spawn())
            await wait()
            spawning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await spawning

        async def passes(steps: int) -> None:
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()

        for way in [by_scope, natively] if scene.backend == "asyncio" else [by_scope]:
            for steps in range(8):
                tries += 1
                await way(functools.partial(passes, steps))
                tries += 1
                await way(functools.partial(anyio.sleep, steps * 0.001))
        await until(lambda: not engine.running_tasks, "the end of abandoned tasks")
    return f"{tries} cancellations, {finished} came too late; 0 processes left"


@scenario(
    "S11", "Ctrl-C during spawn", "KeyboardInterrupt; the child is known and stopped", lossy=True
)
def interrupted_in_spawn(scene: Scene) -> str:
    project = scene.project()
    interrupted = 0

    async def spawn(delay: float) -> None:
        async with scene.engine() as engine:
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            await scene.spawn(engine, project, "child(stubborn=True); rest()")
            await anyio.sleep_forever()

    for step in range(6):
        try:
            anyio.run(spawn, step * 0.003, backend=scene.backend)
        except KeyboardInterrupt:
            interrupted += 1
        scene.check_gone()
    assert interrupted == 6
    return "6 interrupts, 0 processes left"


@scenario(
    "S12",
    "exec takes 0.6 s",
    "the loop of the host turns meanwhile",
    needs=("root", "strace"),
)
async def slow_exec(scene: Scene) -> str:
    project = scene.project()
    turns = 0
    async with scene.engine() as engine:
        first = await scene.start(engine, scene.project("first"), "flag('up'); rest()")
        assert first.pid is not None
        guardian = int(_parent(first.pid))
        warden = int(_parent(guardian))
        command = ["strace", "-f", "-o", "/dev/null"]
        for pid in (warden, *children(warden)):  # one of those is the next guardian
            command += ["-p", str(pid)]
        command += ["-e", "trace=execve", "-e", "inject=execve:delay_enter=600000"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr is not None
            await anyio.wait_readable(tracer.stderr)  # attached
            task = await scene.spawn(engine, project, "pass")
            while not task.started_at:
                turns += 1
                await anyio.sleep(0.005)
            await task.wait()
            tracer.terminate()
        await first.cancel()
    assert turns > 20, turns
    return f"{turns} turns of 5 ms before the start"


def _parent(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]


@scenario(
    "S13",
    "no shebang, empty program, relative program",
    "an error; never run through a shell; relative means relative to the project",
)
async def no_shell(scene: Scene) -> str:
    project = scene.project()
    script = project.directory / "script"
    script.write_text(f"touch {project.book}/ran\n")
    script.chmod(0o755)
    relative = project.directory / "relative"
    relative.write_text(f"#!/bin/sh\ntouch {project.book}/relative\n")
    relative.chmod(0o755)
    async with scene.engine() as engine:
        _, outcome = await scene.run(engine, project, "", argv=[str(script)])
        assert outcome.reason is Reason.SPAWN_FAILED
        assert not project.has("ran")
        for argv in ([""], []):
            try:
                await scene.spawn(engine, project, "", argv=argv, agent="command")
                raise AssertionError("accepted without a program")
            except InvalidRequestError:
                pass
        _, ran = await scene.run(engine, project, "", argv=["./relative"])
        assert ran.return_code == 0
        assert project.has("relative")
    return outcome.message.rpartition(":")[2].strip()


@scenario("S14", "the state directory cannot be used", "an error that names it; no process")
async def no_state(scene: Scene) -> str:
    project = scene.project()
    (scene.directory / "file").touch()
    settings = Settings(state_dir=scene.directory / "file" / "state")
    async with scene.engine(settings=settings) as engine:
        _, outcome = await scene.run(engine, project, "flag('ran')")
    assert outcome.reason is Reason.SPAWN_FAILED, outcome
    assert not project.has("ran")
    assert "no place for the output" in outcome.message
    return outcome.message[:70]


@scenario("S15", "the interpreter of the warden is missing", "the engine refuses to start, clearly")
async def no_interpreter(scene: Scene) -> str:
    message = ""
    try:
        async with scene.engine(settings=Settings(python=Path("/nope/python"))):
            raise AssertionError("it started")
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        message = str(error)
        assert isinstance(error, OSError), error
    assert "/nope/python" in message
    return message


@scenario(
    "S16",
    "spawn from a thread without a loop; two engines in two threads",
    "an error and no process; both work",
)
async def threads(scene: Scene) -> str:
    project = scene.project()
    errors: list[BaseException] = []
    codes: list[int | None] = []

    def without_loop(engine: TaskEngine) -> None:
        spawning = engine.spawn_task("x", argv=["true"], project_dir=project.directory)
        try:
            spawning.send(None)
        except BaseException as error:
            errors.append(error)
        finally:
            spawning.close()

    async def own_engine(name: str) -> None:
        async with TaskEngine(load_installed=False) as engine:
            task = await engine.spawn_task(
                name, argv=["sh", "-c", "exit 3"], project_dir=scene.project(name).directory
            )
            codes.append((await task.wait()).return_code)

    async with scene.engine() as engine:
        await anyio.to_thread.run_sync(without_loop, engine)
        assert errors
        await until(lambda: not engine.running_tasks)
        workers = [
            threading.Thread(target=anyio.run, args=(own_engine, name)) for name in ("a", "b")
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            await anyio.to_thread.run_sync(worker.join)
        await scene.works(engine, project)
    assert codes == [3, 3]
    return f"{type(errors[0]).__name__}; exit codes {codes}"

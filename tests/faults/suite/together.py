"""C: many tasks, many threads, many hosts."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import shutil
import subprocess
import threading
from pathlib import Path

import anyio

from eventbus_tasks import (
    EngineClosedError,
    OutputReceived,
    ProjectBusyError,
    Reason,
    Task,
    TaskEnded,
    TaskEngine,
)
from tests.faults.suite.books import Project
from tests.faults.suite.outside import HostProcess
from tests.faults.suite.registry import BOTH, scenario
from tests.faults.suite.scene import NIGHTLY, QUICK, Scene, quick, until
from tests.faults.suite.terminate import PRIVATE_NUMBERS


@scenario(
    "C01",
    "20 callers and 6 engines in 6 threads want one project at once",
    "one winner each time, ProjectBusyError for the others",
    backends=BOTH,
)
async def one_project(scene: Scene) -> str:
    project = scene.project()
    won: list[Task] = []
    busy = 0

    async def want(engine: TaskEngine) -> None:
        nonlocal busy
        try:
            won.append(await scene.spawn(engine, project, "flag('up'); rest()"))
        except ProjectBusyError:
            busy += 1

    async with scene.engine() as engine:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(want, engine)
        assert (len(won), busy) == (1, 19)
        await won.pop().cancel()

    barrier = threading.Barrier(6)
    results: list[str] = []
    over = threading.Event()

    async def own_engine() -> None:
        async with TaskEngine(load_installed=False) as engine:
            barrier.wait()
            try:
                await engine.spawn_task(
                    "x", "", project.directory, argv=["sleep", "1000"], policy=QUICK
                )
                results.append("won")
            except ProjectBusyError:
                results.append("busy")
            await anyio.to_thread.run_sync(over.wait)

    threads = [
        threading.Thread(target=anyio.run, args=(own_engine,), kwargs={"backend": scene.backend})
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    await until(lambda: len(results) == 6, "six answers")
    over.set()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert sorted(results) == ["busy"] * 5 + ["won"]
    scene.check_gone()
    return "1 of 20 callers, 1 of 6 engines"


@scenario(
    "C02",
    "five names of one directory: link, .., slash, relative, bind mount",
    "one task",
    needs=("userns",),
    wrap=PRIVATE_NUMBERS,
    lossy=True,
)
async def five_names(scene: Scene) -> str:
    project = scene.project()
    link, bound = scene.directory / "link", scene.directory / "bound"
    link.symlink_to(project.directory)
    bound.mkdir()
    subprocess.run(["mount", "--bind", str(project.directory), str(bound)], check=True)
    os.chdir(project.directory.parent)
    spellings = [
        str(link),
        f"{project.directory}/../{project.name}",
        f"{project.directory}/",
        project.name,
        str(bound),
    ]
    refused = 0
    async with scene.engine() as engine:
        await scene.start(engine, project, "flag('up'); rest()")
        for name in spellings:
            try:
                await scene.spawn(engine, project, "pass", project_dir=name)
            except ProjectBusyError:
                refused += 1
        await engine.running_tasks[0].cancel()
        for name in spellings:
            _, outcome = await scene.run(engine, project, "pass", project_dir=name)
            assert outcome.reason is Reason.EXITED
    assert refused == len(spellings)
    subprocess.run(["umount", str(bound)], check=True)
    return f"{refused} of {len(spellings)} refused while it ran, all work afterwards"


@scenario(
    "C03",
    "two hosts want one project; the winner is killed",
    "one winner; free exactly when its family is gone",
    backends=BOTH,
    lossy=True,
)
async def two_hosts(scene: Scene) -> str:
    scene.tell("hello")
    shared = Project(Path(await scene.told()), "shared")
    tries = 0
    async with scene.engine() as engine:
        while True:
            try:
                code = "child(session=True, stubborn=True); ignore(); flag('up'); rest()"
                await scene.spawn(engine, shared, code)
                break
            except ProjectBusyError as error:
                assert str(shared.directory) in str(error)
                tries += 1
                if tries == 1:
                    scene.tell("busy")
                await anyio.sleep(0.01)
        # Nobody of the last family lives now, or the lock has lied.
        scene.tell("won", tries)
        await scene.told()
        for task in engine.running_tasks:
            await task.cancel()
    return f"won after {tries} tries"


@two_hosts.direct
def kill_winner(host: HostProcess) -> str:
    host.hear("hello")
    host.say(str(host.directory))
    host.hear("won")
    shared = host.project("shared")
    while not shared.has("up"):
        pass
    first = shared.members
    second = host.another("second")
    second.hear("hello")
    second.say(str(host.directory))
    second.hear("busy")
    host.kill()
    tries = second.hear("won")
    alive = [member for member in shared.alive if member in first]
    assert not alive, f"{alive} of the first family live"
    second.say("end")
    assert second.wait() == 0, second.errors
    return f"busy while the winner lived, won after {tries} tries, nobody of the first alive"


@scenario("C04", "200 short tasks by 8 workers", "each ends once, nothing is left", backends=BOTH)
async def many_short(scene: Scene) -> str:
    async with scene.engine() as engine:

        async def work(name: str) -> None:
            for _ in range(25):
                argv = ["sh", "-c", "echo hello"]
                task = await scene.spawn(engine, scene.project(name), "", argv=argv)
                outcome = await task.wait()
                assert outcome.reason is Reason.EXITED
                assert task.output.tail() == ["hello"]

        async with anyio.create_task_group() as group:
            for name in "abcdefgh":
                group.start_soon(work, name)
    assert len(scene.of(TaskEnded)) == 200
    return "200 ends, each with its line"


@scenario(
    "C05",
    "150 (by night 1,000) tasks spawned and cancelled at random times",
    "each has one true end; nothing is left",
    backends=BOTH,
)
async def random_times(scene: Scene) -> str:
    chance = random.Random(5)
    reasons: dict[str, int] = {}
    count = 1000 if NIGHTLY else 150
    async with scene.engine() as engine:
        gate = anyio.CapacityLimiter(16)

        async def one(n: int, delay: float, shape: str, now: bool) -> None:
            async with gate:
                argv = ["sh", "-c", shape]
                project = scene.project(f"project-{n}")
                task = await scene.spawn(engine, project, "", argv=argv, policy=quick(0.1))
                await anyio.sleep(delay)
                await task.cancel(now=now)
                assert task.outcome is not None
                reason = task.outcome.reason
                reasons[reason] = reasons.get(reason, 0) + 1
                assert reason in (Reason.EXITED, Reason.CANCELLED, Reason.EXIT_CODE), task.outcome

        shapes = [
            "exit 0",
            "exit 3",
            "sleep 1000 & sleep 1000",
            "trap '' TERM; sleep 0.05; sleep 1000",
            "setsid sleep 1000 & exit 0",
            "echo a; echo b",
        ]
        async with anyio.create_task_group() as group:
            for n in range(count):
                delay = chance.uniform(0, 0.3) ** 2
                group.start_soon(one, n, delay, chance.choice(shapes), chance.random() < 0.3)
    assert sum(reasons.values()) == count
    return ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))


@scenario(
    "C06", "holder files with rubbish, or deleted, while held", "still one task", backends=BOTH
)
async def holder_files(scene: Scene) -> str:
    project = scene.project()
    state = Path(os.environ["EBT_STATE_DIR"])
    refused = 0
    async with scene.engine() as engine:
        task = await scene.start(engine, project, "flag('up'); rest()")
        files = [path for path in (state / "holders").rglob("*") if path.is_file()]
        assert files
        for damage in (b"", b"\xff\x00{", b"[1]", b'{"task": {"a": 1}, "host_pid": "x"}', None):
            if damage is None:
                shutil.rmtree(state / "holders")
            else:
                files[0].write_bytes(damage)
            with contextlib.suppress(ProjectBusyError):
                await scene.spawn(engine, project, "pass")
                raise AssertionError("two tasks in one project")
            refused += 1
        await task.cancel()
        await scene.works(engine, project)
    return f"{refused} of 5 refused, whatever the file said"


@scenario(
    "C07",
    "100 tasks at once",
    "all run; descriptors and threads of the host stay bounded; all are gone together",
    backends=BOTH,
)
async def hundred(scene: Scene) -> str:
    descriptors = len(os.listdir("/proc/self/fd"))
    async with scene.engine() as engine:
        for n in range(100):
            await scene.spawn(engine, scene.project(f"p{n}"), "", argv=["sleep", "1000"])
        await until(lambda: all(task.started_at for task in engine.tasks), "100 starts")
        used = len(os.listdir("/proc/self/fd")) - descriptors
        threads = threading.active_count()
        assert used <= 4 * 100 + 20, used
        assert threads < 60, threads
        async with anyio.create_task_group() as group:
            for task in engine.tasks:
                group.start_soon(task.cancel)
    return f"{used} descriptors, {threads} threads for 100 tasks"


@scenario(
    "C08",
    "the engine closes while tasks are being spawned",
    "none survives; late callers get EngineClosedError",
    backends=BOTH,
    lossy=True,
)
async def closing_while_spawning(scene: Scene) -> str:
    refused = accepted = 0
    for steps in (0, 1, 2, 4, 8):

        async def spawn(engine: TaskEngine, n: int) -> None:
            nonlocal refused, accepted
            try:
                code = "child(stubborn=True, session=True); rest()"
                await scene.spawn(engine, scene.project(f"p{n}"), code)
                accepted += 1
            except EngineClosedError:
                refused += 1

        async with anyio.create_task_group() as group:
            async with scene.engine() as engine:
                for n in range(8):
                    group.start_soon(spawn, engine, n)
                await anyio.sleep(steps * 0.004)
            scene.check_gone()
    assert refused + accepted == 40
    return f"{accepted} accepted and ended, {refused} refused"


@scenario(
    "C09",
    "receivers come and go under load",
    "each has a range without holes",
    backends=BOTH,
)
async def coming_and_going(scene: Scene) -> str:
    ranges: list[list[tuple[int, int]]] = []

    def receive(mine: list[tuple[int, int]], event: OutputReceived) -> None:
        mine.append((event.start, event.end))

    async with scene.engine() as engine:
        code = "flag('up')\nfor _ in range(200): lines(20); time.sleep(0.002)"
        task = await scene.start(engine, scene.project(), code)

        async def come_and_go(pause: float) -> None:
            while task.is_running:
                mine: list[tuple[int, int]] = []
                ranges.append(mine)
                receiver = functools.partial(receive, mine)
                with engine.signals.output_received.connect(receiver):
                    await anyio.sleep(pause)

        async with anyio.create_task_group() as group:
            for pause in (0.001, 0.003, 0.01):
                group.start_soon(come_and_go, pause)
            await task.wait()
    for mine in ranges:
        for (_, end), (start, _) in itertools.pairwise(mine):
            assert end == start
    return f"{len(ranges)} receivers, {sum(map(len, ranges))} ranges, no hole"

"""B: subscribers and plugins that misbehave."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import anyio

from eventbus_tasks import (
    Command,
    HandlerFailed,
    OutputReceived,
    Reason,
    Settings,
    SignalSent,
    Task,
    TaskCompleted,
    TaskEnded,
    TaskEvent,
    TaskStarted,
    hookimpl,
)
from eventbus_tasks.testing import Belongings
from tests.faults.suite.books import until_true
from tests.faults.suite.registry import BOTH, scenario
from tests.faults.suite.scene import Scene, quick, until


@scenario("B01", "a receiver always raises", "the others have everything", backends=BOTH)
async def raises(scene: Scene) -> str:
    lines: list[str] = []

    def bad(event: TaskEvent) -> None:
        raise RuntimeError("bad receiver")

    async def bad_too(event: TaskEvent) -> None:
        raise RuntimeError("bad async receiver")

    async with scene.engine() as engine:
        engine.signals.any_event.connect(bad)
        engine.signals.task_ended.connect(bad_too)
        engine.signals.output_line.connect(bad)
        engine.signals.output_line.connect(lambda event: lines.append(event.text))
        _, outcome = await scene.run(engine, scene.project(), "lines(200)")
    assert outcome.reason is Reason.EXITED
    assert len(lines) == 200
    return f"200 lines, exited; {len(scene.of(HandlerFailed))} HandlerFailed"


@scenario("B02", "a receiver hangs for ever", "cancel and shutdown are bounded", backends=BOTH)
async def hangs(scene: Scene) -> str:
    async def hang(event: TaskEvent) -> None:
        await anyio.sleep(3600)

    settings = Settings(receiver_deadline=0.3)
    async with scene.engine(settings=settings) as engine:
        engine.signals.any_event.connect(hang)
        task = await scene.start(engine, scene.project(), "flag('up'); lines(10**9, 0.01)")
        assert await task.cancel()
        await scene.start(engine, scene.project("other"), "flag('up'); rest()")
    failures = [failure.where for failure in scene.of(HandlerFailed) if failure.overran]
    assert failures
    return f"cancelled, closed; named: {failures[0][-30:]}"


@scenario(
    "B03",
    "a slow async receiver, 20,000 lines",
    "the child is not held, nothing is dropped: output comes merged",
    backends=BOTH,
)
async def slow(scene: Scene) -> str:
    project = scene.project()
    ranges: list[tuple[int, int]] = []
    gate = anyio.Event()

    async def slow_receiver(event: OutputReceived) -> None:
        await gate.wait()
        ranges.append((event.start, event.end))

    async with scene.engine() as engine:
        engine.signals.output_received.connect(slow_receiver)
        task = await scene.spawn(engine, project, "lines(20000); flag('done')")
        await until(lambda: project.has("done"), "the end of the child")
        await until(lambda: task.return_code is not None)
        gate.set()
        outcome = await task.wait()
    assert outcome.reason is Reason.EXITED
    assert ranges[0][0] == 0
    assert ranges[-1][1] == outcome.output_bytes["stdout"]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    return f"{len(ranges)} events cover all {ranges[-1][1]} bytes"


@scenario("B04", "a receiver cancels its own task", "cancelled once", backends=BOTH)
async def cancels(scene: Scene) -> str:
    async with scene.engine() as engine:

        def stop(event: TaskEvent) -> None:
            engine.get_task(event.task).cancel_nowait()

        async def stop_and_wait(event: OutputReceived) -> None:
            await engine.cancel_task(event.task)

        engine.signals.output_received.connect(stop)
        engine.signals.output_received.connect(stop_and_wait)
        engine.signals.signal_sent.connect(stop)
        _, outcome = await scene.run(engine, scene.project(), "lines(10**9, 0.001)")
    assert outcome.reason is Reason.CANCELLED
    assert len(scene.of(TaskEnded)) == 1
    return "cancelled, 1 end"


@scenario("B05", "the receiver of the end spawns in the same project", "it works", backends=BOTH)
async def spawns(scene: Scene) -> str:
    project = scene.project()
    more: list[Task] = []
    async with scene.engine() as engine:

        async def next_one(event: TaskCompleted) -> None:
            if len(more) < 3:
                more.append(await scene.spawn(engine, project, "lines(1)"))

        engine.signals.task_completed.connect(next_one)
        await scene.run(engine, project, "lines(1)")
        await until(lambda: len(more) == 3 and not engine.running_tasks)
    assert all(task.outcome and task.outcome.reason is Reason.EXITED for task in more)
    return "3 more tasks, each spawned by the end of the last"


@scenario("B06", "SystemExit and KeyboardInterrupt in receivers", "the engine lives", backends=BOTH)
async def exits(scene: Scene) -> str:
    async with scene.engine() as engine:

        def leave(event: TaskEvent) -> None:
            raise SystemExit(3)

        async def leave_too(event: TaskEvent) -> None:
            raise SystemExit(4)

        engine.signals.task_started.connect(leave)
        engine.signals.task_ended.connect(leave_too)
        _, outcome = await scene.run(engine, scene.project(), "lines(5)")
        assert outcome.reason is Reason.EXITED
        await scene.works(engine, scene.project())
    return f"exited; {len(scene.of(HandlerFailed))} HandlerFailed"


@scenario(
    "B07",
    "a receiver blocks the loop while a stop ladder runs",
    "KILL comes meanwhile; the receiver is named",
    backends=BOTH,
)
async def blocks(scene: Scene) -> str:
    project = scene.project()
    free_meanwhile = False

    def block(event: SignalSent) -> None:
        nonlocal free_meanwhile
        if event.signal == 15:
            until_true(project.is_free, "the end of the family")
            free_meanwhile = True
            time.sleep(0.3)  # more than a receiver may take before it is named

    async with scene.engine() as engine:
        code = "child(stubborn=True, session=True); ignore(); flag('up'); rest()"
        task = await scene.start(engine, project, code, policy=quick(0.3))
        engine.signals.signal_sent.connect(block)
        assert await task.cancel()
    assert free_meanwhile
    assert [failure.overran for failure in scene.of(HandlerFailed)] == [True]
    return f"gone while the loop was blocked; named: {scene.of(HandlerFailed)[0].where[-20:]}"


BAD = {
    "no_import": "import no_such_module",
    "wrong_argument": "@hookimpl\ndef ebt_build_command(task, colour): return None",
    "misspelt": "@hookimpl\ndef ebt_build_comand(task): return None",
    "exits": "raise SystemExit(3)",
    "good": "@hookimpl\ndef ebt_register_agents(register): register('good', 'works')",
}


@scenario(
    "B08",
    "installed plugins: import error, wrong signature, misspelt hook, SystemExit, same name twice",
    "each is off and named with its reason; the rest works",
)
async def broken_plugins(scene: Scene) -> str:
    site = scene.directory / "site"
    for n, (name, source) in enumerate([*BAD.items(), ("good", "")]):
        info = site / f"dist_{n}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{n}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[eventbus_tasks]\n{name} = bad_{n}\n")
        (site / f"bad_{n}.py").write_text(f"from eventbus_tasks import hookimpl\n{source}\n")
    sys.path.append(str(site))
    os.environ["EBT_PLUGINS"] = ",".join(BAD)
    async with scene.engine(load_installed=True) as engine:
        reports = {(r.name, r.distribution): r for r in engine.plugin_reports() if r.name in BAD}
        await scene.works(engine, scene.project())
        agents = engine.plugins.agents
    states = {name: report.state for (name, _), report in reports.items() if name != "good"}
    assert states == dict.fromkeys(states, "broken"), states
    assert set(states) == set(BAD) - {"good"}
    assert all(report.reason for report in reports.values() if report.state == "broken")
    assert "good" in agents
    return "; ".join(f"{name[0]}: {report.reason[:30]}" for name, report in reports.items())[:150]


class BadBuilder:
    """Builds what cannot be executed."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers

    @hookimpl
    def ebt_build_command(self, task: Task) -> Any:
        """Give out the next answer."""
        return self.answers.pop(0) if self.answers else None


@scenario(
    "B09",
    "a builder returns str, bytes, a coroutine, NUL, a huge argument, wrong types",
    "an outcome that says so; the plugin is named; the project is free",
)
async def bad_commands(scene: Scene) -> str:
    project = scene.project()
    answers: list[Any] = [
        "ls",
        b"ls",
        ["ls"],
        Command(argv=("ls", "a\0b")),
        Command(argv=("x" * 200_000,)),
        Command(argv=()),
        Command(argv=("ls",), env={"A=": "b"}),
        Command(argv=("ls",), capture="tape"),  # type: ignore[arg-type]
        Command(argv=("ls",), interpreter=object()),  # type: ignore[arg-type]
    ]
    count = len(answers)
    messages = []
    async with scene.engine(plugins={"bad": BadBuilder(answers)}) as engine:
        for _ in range(count):
            before = len(scene.of(HandlerFailed))
            await scene.run(engine, project, "pass")
            assert len(scene.of(HandlerFailed)) == before + 1
            messages.append(scene.of(HandlerFailed)[-1].error)
        await scene.works(engine, project)
    assert all(messages)
    return f"{count} answers refused, the next builder asked"


@scenario(
    "B10",
    "a receiver disconnects itself and others during delivery",
    "no skip, no crash",
    backends=BOTH,
)
async def disconnects(scene: Scene) -> str:
    calls: list[str] = []
    async with scene.engine() as engine:
        signal = engine.signals.task_started

        def first(event: TaskStarted) -> None:
            calls.append("first")
            one.close()
            three.close()

        one = signal.connect(first)
        signal.connect(lambda event: calls.append("second"))
        three = signal.connect(lambda event: calls.append("third"))
        signal.connect(lambda event: calls.append("fourth"))
        for _ in range(2):
            await scene.run(engine, scene.project(), "pass")
    assert calls == ["first", "second", "fourth", "second", "fourth"], calls
    return ", ".join(calls)


@scenario("B11", "closures, and weak receivers that are collected", "kept; weak ones go quietly")
async def collected(scene: Scene) -> str:
    calls: list[str] = []

    class Owner:
        def receive(self, event: TaskEvent) -> None:
            calls.append("weak")

    async with scene.engine() as engine:
        engine.signals.task_started.connect(lambda event: calls.append("closure"))
        owner = Owner()
        gone = weakref.ref(owner)
        engine.signals.task_started.connect(owner.receive, weak=True)
        await scene.run(engine, scene.project(), "pass")
        del owner
        gc.collect()
        assert gone() is None
        await scene.run(engine, scene.project(), "pass")
    assert calls == ["closure", "weak", "closure"]
    return ", ".join(calls)


class Leaky:
    """A plugin that leaves a descriptor, a thread and a child behind at each command."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.descriptors: list[int] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.threads: list[threading.Thread] = []

    @hookimpl
    def ebt_build_command(self, task: Task) -> None:
        """Leak."""
        self.descriptors.append(os.open("/dev/null", os.O_RDONLY))
        self.children.append(subprocess.Popen(["sleep", "1000"]))
        self.threads.append(threading.Thread(target=self.over.wait))
        self.threads[-1].start()


@scenario(
    "B12",
    "a plugin leaks a descriptor, a thread, a child",
    "the engine is not disturbed, and leaves nothing of its own",
    leaky=True,
)
async def leaks(scene: Scene) -> str:
    before = Belongings.now()
    leaky = Leaky()
    async with scene.engine(plugins={"leaky": leaky}) as engine:
        for _ in range(2):
            _, outcome = await scene.run(engine, scene.project(), "lines(3)")
            assert outcome.reason is Reason.EXITED
    scene.close()

    def left() -> dict[str, int]:
        return {kind: len(items) for kind, items in Belongings.now().new_since(before).items()}

    # A thread of the engine's own may still be on its way out.
    until_true(lambda: left()["threads"] <= 2, "the end of the engine's threads")
    counts = left()
    for child in leaky.children:
        assert child.poll() is None  # nobody has touched it
        child.kill()
        child.wait()
    leaky.over.set()
    assert counts == {"processes": 2, "descriptors": 2, "threads": 2}, counts
    return "left: 2 children, 2 descriptors, 2 threads: exactly the plugin's"

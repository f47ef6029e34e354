"""Many tasks at once: what following them costs, and what it does to everything else."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks._load import PYTHON, engine, origin, producer, ticker
from benchmarks._processes import children, private_memory
from benchmarks._processes import places as make_places
from benchmarks._table import Column, Numbers, Table, Variant

if TYPE_CHECKING:
    from eventbus_tasks import Task


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _guardians_cpu() -> float:
    """Return the CPU seconds of all guardians: the children of the warden, our child."""
    total = 0
    for warden in children(os.getpid()):
        for guardian in children(warden):
            # In nanoseconds; the numbers in `stat` are hundredths of a second for each of them.
            total += int(Path(f"/proc/{guardian}/schedstat").read_text().split()[0])
    return total / 1e9


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class _Latency:
    """Takes lines that begin with the time at which they were written."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def take(self, text: str) -> None:
        self.delays.append(time.monotonic() - float(text[:17].split(maxsplit=1)[0]))

    async def take_async(self, text: str) -> None:
        self.take(text)

    def numbers(self, cpu: float) -> Numbers:
        return {
            "cpu": cpu / len(self.delays) * 1e6,
            "p50": _quantile(self.delays, 0.5) * 1e3,
            "p95": _quantile(self.delays, 0.95) * 1e3,
            "lines": float(len(self.delays)),
        }

    async def watch(self, tasks: int, seconds: float) -> tuple[Numbers, float]:
        """Wait until everybody writes, then count for a while; return also the guardians' CPU."""
        import anyio

        while len(self.delays) < 50 * tasks:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        self.delays.clear()
        cpu, guardians = _own_cpu(), _guardians_cpu()
        await anyio.sleep(seconds)
        numbers = self.numbers(_own_cpu() - cpu)
        return numbers, (_guardians_cpu() - guardians) / len(self.delays) * 1e6


def measure_chatty_origin(tasks: int, rate: float, seconds: float) -> Numbers:
    """Follow chatty programs as the origin did."""
    import asyncio

    async def main() -> Numbers:
        latency = _Latency()
        argv = ticker(rate, seconds + 60)
        readers = [asyncio.ensure_future(origin(argv, [latency.take_async])) for _ in range(tasks)]
        numbers, _ = await latency.watch(tasks, seconds)
        for child in children(os.getpid()):
            os.kill(child, signal.SIGKILL)
        await asyncio.gather(*readers)
        return numbers

    return asyncio.run(main())


def measure_chatty(
    tasks: int, rate: float, seconds: float, *, backend: str = "asyncio", disk: bool = False
) -> Numbers:
    """Follow chatty tasks with one receiver of lines."""
    import anyio

    async def main() -> Numbers:
        latency = _Latency()
        async with engine(disk=disk) as running:
            running.signals.output_line.connect(lambda line: latency.take(line.text))
            argv = ticker(rate, seconds + 60)
            for place in make_places(tasks):
                await running.spawn_task("chat", argv=argv, project_dir=place)
            numbers, guardians = await latency.watch(tasks, seconds)
            return {**numbers, "guardians": guardians}

    return anyio.run(main, backend=backend)


async def _heartbeat(delays: list[float], still: Callable[[], bool]) -> None:
    import anyio

    while still():
        due = time.monotonic() + 0.002
        await anyio.sleep(0.002)
        delays.append(time.monotonic() - due)


_IDLE: Final = """\
import asyncio, json, sys, threading, time
delays = []
async def main():
    print(flush=True)
    while gate.is_alive():
        due = time.monotonic() + 0.002
        await asyncio.sleep(0.002)
        delays.append(time.monotonic() - due)
gate = threading.Thread(target=sys.stdin.read)
gate.start()
asyncio.run(main())
print(json.dumps(sorted(delays)))
"""


@contextlib.contextmanager
def _idle_loop_beside(numbers: Numbers) -> Iterator[None]:
    """Let a process that does nothing measure, too, how long its loop lags meanwhile."""
    with subprocess.Popen(
        [*PYTHON, _IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.stdin.close()
        delays: list[float] = json.loads(process.stdout.read())
    numbers["idle p99"] = _quantile(delays, 0.99) * 1e3


class _Steps:
    """The CPU time of every step of the running loop: what nothing else can be blamed for."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = time.thread_time()

    def before_task_step(self, task: object) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: object) -> None:
        self.longest = max(self.longest, time.thread_time() - self._began)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the loop in which this is called; as an instrument of trio, or within asyncio."""
        if (trio := sys.modules.get("trio")) is not None:
            trio.lowlevel.add_instrument(self)
            yield
            trio.lowlevel.remove_instrument(self)
            return
        from asyncio import Handle

        original = Handle.__dict__["_run"]

        def run(handle: Handle) -> None:
            self.before_task_step(handle)
            original(handle)
            self.after_task_step(handle)

        setattr(Handle, "_run", run)  # noqa: B010 - it is private, for type checkers too
        yield
        setattr(Handle, "_run", original)  # noqa: B010


async def _lag_while(work: Callable[[], Awaitable[Any]]) -> Numbers:
    import anyio

    delays: list[float] = []
    busy = [True]
    beside: Numbers = {}
    steps = _Steps()
    with _idle_loop_beside(beside), steps.watch():
        async with anyio.create_task_group() as group:
            group.start_soon(_heartbeat, delays, lambda: busy[0])
            began = time.monotonic()
            await work()
            took = time.monotonic() - began
            busy[0] = False
    return {
        "p50": _quantile(delays, 0.5) * 1e3,
        "p99": _quantile(delays, 0.99) * 1e3,
        "most": max(delays) * 1e3,
        "step": steps.longest * 1e3,
        "seconds": took,
        **beside,
    }


def measure_flood_origin(tasks: int, total: int) -> Numbers:
    """Measure the lag of a loop that reads floods as the origin did."""
    import asyncio

    async def ignore(line: str) -> None:
        pass

    async def main() -> Numbers:
        argv = producer(80, total)
        return await _lag_while(
            lambda: asyncio.gather(*(origin(argv, [ignore]) for _ in range(tasks)))
        )

    return asyncio.run(main())


def measure_flood(
    tasks: int, total: int, *, backend: str = "asyncio", alone: bool = False
) -> Numbers:
    """Measure the lag of a loop that follows floods, with a batch receiver for each.

    Args:
        tasks: How many.
        total: Bytes that each writes.
        backend: Of the loop.
        alone: Give the host a processor of its own, and all tasks the others.
    """
    import anyio

    processors = os.sched_getaffinity(0)
    own = {min(processors)}

    async def main() -> Numbers:
        async with engine() as running:
            made: list[Task] = []

            async def work() -> None:
                for task in made:
                    await task.wait()

            def receive(event: Any) -> None:
                for _ in event.lines:
                    pass

            argv = producer(80, total)
            for place in make_places(tasks):
                task = await running.spawn_task("flood", argv=argv, project_dir=place)
                running.signals.output_received.connect(receive, task=task.ref)
                made.append(task)
                if alone and len(made) == 1:  # the warden runs: what it starts will run there too
                    os.sched_setaffinity(0, own)
            return await _lag_while(work)

    if alone and processors > own:
        os.sched_setaffinity(0, processors - own)
    return anyio.run(main, backend=backend)


def measure_idle_loop(seconds: float, tasks: int) -> Numbers:
    """Measure what the machine alone adds: programs that only compute, and an idle loop."""
    import asyncio

    async def main() -> Numbers:
        argv = [*PYTHON, "while True: pass"]
        spin = [subprocess.Popen(argv) for _ in range(tasks)]  # noqa: ASYNC220
        try:
            return await _lag_while(lambda: asyncio.sleep(seconds))
        finally:
            for process in spin:
                process.kill()
                process.wait()

    return asyncio.run(main())


def measure_burst_origin(tasks: int) -> Numbers:
    """Measure the lag while many programs are started at once as the origin did."""
    import asyncio

    async def main() -> Numbers:
        argv = [*PYTHON, "pass"]
        return await _lag_while(lambda: asyncio.gather(*(origin(argv, []) for _ in range(tasks))))

    return asyncio.run(main())


def measure_burst(tasks: int, *, backend: str = "asyncio") -> Numbers:
    """Measure the lag while many tasks are started at once."""
    import anyio

    async def main() -> Numbers:
        async with engine() as running:
            places = make_places(tasks)

            async def one(place: Path) -> None:
                task = await running.spawn_task("one", argv=[*PYTHON, "pass"], project_dir=place)
                await task.wait()

            async def work() -> None:
                async with anyio.create_task_group() as group:
                    for place in places:
                        group.start_soon(one, place)

            return await _lag_while(work)

    return anyio.run(main, backend=backend)


def measure_idle(tasks: int, seconds: float, *, backend: str = "asyncio") -> Numbers:
    """Measure what silent tasks cost, and what it takes to cancel all of them."""
    import anyio

    async def main() -> Numbers:
        async with engine() as running:
            places = make_places(tasks)
            before = private_memory(os.getpid())
            made = [
                await running.spawn_task("idle", argv=["sleep", "1000"], project_dir=place)
                for place in places
            ]
            while any(task.pid is None for task in made):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            began = _own_cpu()
            await anyio.sleep(seconds)
            cpu = _own_cpu() - began
            memory = private_memory(os.getpid()) - before

            async def work() -> None:
                async with anyio.create_task_group() as group:
                    for task in made:
                        group.start_soon(task.cancel)

            lag = await _lag_while(work)
            return {
                "cpu": cpu / seconds * 100,
                "memory": memory / tasks / 1024,
                "cancel": lag["seconds"] * 1e3,
                "blocked": lag["most"],
            }

    return anyio.run(main, backend=backend)


def measure_idle_origin(tasks: int, seconds: float) -> Numbers:
    """Do the same as the origin did: a reader for each program, and SIGTERM to its group."""
    import asyncio

    async def main() -> Numbers:
        before = private_memory(os.getpid())
        processes = [
            await asyncio.create_subprocess_exec(
                "sleep", "1000", stdout=asyncio.subprocess.PIPE, start_new_session=True
            )
            for _ in range(tasks)
        ]
        readers = [asyncio.ensure_future(one.stdout.readline()) for one in processes if one.stdout]
        began = _own_cpu()
        await asyncio.sleep(seconds)
        cpu = _own_cpu() - began
        memory = private_memory(os.getpid()) - before

        async def work() -> None:
            for process in processes:
                os.killpg(process.pid, signal.SIGTERM)
            for process in processes:
                await process.wait()
            await asyncio.gather(*readers)

        lag = await _lag_while(work)
        return {
            "cpu": cpu / seconds * 100,
            "memory": memory / tasks / 1024,
            "cancel": lag["seconds"] * 1e3,
            "blocked": lag["most"],
        }

    return asyncio.run(main())


def tables(quick: bool) -> list[Table]:
    """Return the tables of this module."""
    seconds = 1.5 if quick else 4.0
    chatty = [
        Table(
            title=f"{tasks} chatty tasks, 100 lines/s each, one receiver of lines",
            variants=[
                Variant(label=label, function=function, arguments={**load, **options},
                        baseline=label == "origin")
                for label, function, options in (
                    ("origin", measure_chatty_origin, {}),
                    ("engine, asyncio", measure_chatty, {}),
                    ("engine, trio", measure_chatty, {"backend": "trio"}),
                    ("engine, asyncio, disk plugin", measure_chatty, {"disk": True}),
                )
                for load in [{"tasks": tasks, "rate": 100.0, "seconds": seconds}]
            ],
            columns=[
                Column(key="cpu", title="host CPU, µs/line"),
                Column(key="cpu", title="of the origin's", ratio_to="origin", digits=2),
                Column(key="guardians", title="guardians' CPU, µs/line"),
                Column(key="p50", title="latency p50, ms", digits=2),
                Column(key="p95", title="latency p95, ms", digits=2),
            ],
            rounds=3,
        )
        for tasks in ((100,) if quick else (1, 10, 100))
    ]  # fmt: skip
    total = (4 if quick else 16) << 20
    lag_columns = [
        Column(key="p50", title="lag p50, ms", digits=2),
        Column(key="p99", title="lag p99, ms", digits=2),
        Column(key="most", title="longest lag, ms", digits=1),
        Column(key="idle p99", title="p99 of an idle process beside it, ms", digits=2),
        Column(key="step", title="longest step, ms of CPU time", digits=2),
        Column(key="seconds", title="seconds in all", digits=2),
    ]
    return [
        *chatty,
        Table(
            title="Lag of the loop with 32 flooding tasks and a receiver of .lines for each",
            variants=[
                Variant(label="idle loop beside 64 programs that only compute", baseline=True,
                        function=measure_idle_loop, arguments={"tasks": 64, "seconds": 2.0}),
                Variant(label="origin", function=measure_flood_origin, baseline=True,
                        arguments={"tasks": 32, "total": total // 4}),
                Variant(label="engine, asyncio", function=measure_flood,
                        arguments={"tasks": 32, "total": total}),
                Variant(label="engine, trio", function=measure_flood,
                        arguments={"tasks": 32, "total": total, "backend": "trio"}),
                Variant(label="engine, asyncio, a processor of its own", function=measure_flood,
                        arguments={"tasks": 32, "total": total, "alone": True}),
                Variant(label="engine, trio, a processor of its own", function=measure_flood,
                        arguments={"tasks": 32, "total": total, "backend": "trio", "alone": True}),
            ],
            columns=lag_columns,
            rounds=3,
        ),
        Table(
            title="Lag of the loop while 64 tasks start and end at once",
            variants=[
                Variant(label="origin", function=measure_burst_origin, baseline=True,
                        arguments={"tasks": 64}),
                Variant(label="engine, asyncio", function=measure_burst, arguments={"tasks": 64}),
                Variant(label="engine, trio", function=measure_burst,
                        arguments={"tasks": 64, "backend": "trio"}),
            ],
            columns=lag_columns,
            rounds=5,
        ),
        Table(
            title="200 silent tasks",
            variants=[
                Variant(label="origin", function=measure_idle_origin, baseline=True,
                        arguments={"tasks": 200, "seconds": 1.0}),
                Variant(label="engine, asyncio", function=measure_idle,
                        arguments={"tasks": 200, "seconds": 1.0}),
                Variant(label="engine, trio", function=measure_idle,
                        arguments={"tasks": 200, "seconds": 1.0, "backend": "trio"}),
            ],
            columns=[
                Column(key="memory", title="host memory, KiB/task"),
                Column(key="cpu", title="host CPU, %", digits=2),
                Column(key="cancel", title="cancel all, ms", digits=0),
                Column(key="blocked", title="longest lag meanwhile, ms"),
            ],
            rounds=3,
        ),
    ]  # fmt: skip

"""What a task costs: the way to its start, and the memory and descriptors that it takes."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any, Final

from benchmarks._load import engine
from benchmarks._processes import children, memory_of, places, private_memory
from benchmarks._table import Column, Numbers, Table, Variant

_COMMAND: Final = ["sleep", "1000"]


def measure_start(tasks: int, *, backend: str = "asyncio", disk: bool = False) -> Numbers:
    """Start the same command through the engine and by asyncio, in turns.

    On trio its own `open_process` is what the engine is compared with.
    """
    import anyio

    async def plain() -> float:
        began = time.perf_counter()
        process = await anyio.open_process(_COMMAND)
        took = time.perf_counter() - began
        process.kill()
        await process.wait()
        return took

    async def main() -> Numbers:
        plainly, ours, until_accepted = [], [], []
        async with engine(disk=disk) as running:
            for place in places(tasks):
                plainly.append(await plain())
                started = anyio.Event()
                began = time.perf_counter()

                def note(_: Any, started: anyio.Event = started) -> None:
                    ours.append(time.perf_counter() - began)  # noqa: B023 - set before the start
                    started.set()

                with running.signals.task_started.connect(note):
                    task = await running.spawn_task("one", argv=_COMMAND, project_dir=place)
                    until_accepted.append(time.perf_counter() - began)
                    await started.wait()
                await task.cancel(now=True)
        # The first one of ours starts the warden as well.
        base = statistics.median(plainly[1:])
        with_task = statistics.median(ours[1:])
        return {
            "base": base * 1e3,
            "ours": with_task * 1e3,
            "more": (with_task - base) * 1e3,
            "accepted": statistics.median(until_accepted[1:]) * 1e3,
            "first": ours[0] * 1e3,
        }

    return anyio.run(main, backend=backend)


def measure_size(tasks: int, *, backend: str = "asyncio", disk: bool = False) -> Numbers:
    """Measure what so many silent tasks take: memory (PSS), descriptors of the host, the end."""
    import anyio

    async def main() -> Numbers:
        async with engine(disk=disk) as running:
            where = places(tasks + 1)
            await running.spawn_task("first", argv=_COMMAND, project_dir=where.pop())
            await _started(running)
            before = private_memory(os.getpid())
            descriptors = len(os.listdir("/proc/self/fd"))
            alone = sum(map(memory_of, children(os.getpid())))
            began = time.perf_counter()
            for place in where:
                await running.spawn_task("idle", argv=_COMMAND, project_dir=place)
            await _started(running)
            starting = time.perf_counter() - began
            host = private_memory(os.getpid()) - before
            wardens = children(os.getpid())
            guardians = [pid for warden in wardens for pid in children(warden)]
            shared = sum(map(memory_of, [*wardens, *guardians])) - alone
            numbers = {
                "guardian": shared / tasks / 2**20,
                "host": host / tasks / 2**20,
                "both": (shared + host) / tasks / 2**20,
                "descriptors": (len(os.listdir("/proc/self/fd")) - descriptors) / tasks,
                "starting": starting,
            }
            began = time.perf_counter()
            async with anyio.create_task_group() as group:
                for task in running.running_tasks:
                    group.start_soon(task.cancel)
            return {**numbers, "cancel": time.perf_counter() - began}

    return anyio.run(main, backend=backend)


async def _started(running: Any) -> None:
    import anyio

    while any(task.pid is None for task in running.tasks):  # noqa: ASYNC110
        await anyio.sleep(0.01)


def tables(quick: bool) -> list[Table]:
    """Return the tables of this module."""
    ways: list[tuple[str, dict[str, Any]]] = [
        ("asyncio", {}),
        ("trio", {"backend": "trio"}),
        ("asyncio, disk plugin", {"disk": True}),
    ]
    return [
        Table(
            title="From the request to the running program, one after the other",
            variants=[
                Variant(label=label, function=measure_start,
                        arguments={"tasks": 20 if quick else 100, **options})
                for label, options in ways
            ],
            columns=[
                Column(key="base", title="plain process, ms", digits=2),
                Column(key="ours", title="task, ms", digits=2),
                Column(key="more", title="more, ms", digits=2),
                Column(key="accepted", title="accepted after, ms", digits=2),
                Column(key="first", title="with the warden's start, ms"),
            ],
            rounds=5,
        ),
        Table(
            title=f"{(count := 100 if quick else 1000):,} silent tasks",
            variants=[
                Variant(label=label, function=measure_size,
                        arguments={"tasks": count, **options})
                for label, options in ways
            ],
            columns=[
                Column(key="guardian", title="guardian and warden, MiB/task (PSS)", digits=2),
                Column(key="host", title="host, MiB/task", digits=2),
                Column(key="both", title="together", digits=2),
                Column(key="descriptors", title="descriptors/task", digits=2),
                Column(key="starting", title="starting all, s"),
                Column(key="cancel", title="cancelling all, s"),
            ],
            rounds=3,
        ),
    ]  # fmt: skip

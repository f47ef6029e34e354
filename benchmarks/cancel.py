"""Stopping: how soon, and whether the ladder keeps its time when its host cannot look after it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any, Final

from benchmarks._load import PYTHON, engine
from benchmarks._processes import places
from benchmarks._table import Column, Numbers, Table, Variant

_STUBBORN: Final = [
    *PYTHON,
    "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()",
]
_STOP_FOR: Final = """\
import os, signal, sys, time
host = int(sys.argv[1])
os.kill(host, signal.SIGSTOP)
time.sleep(float(sys.argv[2]))
os.kill(host, signal.SIGCONT)
"""


def measure_soft(tasks: int, *, backend: str = "asyncio") -> Numbers:
    """Cancel programs that end at SIGTERM, one after the other, in turns with plain processes.

    A plain process is signalled and waited for; a task also has its family looked for, its output
    completed, and its end told.
    """
    import anyio

    async def main() -> Numbers:
        plainly, ours = [], []
        async with engine() as running:
            for place in places(tasks):
                process = await anyio.open_process(["sleep", "1000"])
                began = time.perf_counter()
                process.terminate()
                await process.wait()
                plainly.append(time.perf_counter() - began)
                started = anyio.Event()
                with running.signals.task_started.connect(lambda _, on=started: on.set()):
                    task = await running.spawn_task(
                        "one", argv=["sleep", "1000"], project_dir=place
                    )
                    await started.wait()
                began = time.perf_counter()
                await task.cancel()
                ours.append(time.perf_counter() - began)
        return {
            "base": statistics.median(plainly) * 1e3,
            "ours": statistics.median(ours) * 1e3,
            "most": max(ours) * 1e3,
        }

    return anyio.run(main, backend=backend)


def measure_ladder(grace: float, *, hindered: str | None = None, seconds: float = 5.0) -> Numbers:
    """Measure how long after SIGTERM the guardian sends SIGKILL.

    Args:
        grace: Seconds that the policy gives.
        hindered: ``"blocked"``: a receiver blocks the loop; ``"stopped"``: the host is stopped
            (SIGSTOP); ``None``: neither.
        seconds: For how long.
    """
    import anyio

    from eventbus_tasks import Step, TerminationPolicy

    sent: dict[int, Any] = {}

    def hinder(event: Any) -> None:
        sent.setdefault(event.signal, event.at)
        if event.signal != 15 or hindered is None:
            return
        if hindered == "blocked":
            time.sleep(seconds)
        else:
            # Reaped in `main`: it has ended long before the task has.
            sent[0] = subprocess.Popen(
                [sys.executable, "-c", _STOP_FOR, str(os.getpid()), str(seconds)]
            )

    async def main() -> Numbers:
        policy = TerminationPolicy(steps=(Step(signal=15, grace=grace),))
        async with engine() as running:
            running.signals.signal_sent.connect(hinder)
            (place,) = places(1)
            task = await running.spawn_task(
                "stubborn", argv=_STUBBORN, project_dir=place, policy=policy
            )
            async for _ in task.lines():
                break
            await task.cancel()
        if 0 in sent:
            await anyio.to_thread.run_sync(sent[0].wait)
        took: float = (sent[9] - sent[15]).total_seconds()
        return {"grace": grace, "took": took, "off": (took - grace) * 1e3}

    return anyio.run(main)


def tables(quick: bool) -> list[Table]:
    """Return the tables of this module."""
    ways: list[tuple[str, str | None]] = [
        ("host idle", None),
        ("loop blocked for 5 s by a receiver", "blocked"),
        ("host stopped for 5 s (SIGSTOP)", "stopped"),
    ]
    return [
        Table(
            title="Cancelling a program that ends at SIGTERM",
            variants=[
                Variant(label=backend, function=measure_soft,
                        arguments={"tasks": 20 if quick else 100, "backend": backend})
                for backend in ("asyncio", "trio")
            ],
            columns=[
                Column(key="base", title="plain process, ms", digits=2),
                Column(key="ours", title="task, ms", digits=2),
                Column(key="most", title="longest, ms", digits=2),
            ],
            rounds=3,
        ),
        Table(
            title="The grace between SIGTERM and SIGKILL",
            variants=[
                Variant(label=label, function=measure_ladder,
                        arguments={"grace": 2.0, "hindered": hindered})
                for label, hindered in ways
            ],
            columns=[
                Column(key="grace", title="grace, s", digits=1),
                Column(key="took", title="took, s", digits=3),
                Column(key="off", title="off by, ms"),
            ],
            rounds=3,
        ),
    ]  # fmt: skip

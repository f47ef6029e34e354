"""Receivers that block, sleep or hang while a task floods: what the task notices of it."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

from benchmarks._load import engine, producer
from benchmarks._table import Column, Numbers, Table, Variant

_PLAIN = "a receiver that does nothing"

# Two gigabytes are more than a kernel lets wait for a disk, whose pace is not the subject here.
_IN_MEMORY = Path("/dev/shm")


def measure(total: int, seconds: float, *, kind: str) -> Numbers:
    """Let a task write as fast as it can, and return how long it took by its own clock.

    Args:
        total: Bytes that it writes.
        seconds: How long receivers block or sleep.
        kind: What they do: ``"plain"``, ``"block"``, ``"sleep"``, ``"hang"``.
    """
    import time

    import anyio

    blocked: list[bool] = []

    def plain(event: Any) -> None:
        pass

    def block(event: Any) -> None:
        if not blocked:
            blocked.append(True)
            time.sleep(seconds)

    async def sleep(event: Any) -> None:
        await anyio.sleep(seconds)

    async def hang(event: Any) -> None:
        await anyio.sleep_forever()

    file = Path("seconds").absolute()
    receiver = {"plain": plain, "block": block, "sleep": sleep, "hang": hang}[kind]

    async def main() -> Numbers:
        logs = _IN_MEMORY if shutil.disk_usage(_IN_MEMORY).free > 2 * total else None
        async with engine(receiver_deadline=0.5, output_dir=logs) as running:
            running.signals.output_received.connect(receiver)
            argv = producer(80, total, str(file))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            task = await running.spawn_task("flood", argv=argv, project_dir=".")
            await task.wait()
            assert task.output.size() == total // 80 * 80
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return {"took": float(file.read_text()), "memory": (most - before) / 1024}

    return anyio.run(main)


def tables(quick: bool) -> list[Table]:
    """Return the tables of this module."""
    total, seconds = (200 << 20, 2.0) if quick else (2 << 30, 10.0)
    kinds = {
        "plain": _PLAIN,
        "block": f"one that blocks the loop for {seconds:g} s",
        "sleep": f"one that sleeps {seconds:g} s for each event",
        "hang": "one that never returns",
    }
    return [
        Table(
            title=f"A task that writes {total >> 20:,} MiB as fast as it can, and its receiver",
            variants=[
                Variant(
                    label=label,
                    function=measure,
                    arguments={"total": total, "seconds": seconds, "kind": kind},
                    baseline=kind == "plain",
                )
                for kind, label in kinds.items()
            ],
            columns=[
                Column(key="took", title="running time of the program, s", digits=2),
                Column(key="took", title="of that beside the first", ratio_to=_PLAIN, digits=2),
                Column(key="memory", title="memory of the host grows by, MiB"),
            ],
            rounds=5,
        )
    ]

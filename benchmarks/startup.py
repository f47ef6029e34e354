"""From nothing to an answer: imports, and the quick commands of ``ebt``."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from typing import Any

from benchmarks._table import Column, Numbers, Table, Variant


def measure(argv: list[str]) -> Numbers:
    """Run a Python once without its output; count also what it has begun."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    run: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, *argv], **run)  # what is not compiled or cached yet
    cpu, began = used(), time.perf_counter()
    subprocess.run([sys.executable, *argv], **run)
    return {"wall": (time.perf_counter() - began) * 1e3, "cpu": (used() - cpu) * 1e3}


def tables(quick: bool) -> list[Table]:
    """Return the tables of this module."""
    rows = {
        "python -c pass": ["-c", "pass"],
        "import asyncio": ["-c", "import asyncio"],
        "import anyio, blinker, pluggy": ["-c", "import anyio, blinker, pluggy"],
        "import eventbus_tasks": ["-c", "import eventbus_tasks"],
        "from eventbus_tasks import TaskEngine": ["-c", "from eventbus_tasks import TaskEngine"],
        "ebt --version": ["-m", "eventbus_tasks", "--version"],
        "ebt ls": ["-m", "eventbus_tasks", "ls"],
    }
    first = next(iter(rows))
    return [
        Table(
            title="Start-up",
            variants=[
                Variant(
                    label=label,
                    function=measure,
                    arguments={"argv": argv},
                    baseline=not ("ebt" in label or "eventbus" in label),
                )
                for label, argv in rows.items()
            ],
            columns=[
                Column(key="wall", title="ms"),
                Column(key="cpu", title="CPU, ms"),
                Column(key="cpu", title="of a bare start", ratio_to=first),
            ],
            rounds=7,
        )
    ]

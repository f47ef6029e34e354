"""Variants are measured interleaved, each time in a fresh process; tables show what came out.

A module of benchmarks has functions that measure once and return numbers, and a `tables` function
that says which of them stand beside each other::

    def measure_sleep(seconds: float) -> dict[str, float]: ...

    def tables(quick: bool) -> list[Table]: ...

Ratios are made within a round and then their median is taken, so that what the machine does
besides changes them little.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]

LIMIT: Final = 300.0
"""Seconds after which one measurement is given up."""

Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row: a function that measures, and its arguments (plain JSON data)."""

    label: str
    function: Callable[..., Numbers]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of each row.

    Attributes:
        key: Its name in what the function returns.
        title: Its name in the table, with the unit.
        ratio_to: Label of the row that each round is divided by; ``None`` for the number itself.
        inverse: Less is better: divide the other way round.
        digits: Digits behind the point.
    """

    key: str
    title: str
    ratio_to: str | None = None
    inverse: bool = False
    digits: int = 1


@dataclass(frozen=True, kw_only=True)
class Table:
    """What is measured together."""

    title: str
    variants: Sequence[Variant]
    columns: Sequence[Column]
    rounds: int = 5


def measure(variant: Variant) -> Numbers:
    """Measure once, in a process of its own with a state directory of its own.

    Raises:
        RuntimeError: It did not work.
    """
    function = variant.function
    request = json.dumps([function.__module__, function.__name__, dict(variant.arguments)])
    with tempfile.TemporaryDirectory(prefix="ebt-bench-") as directory:
        environment = {key: value for key, value in os.environ.items() if key[:4] != "EBT_"}
        environment |= {
            "EBT_STATE_DIR": f"{directory}/state",
            "XDG_CONFIG_HOME": f"{directory}/config",
            "BENCH_DIR": directory,
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks._table", request],
            env=environment,
            cwd=directory,
            stdout=subprocess.PIPE,
            timeout=LIMIT,
        )
    if done.returncode:
        raise RuntimeError(f"{variant.label}: exit status {done.returncode}")
    numbers: Numbers = json.loads(done.stdout.splitlines()[-1])
    return numbers


def run(table: Table, *, rounds: int | None = None) -> str:
    """Measure a table and return it as Markdown."""
    found: dict[str, list[Numbers]] = {variant.label: [] for variant in table.variants}
    count = rounds or table.rounds
    for turn in range(count):
        for variant in table.variants:
            print(f"\r{table.title}: {turn + 1}/{count} {variant.label:<50.50}", end="", flush=True,
                  file=sys.stderr)  # fmt: skip
            found[variant.label].append(measure(variant))
    print(f"\r{'':<120}\r", end="", file=sys.stderr)
    return render(table, found)


def render(table: Table, found: Mapping[str, Sequence[Numbers]]) -> str:
    """Return what was measured as a Markdown table: median (least..most), ratios as medians."""
    rows = [["", *(column.title for column in table.columns)]]
    for variant in table.variants:
        row = [f"*{variant.label}*" if variant.baseline else variant.label]
        row.extend(_cell(column, variant.label, found) for column in table.columns)
        rows.append(row)
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    rule = ["-" * width if index == 0 else "-" * (width - 1) + ":" for index, width in
            enumerate(widths)]  # fmt: skip
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [rows[0], rule, *rows[1:]]
    ]
    return "\n".join([f"### {table.title}", "", *lines, ""])


def _cell(column: Column, label: str, found: Mapping[str, Sequence[Numbers]]) -> str:
    values = [numbers.get(column.key) for numbers in found[label]]
    if column.ratio_to is not None:
        base = [numbers.get(column.key) for numbers in found[column.ratio_to]]
        pairs = [(a, b) for a, b in zip(values, base, strict=True) if a and b]
        values = [b / a if column.inverse else a / b for a, b in pairs]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    shown = f"{statistics.median(known):,.{column.digits}f}"
    if column.ratio_to is not None:
        return shown + "×"
    if len(known) == 1:
        return shown
    return f"{shown} ({min(known):,.{column.digits}f}..{max(known):,.{column.digits}f})"


def _main() -> None:
    module, name, arguments = json.loads(sys.argv[1])
    numbers = getattr(importlib.import_module(module), name)(**arguments)
    print(json.dumps(numbers))


if __name__ == "__main__":
    _main()

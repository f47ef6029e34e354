"""Runs the benchmarks: ``python -m benchmarks [--quick] [--rounds N] [--list] [NAME ...]``.

Needs the core with trio and uvloop, and the disk plugin, installed. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks._table import Table, run

HERE: Final = Path(__file__).parent
FIRST: Final = ("streaming",)
"""Where reading begins; the others follow by name."""


def names() -> list[str]:
    """Return the benchmarks: the modules beside this one."""
    found = {path.stem for path in HERE.glob("[a-z]*.py")}
    return [*FIRST, *sorted(found - set(FIRST))]


def machine() -> str:
    """Describe what was measured on, in a sentence."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} processors, {memory:.0f} GiB, Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}; load average at the "
        f"beginning {os.getloadavg()[0]:.1f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    parser.add_argument("--quick", action="store_true", help="one round, less data, fewer rows")
    parser.add_argument("--rounds", type=int, help="rounds of every table")
    parser.add_argument("--list", action="store_true", help="print the names of the tables")
    parser.add_argument("--only", default="", help="only tables whose title contains this")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(names())
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(names())}")
    tables: list[Table] = []
    for name in options.names or names():
        tables += importlib.import_module(f"benchmarks.{name}").tables(options.quick)
    tables = [table for table in tables if options.only in table.title]
    if options.list:
        print("\n".join(table.title for table in tables))
        return
    print(f"{machine()}.\n", flush=True)
    for table in tables:
        print(run(table, rounds=options.rounds or (1 if options.quick else None)), flush=True)


if __name__ == "__main__":
    main()

"""The table of all scenarios: what was required, and what was seen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from tests.faults.suite.registry import everything

__all__ = ["table"]


def table(stats: dict[str, list[Any]]) -> Iterator[str]:
    """Return the lines of the table.

    Args:
        stats: Reports by outcome, as pytest's terminal reporter has them.
    """
    found: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for word, outcome in (
        ("ok", "passed"),
        ("BUG", "xfailed"),
        ("FAILED", "failed"),
        ("FAILED", "error"),
        ("not run", "skipped"),
    ):
        for report in stats.get(outcome, ()):
            name = report.nodeid.partition("[")[2].rstrip("]")
            number, _, backend = name.partition("-")
            seen = dict(report.user_properties).get("seen", "")
            if outcome == "skipped":
                seen = report.longrepr[2].removeprefix("Skipped: ")
            elif outcome == "xfailed":
                seen = report.wasxfail.removeprefix("reason: ")
            found.setdefault(number, []).append(f"{word} {backend}: {seen}")
            counts[word] = counts.get(word, 0) + 1
    everyone = everything()
    for one in everyone:
        if one.number in found or one.reason:
            yield f"{one.number}  {one.title}"
            yield from _indented("required", [one.required])
            yield from _indented("seen", found.get(one.number, [f"not provoked: {one.reason}"]))
    automated = sum(not one.reason for one in everyone)
    yield f"{len(everyone)} scenarios, {automated} of them automated; this run: " + ", ".join(
        f"{count} {word}" for word, count in counts.items()
    )


def _indented(label: str, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(
            text, 96, initial_indent=f"     {label:9}", subsequent_indent=" " * 14
        )

"""Plugins as lines of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus_tasks import PluginReport

__all__ = ["plugin_lines"]


def plugin_lines(reports: Sequence[PluginReport]) -> list[str]:
    """Return a table of plugins, each followed by the reason why it is not active.

    The texts are the plugins': make them safe for a terminal.
    """
    if not reports:
        return []
    rows = [("NAME", "STATE", "DISTRIBUTION", "VERSION", "HOOKS")]
    for report in reports:
        distribution = "(core)" if report.builtin else report.distribution or "-"
        hooks = ", ".join(report.hooks) or "-"
        rows.append((report.name, report.state, distribution, report.version or "-", hooks))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row, reason in zip(rows, ["", *(report.reason for report in reports)], strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[4]]).rstrip())
        if reason:
            lines.append("    " + " ".join(reason.split()))
    return lines

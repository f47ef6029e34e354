"""``ebt plugins``: what is installed, and why something of it is not active."""

from __future__ import annotations

import argparse
from typing import Final

__all__ = ["HELP", "configure"]

HELP: Final = "list plugins, and say why one is not active"

_EPILOG: Final = """\
examples:
  ebt plugins                         what is installed, and what it does
  ebt plugins --json                  the same for programs
  EBT_DISABLE_PLUGINS=voice ebt run …   leave one out for once
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "List every plugin: its distribution, its state, and the hooks it answers."
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="write a JSON array")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List the plugins."""
    from eventbus_tasks import terminal_safe
    from eventbus_tasks._cli.host import load_host
    from eventbus_tasks._cli.messages import configure_logging

    configure_logging(quiet=True)  # what is broken is in the list
    reports = load_host().reports
    if arguments.json:
        import json

        print(json.dumps([report.to_dict() for report in reports], indent=2))
        return 0
    rows = [("NAME", "STATE", "DISTRIBUTION", "VERSION", "HOOKS")]
    for report in reports:
        distribution = "(core)" if report.builtin else report.distribution or "-"
        hooks = ", ".join(report.hooks) or "-"
        rows.append((report.name, report.state, distribution, report.version or "-", hooks))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    reasons = ["", *(report.reason for report in reports)]
    for row, reason in zip(rows, reasons, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print(terminal_safe("  ".join([*cells, row[4]])).rstrip())
        if reason:
            print("    " + " ".join(terminal_safe(reason).split()))
    return 0

"""``ebt plugins``: what is installed, why something of it is not active, and how more comes."""

from __future__ import annotations

import argparse
from typing import Final

__all__ = ["HELP", "configure"]

HELP: Final = "list plugins, say why one is not active, install more"

_EPILOG: Final = """\
examples:
  ebt plugins                         what is installed, and what it does
  ebt plugins --json                  the same for programs
  EBT_DISABLE_PLUGINS=voice ebt run …   leave one out for once
  ebt plugins install eventbus-tasks-disk   add one, where this ebt is
"""

_EPILOG_INSTALL: Final = """\
how, is read from the environment in which this ebt lives:
  uv tool     uv tool install …, with everything that is there already
  pipx        pipx inject …
  otherwise   pip, or uv pip where there is no pip

examples:
  ebt plugins install eventbus-tasks-claude eventbus-tasks-disk
  ebt plugins install --dry-run ebt-acme     only show the command
  ebt plugins install ./my-plugin            a folder, a wheel, an address

The command is shown before it runs. The exit status is that of the installer; 2: refused,
127: uv or pipx is needed and missing.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "List every plugin: its distribution, its state, and the hooks it answers."
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="write a JSON array")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    adding = actions.add_parser(
        "install",
        help="add plugins where this ebt is",
        description="Install plugins into the environment of this ebt, and say what has come.",
        epilog=_EPILOG_INSTALL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    adding.add_argument("names", metavar="NAME", nargs="+", help="a distribution, as for pip")
    adding.add_argument("--dry-run", action="store_true", help="show the command, run nothing")
    adding.set_defaults(run=install)


def run(arguments: argparse.Namespace) -> int:
    """List the plugins."""
    from eventbus_tasks import terminal_safe
    from eventbus_tasks._cli.host import load_host
    from eventbus_tasks._cli.messages import configure_logging
    from eventbus_tasks._cli.tables import plugin_lines

    configure_logging(quiet=True)  # what is broken is in the list
    reports = load_host().reports
    if arguments.json:
        import json

        print(json.dumps([report.to_dict() for report in reports], indent=2))
        return 0
    for line in plugin_lines(reports):
        print(terminal_safe(line))
    return 0


def install(arguments: argparse.Namespace) -> int:
    """Install plugins."""
    from eventbus_tasks._cli import installing

    return installing.install(arguments)

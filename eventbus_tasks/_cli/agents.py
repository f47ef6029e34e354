"""``ebt agents``: which agents there are, and whether they can work."""

from __future__ import annotations

import argparse
from typing import Final

__all__ = ["HELP", "configure"]

HELP: Final = "list agents: installed, version, login, known bugs"

_EPILOG: Final = """\
It looks for the program of each agent, runs it with --version, and looks for a key or a file
with a login. No model is asked, so it costs nothing; "login: ?" means that none was found where
it usually is. The exit code is 1 if an agent that was named cannot work.

examples:
  ebt agents                  all of them
  ebt agents claude codex     only these
  ebt agents --json           the same for programs
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "List the agents that plugins drive, and say whether each can work."
    parser.epilog = _EPILOG
    parser.add_argument("agent", nargs="*", help="only this agent")
    parser.add_argument("--json", action="store_true", help="write a JSON array")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """List the agents."""
    from eventbus_tasks import UnknownAgentError, terminal_safe
    from eventbus_tasks._cli.host import load_host
    from eventbus_tasks._cli.messages import configure_logging

    configure_logging(quiet=True)
    host = load_host()
    for name in arguments.agent:
        if name not in host.agents:
            raise UnknownAgentError(name, tuple(sorted(host.agents)))
    wanted = arguments.agent or sorted(host.agents)
    found = [health for health in host.check_agents() if health.agent in wanted]
    failed = bool(arguments.agent) and not all(health.ok for health in found)
    if arguments.json:
        import json

        print(json.dumps([health.to_dict() for health in found], indent=2))
        return int(failed)
    rows = [("AGENT", "STATE", "VERSION", "LOGIN", "PROGRAM")]
    notes: list[list[str]] = [[]]
    for health in found:
        state = "ok" if health.ok else "missing" if not health.program else "broken"
        login = health.login or {True: "yes", False: "no", None: "?"}[health.logged_in]
        rows.append((health.agent, state, health.version or "-", login, health.program or "-"))
        bugs = [f"known: {bug}" for bug in health.known_bugs]
        notes.append([*health.problems, *bugs])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row, lines in zip(rows, notes, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print(terminal_safe("  ".join([*cells, row[4]])).rstrip())
        for line in lines:
            print("    " + " ".join(terminal_safe(line).split()))
    if not found:
        print("no agent: pip install eventbus-tasks-claude (or -acp, -codex, -gemini, -opencode)")
    return int(failed)

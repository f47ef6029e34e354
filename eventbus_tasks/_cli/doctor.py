"""``ebt doctor``: whether the promises can be kept here, and what tasks have left behind."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from eventbus_tasks._cli.exits import FAILED

if TYPE_CHECKING:
    from eventbus_tasks import Finding, Leftover

__all__ = ["HELP", "configure"]

HELP: Final = "say what works here, what does not, and what tasks have left behind"

_DESCRIPTION: Final = """\
Try out what tasks need: kernel, directories, a warden, plugins, agents. Look for processes that
tasks have left behind after their guardian and warden were killed.
"""

_EPILOG: Final = """\
Each line is ok, note (it works, and there is something to know) or wrong; below it stands what
to do. A small task is run; no model is asked. Left over is what carries the mark of a task
(EBT_TASK in its environment), or is in its control group, and has no guardian above it any more.
Without control groups, a process that has wiped its environment (env -i), and whose parents have
ended, is not found. "containment" says whether there are any.

examples:
  ebt doctor
  ebt doctor --sweep           show what is left over, then kill it
  ebt doctor --sweep 7ea9f57f  only what one task has left
  ebt doctor --json            the same for programs

exit status:
  0    all is well
  1    something is wrong
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument(
        "task", nargs="*", metavar="UUID", help="sweep only these tasks; the beginning is enough"
    )
    parser.add_argument(
        "--sweep", action="store_true", help="kill what tasks have left behind, after showing it"
    )
    parser.add_argument("--json", action="store_true", help="write a JSON object")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything."""
    from eventbus_tasks import diagnose
    from eventbus_tasks._cli.messages import configure_logging

    if arguments.task and not arguments.sweep:
        arguments.parser.error("tasks are named for --sweep only")
    if not all(arguments.task):
        arguments.parser.error("an empty UUID would mean every task")
    configure_logging(quiet=True)
    wanted, shown = tuple(arguments.task), not arguments.json
    swept = _sweep(wanted, shown=shown) if arguments.sweep else ()
    findings: list[Finding] = []
    for finding in diagnose():
        findings.append(finding)
        if not arguments.json:
            _show(finding)
    ok = all(finding.state != "wrong" for finding in findings)
    if arguments.json:
        import json

        data = {
            "ok": ok,
            "findings": [finding.to_dict() for finding in findings],
            "swept": [one.to_dict() for one in swept],
        }
        print(json.dumps(data, indent=2))
    return 0 if ok else FAILED


def _sweep(wanted: tuple[str, ...], *, shown: bool) -> tuple[Leftover, ...]:
    """End what is left over, of some tasks or of all, and return what has ended."""
    from eventbus_tasks import end_leftovers, find_leftovers
    from eventbus_tasks._cli.messages import say

    found = [one for one in find_leftovers() if not wanted or one.uid.startswith(wanted)]
    try:
        if shown:
            for one in found:
                _print(f"left over: {one.pid} {one.command} (task {one.uid})")
    finally:  # also where nobody could see it: that it was to be done is certain
        left = {(one.pid, one.start_time) for one in end_leftovers(found)}
    ended = tuple(one for one in found if (one.pid, one.start_time) not in left)
    if shown:
        say(f"{len(ended)} ended" if found else "nothing is left over")
    return ended


def _show(finding: Finding) -> None:
    _print(f"{finding.state:<5} {finding.subject:<19} {finding.text}")
    if finding.advice:
        _print(f"{'':<25} -> {finding.advice}")


def _print(text: str) -> None:
    from eventbus_tasks import terminal_safe

    # At once, because some of it takes its time.
    print(" ".join(terminal_safe(text).split("\n")), flush=True)

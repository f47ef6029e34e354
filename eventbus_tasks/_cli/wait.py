"""``ebt wait``: waits for the end of tasks of any program of this user."""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from eventbus_tasks._cli.exits import FAILED, NOT_CARRIED_OUT, TABLE, TIMED_OUT, code_of_end

if TYPE_CHECKING:
    from eventbus_tasks import Outcome, PluginHost, RunningTask, TaskRecord

__all__ = ["HELP", "configure"]

HELP: Final = "wait for tasks, also of other terminals and programs"

_DESCRIPTION: Final = """\
Wait until tasks have ended and nothing of them is left. The exit status is that of the task; of
several, the first one that is not 0.
"""

_EPILOG: Final = (
    """\
TASK is the number or name of a task, or the beginning of its UUID. A task that has ended already
is found by the plugin that keeps the history (eventbus-tasks-disk). That plugin also knows what
an agent has said about its own success; without it, the exit status of the program decides.

examples:
  ebt wait 12 && ebt run "now write the changelog"
  ebt wait --timeout 600 tests

"""
    + TABLE
)

# Seconds between two looks at a record whose host has still to write its end.
_LOOK: Final = 0.05


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("task", nargs="+", metavar="TASK", help="which tasks")
    parser.add_argument(
        "-t", "--timeout", type=_seconds, metavar="S", help="wait for S seconds at most (124)"
    )
    parser.add_argument("--json", action="store_true", help="write a JSON array")
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of seconds >= 0, not {text!r}")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Wait, and return the exit code of the task."""
    from eventbus_tasks import find_running_tasks
    from eventbus_tasks._cli.choosing import choose
    from eventbus_tasks._cli.host import load_host
    from eventbus_tasks._cli.messages import say
    from eventbus_tasks._cli.together import run_together

    limit = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    running = find_running_tasks()
    found: list[RunningTask | TaskRecord] = []
    host = load_host()
    for word in arguments.task:
        task = choose(running, word) or choose(host.task_records(), word, latest=True)
        if task is None:
            say(f"there is no task {word!r}")
            return FAILED
        found.append(task)
    quiet = arguments.json
    ends = run_together([partial(_wait, task, host, limit, quiet=quiet) for task in found])
    if arguments.json:
        import json

        data = [
            {**task.ref.to_dict(), "outcome": None if end is None else end.to_dict()}
            for task, end in zip(found, ends, strict=True)
        ]
        print(json.dumps(data, indent=2))
    codes = []
    for task, end in zip(found, ends, strict=True):
        if end is not None:
            codes.append(code_of_end(task.ref.agent, end))
        elif limit is not None and time.monotonic() >= limit:
            say(f"{task.ref.name}: still running")
            codes.append(TIMED_OUT)
        else:
            say(f"{task.ref.name}: nobody knows how it ended")
            codes.append(NOT_CARRIED_OUT)
    return next((code for code in codes if code), 0)


def _wait(
    task: RunningTask | TaskRecord, host: PluginHost, limit: float | None, *, quiet: bool
) -> Outcome | None:
    """Return the end of a task; ``None`` when the time is over, or nobody knows."""
    from eventbus_tasks import RunningTask, TaskNotFoundError
    from eventbus_tasks._cli.messages import say

    seen: Outcome | None = None
    if isinstance(task, RunningTask):
        try:
            left = None if limit is None else max(0.0, limit - time.monotonic())
            name = task.ref.name or task.ref.uid
            tell = None if quiet else partial(say, f"waiting for {name}…")
            seen = task.wait(left, watching=tell)
        except TaskNotFoundError:
            pass  # it has ended in this moment: the record knows more
        else:
            if seen is None:
                return None
    while True:
        record = next((one for one in host.task_records() if one.ref.uid == task.ref.uid), None)
        if record is None:
            return seen
        if not record.is_live():
            return record.read_outcome() or seen
        if limit is not None and time.monotonic() >= limit:
            return seen
        time.sleep(_LOOK)

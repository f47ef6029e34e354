"""``ebt cancel``: ends tasks of any program of this user, and waits until they are gone."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Final

from eventbus_tasks._cli.exits import FAILED, NOT_CARRIED_OUT

if TYPE_CHECKING:
    from eventbus_tasks import Outcome, RunningTask

__all__ = ["HELP", "configure"]

HELP: Final = "stop tasks, also of other terminals and programs"

_DESCRIPTION: Final = """\
Stop tasks, politely, and wait until nothing of them is left. It does not matter which program
has started them, or whether that program is still there.
"""

_EPILOG: Final = """\
TASK is the number or name of a task, or the beginning of its UUID.

examples:
  ebt cancel 12
  ebt cancel "fix the login" --now
  ebt cancel --all

exit status:
  0    all of them have ended
  1    there is no such task that runs
  2    a name means more than one task; nothing was stopped
  74   all were stopped, but the output could not be written
  125  something withstood SIGKILL, or does not answer
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("task", nargs="*", metavar="TASK", help="which tasks")
    parser.add_argument("--all", action="store_true", help="every task of yours that runs")
    parser.add_argument("--now", action="store_true", help="kill, without asking politely first")
    parser.add_argument("--json", action="store_true", help="write a JSON array")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Stop the tasks, all at the same time."""
    from eventbus_tasks import find_running_tasks
    from eventbus_tasks._cli.choosing import choose_all
    from eventbus_tasks._cli.messages import say
    from eventbus_tasks._cli.together import run_together

    if bool(arguments.task) == arguments.all:
        arguments.parser.error("which tasks? name them, or say --all")
    running = find_running_tasks()
    found = list(running) if arguments.all else choose_all(running, arguments.task)
    missing = [word for word in found if isinstance(word, str)]
    tasks = {task.ref.uid: task for task in found if not isinstance(task, str)}
    for word in missing:
        say(f"there is no task {word!r} that runs")
    if not arguments.json and tasks:
        names = ", ".join(task.ref.name or task.ref.uid for task in tasks.values())
        say(f"stopping {names}")
    results = run_together([partial(_cancel, task, arguments.now) for task in tasks.values()])
    code = FAILED if missing else 0
    for task, result in zip(tasks.values(), results, strict=True):
        name = task.ref.name or task.ref.uid
        if isinstance(result, OSError):
            say(f"{name}: does not answer: {result}")
            code = NOT_CARRIED_OUT
        elif result is not None and result.survivors:
            kept = ", ".join(f"{one.pid} {one.command}" for one in result.survivors)
            say(f"{name}: still running: {kept}")
            code = NOT_CARRIED_OUT
        elif not arguments.json:
            say(f"{name}: {'has ended' if result is None else result.reason.value}")
    if arguments.json:  # last: where it cannot be written, everything else has been said
        _print_json(list(tasks.values()), results)
    return code


def _cancel(task: RunningTask, now: bool) -> Outcome | OSError | None:
    from eventbus_tasks import TaskNotFoundError

    try:
        return task.cancel(now=now)
    except TaskNotFoundError:
        return None  # it has ended in this moment
    except OSError as error:
        return error


def _print_json(tasks: list[RunningTask], results: list[Outcome | OSError | None]) -> None:
    import json

    data = [
        {
            **task.ref.to_dict(),
            "outcome": None if result is None or isinstance(result, OSError) else result.to_dict(),
        }
        for task, result in zip(tasks, results, strict=True)
    ]
    print(json.dumps(data, indent=2))

"""The commands ``ebt ls`` and ``ebt show``, and how a task is named on the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from eventbus_tasks import Settings
from eventbus_tasks_disk.history import (
    Entry,
    Summary,
    host_lives,
    latest_entries,
    summarize,
)
from eventbus_tasks_disk.others import describe, entry_of, other_tasks
from eventbus_tasks_disk.printing import (
    one_line,
    parse_time,
    print_json,
    print_text,
    say_duration,
    shorten,
    with_home,
)
from eventbus_tasks_disk.unfinished import unfinished_entries

__all__ = [
    "LOGS_HELP",
    "LS_HELP",
    "SHOW_HELP",
    "TaskLookupError",
    "complain",
    "configure_logs",
    "configure_ls",
    "configure_show",
    "find_entry",
    "find_or_complain",
    "guarded",
    "look_up",
    "recover",
]

LS_HELP: Final = "list tasks, also of other processes and earlier days"
SHOW_HELP: Final = "show what is known about a task"
LOGS_HELP: Final = "print the output of a task"

_MIN_PREFIX: Final = 4
_MAX_CANDIDATES: Final = 10
_DEFAULT_ROWS: Final = 20


def configure_ls(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ebt ls``."""
    parser.description = LS_HELP
    parser.epilog = (
        "Status: pending, queued, running, stopping, detached (its host has died, and it "
        "goes on); completed, failed, cancelled; lost (its host has died, and it has no end); "
        "gone (its files were removed). A task that runs in a program without this plugin has the "
        "beginning of its UUID for a number, and is not listed once it has ended."
    )
    parser.add_argument("--project", metavar="DIR", help="only tasks of this project")
    parser.add_argument(
        "-n",
        "--limit",
        metavar="N",
        type=_count,
        default=_DEFAULT_ROWS,
        help=f"the latest N tasks (default: {_DEFAULT_ROWS}; 0 for all)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON array")
    parser.set_defaults(run=partial(guarded, run_ls))


def configure_show(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ebt show``."""
    parser.description = SHOW_HELP
    add_task_argument(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=partial(guarded, run_show))


def configure_logs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ebt logs``."""
    parser.description = LOGS_HELP
    parser.epilog = (
        "Streams that are kept apart are shown together, line by line, in the order in which they "
        "had come; standard error on standard error. With -f the command ends when the task has "
        "ended. Exit code: 0 whatever became of the task; 1 if there is no such task or output, 2 "
        "if the name is ambiguous."
    )
    add_task_argument(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the task ends")
    parser.add_argument(
        "--stdout",
        action="store_true",
        help="standard output alone, where standard error is kept apart from it",
    )
    parser.add_argument(
        "--stderr", action="store_true", help="standard error alone, where it is kept apart"
    )
    parser.add_argument(
        "-t", "--timestamps", action="store_true", help="put before each line when it had come"
    )
    parser.add_argument(
        "--raw", action="store_true", help="every byte as the task wrote it, control codes too"
    )
    parser.add_argument(
        "-n", "--lines", metavar="N", type=_count, default=None, help="begin with the last N lines"
    )
    parser.set_defaults(run=partial(guarded, _run_logs))


def _run_logs(arguments: argparse.Namespace) -> int:
    from eventbus_tasks_disk.logs import run_logs

    return run_logs(arguments)


def guarded(function: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a command; where a file or directory is in the way, say so in one line."""
    try:
        return function(arguments)
    except BrokenPipeError:
        raise  # the command line knows what to do when nobody reads any more
    except OSError as error:
        where = "" if error.filename is None else f": {one_line(str(error.filename))}"
        print_text(f"ebt: {error.strerror or error}{where}\n", to=sys.stderr)
        return 1


def add_task_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a task."""
    parser.add_argument(
        "task", metavar="ID|NAME", help="number, name, or beginning of the UUID of a task"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must not be negative: {text}")
    return min(number, sys.maxsize)


def recover(state_dir: Path) -> None:
    """Give an end to tasks whose host has died, if there are any."""
    if any(not host_lives(entry.host) for entry in unfinished_entries(state_dir)):
        from eventbus_tasks_disk.recovery import recover_all  # seldom needed, and not cheap

        recover_all(state_dir)


# -- finding ----------------------------------------------------------------------------------


class TaskLookupError(Exception):
    """No task, or more than one, is meant.

    Attributes:
        exit_code: What the command returns: 1 for none, 2 for more than one.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def find_entry(entries: Iterable[Entry], wanted: str) -> Entry:
    """Return the task that is meant: by number, UUID, name, or beginning of the UUID.

    Upper and lower case are the same. A part of a name is enough if nothing else fits.

    Raises:
        TaskLookupError: It is none, or not only one.
    """
    found: list[list[Entry]] = [[], [], []]
    word = wanted.casefold()
    for entry in entries:
        if str(entry.id) == wanted or entry.uid == word:
            found[0].append(entry)
        elif entry.name.casefold() == word:
            found[1].append(entry)
        elif word and (
            (len(word) >= _MIN_PREFIX and entry.uid.startswith(word))
            or word in entry.name.casefold()
        ):
            found[2].append(entry)
    shown = one_line(wanted)
    candidates = next((group for group in found if group), [])
    if not candidates:
        raise TaskLookupError(f"there is no task {shown!r}; `ebt ls` lists them", 1)
    if len(candidates) > 1:
        lines = [f"{shown!r} may be any of {len(candidates)} tasks; name one by its number:"]
        lines += [
            f"  {entry.id:>4}  {entry.uid[:8]}  {one_line(entry.name)}  ({entry.created[:19]})"
            for entry in candidates[:_MAX_CANDIDATES]
        ]
        if len(candidates) > _MAX_CANDIDATES:
            lines.append(f"  … and {len(candidates) - _MAX_CANDIDATES} older ones")
        raise TaskLookupError("\n".join(lines), 2)
    return candidates[0]


def find_or_complain(wanted: str) -> Entry | int:
    """Return the task that is meant, or the exit code after saying why there is none."""
    try:
        return look_up(wanted)
    except TaskLookupError as error:
        return complain(error)


def look_up(wanted: str) -> Entry:
    """Return the task of the index that is meant.

    Raises:
        TaskLookupError: It is none, or not only one.
    """
    state_dir = Settings.load().state_dir
    recover(state_dir)
    return find_entry(latest_entries(state_dir, wanted), wanted)


def complain(error: TaskLookupError) -> int:
    """Say why there is no task, and return the exit code."""
    print_text(f"ebt: {error}\n", to=sys.stderr)
    return error.exit_code


# -- ls ---------------------------------------------------------------------------------------


def run_ls(arguments: argparse.Namespace) -> int:
    """List tasks, the latest first."""
    state_dir = Settings.load().state_dir
    recover(state_dir)
    others = {task.ref.uid: task for task in other_tasks(state_dir)}
    kept = (entry for entry in latest_entries(state_dir) if entry.uid not in others)
    entries: Iterable[Entry] = chain(map(entry_of, others.values()), kept)
    if arguments.project is not None:
        entries = _of_project(entries, arguments.project)
    if arguments.limit:
        entries = islice(entries, arguments.limit)
    rows = (
        describe(others[entry.uid]) if entry.uid in others else _plain(entry, summarize(entry))
        for entry in entries
    )
    if arguments.json:
        print_json(list(rows))
        return 0
    table: list[tuple[str, ...]] = [("ID", "STATUS", "NAME", "AGENT", "AGE", "TIME", "PROJECT")]
    table += map(_row, rows)
    if len(table) == 1:
        print_text("no tasks\n", to=sys.stderr)
        return 0
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print_text("  ".join(cells).rstrip() + "\n")
    return 0


def _of_project(entries: Iterable[Entry], project: str) -> Iterator[Entry]:
    wanted = os.path.realpath(project)
    seen: dict[str, bool] = {}
    for entry in entries:
        path = entry.project_dir
        if path not in seen:
            seen[path] = path == wanted or os.path.realpath(path) == wanted
        if seen[path]:
            yield entry


def _row(task: Mapping[str, Any]) -> tuple[str, ...]:
    now = datetime.now(UTC)
    created = parse_time(task["created"])
    began = parse_time(task["started"]) or created
    ended = parse_time(task["ended"]) or (now if Summary(status=task["status"]).is_live else None)
    return (
        # Numbers of programs that keep nothing begin with 1, each time.
        str(task["id"]) if task["kept"] else task["uid"][:8],
        task["status"],
        shorten(one_line(task["name"]), 40),
        one_line(task["agent"]),
        "" if created is None else say_duration(now - created),
        "" if began is None or ended is None else say_duration(ended - began),
        with_home(one_line(task["project_dir"])),
    )


def _plain(entry: Entry, summary: Summary) -> dict[str, Any]:
    outcome = summary.outcome or {}
    return {
        "id": entry.id,
        "uid": entry.uid,
        "name": entry.name,
        "agent": entry.agent,
        "project_dir": entry.project_dir,
        "status": summary.status,
        "reason": outcome.get("reason"),
        "return_code": outcome.get("return_code"),
        "created": entry.created,
        "started": summary.started,
        "ended": summary.ended,
        "kept": True,
    }


# -- show -------------------------------------------------------------------------------------


def run_show(arguments: argparse.Namespace) -> int:
    """Show what is known about one task."""
    entry = find_or_complain(arguments.task)
    if isinstance(entry, int):
        return entry
    from eventbus_tasks_disk.details import details_of

    summary = summarize(entry)
    details = {**_plain(entry, summary), **details_of(entry)}
    if arguments.json:
        print_json(details)
        return 0
    print_text(f"task {entry.id}: {one_line(entry.name)}\n")
    for label, value in _lines(details):
        print_text(f"  {label:<10} {value}\n")
    return 0


def _lines(details: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    outcome = details["outcome"] or {}
    status = details["status"]
    reason = outcome.get("reason")
    yield "status", status if not reason or reason == status else f"{status} ({reason})"
    if outcome.get("message"):
        yield "message", one_line(outcome["message"])
    if outcome.get("return_code") is not None:
        yield "exit code", str(outcome["return_code"])
    yield "agent", one_line(details["agent"])
    yield "project", one_line(details["project_dir"])
    request = details["request"] or {}
    if request.get("prompt"):
        yield "prompt", shorten(one_line(request["prompt"]), 500)
    if details["argv"]:
        yield "command", shorten(one_line(json.dumps(details["argv"], ensure_ascii=False)), 500)
    for label in ("created", "started", "ended"):
        if moment := parse_time(details[label]):
            yield label, moment.astimezone().isoformat(sep=" ", timespec="seconds")
    began, ended = parse_time(details["started"]), parse_time(details["ended"])
    if began is not None and ended is not None:
        yield "time", say_duration(ended - began)
    if outcome.get("result"):
        yield "result", shorten(one_line(outcome["result"]), 500)
    for survivor in outcome.get("survivors") or ():
        yield "survivor", f"{survivor.get('pid')} {one_line(str(survivor.get('command')))}"
    if outcome.get("persist_error"):
        yield "not kept", one_line(outcome["persist_error"])
    yield "events", str(details["events"])
    for problem in details["problems"]:
        yield "damaged", problem
    for path in details["files"].values():
        yield "file", one_line(path)
    yield "uuid", details["uid"]

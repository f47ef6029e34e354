"""Removes what is kept of old tasks: by age, by number, by size; and the command ``ebt gc``.

The files of a task go first and its line in the index last, so whatever is interrupted is found
again. Nothing is removed of a task that somebody works on, or that has no end yet.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from eventbus_tasks import Settings
from eventbus_tasks_disk.history import (
    Entry,
    host_lives,
    latest_entries,
    remove_from_index,
    summarize,
)
from eventbus_tasks_disk.printing import one_line, parse_time, print_json, print_text
from eventbus_tasks_disk.settings import DiskSettings
from eventbus_tasks_disk.storage import JOURNAL, SUFFIXES, TaskFolder, open_directory
from eventbus_tasks_disk.unfinished import remove_unfinished, take_lock, unfinished_entries

__all__ = ["Limits", "collect", "configure_gc", "old_tasks", "run_gc"]

HELP: Final = "remove the files of old tasks"
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SPANS: Final = {"": 86400.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is kept; a task that is beyond any of them is removed. ``None``: no such limit.

    Attributes:
        age: How long a task is kept, counted from its acceptance.
        tasks: How many of the latest ended tasks are kept.
        size: Bytes on disk that ended tasks may have in all, the latest first.
    """

    age: timedelta | None = None
    tasks: int | None = None
    size: int | None = None

    @classmethod
    def of(cls, settings: DiskSettings) -> Limits:
        """Return the limits of the settings, where 0 means none."""
        return cls(
            age=timedelta(days=settings.keep_days) if settings.keep_days else None,
            tasks=settings.keep_tasks or None,
            size=settings.keep_bytes or None,
        )

    def __bool__(self) -> bool:
        return (self.age, self.tasks, self.size) != (None, None, None)


def old_tasks(state_dir: Path, limits: Limits) -> Iterator[tuple[Entry, int]]:
    """Yield ended tasks that are beyond the limits, the latest first, with their bytes on disk."""
    now = datetime.now(UTC)
    count = size = 0
    full = False
    # The index first: of what is added to it from now on nothing is seen, and whatever is in it and
    # has not ended is known as unfinished since before.
    entries = latest_entries(state_dir)
    latest = list(itertools.islice(entries, 1))
    # They are kept in any case, and must not take the places of those that have ended.
    unfinished = {entry.uid for entry in unfinished_entries(state_dir)}
    for entry in itertools.chain(latest, entries):
        if entry.uid in unfinished and summarize(entry).status != "gone":
            continue
        created = parse_time(entry.created)
        too_old = limits.age is not None and (created is None or now - created > limits.age)
        too_many = limits.tasks is not None and count >= limits.tasks
        if not (too_old or too_many) and limits.size is None:
            count += 1
            continue
        status = summarize(entry).status
        if status not in ("completed", "failed", "cancelled", "gone"):
            continue
        if status == "gone" and host_lives(entry.host):
            continue  # whether it has ended is not to be seen
        used = _size_of(entry)
        # The first that does not fit is followed by none that is older.
        full = full or (limits.size is not None and size + used > limits.size)
        if too_old or too_many or full:
            yield entry, used
        else:
            count += 1
            size += used


def collect(state_dir: Path, limits: Limits) -> list[tuple[Entry, int]]:
    """Remove everything that is beyond the limits, and return what was removed.

    Raises:
        OSError: The index cannot be written; then the tasks are still listed, as ``gone``.
    """
    removed = [(entry, size) for entry, size in old_tasks(state_dir, limits) if _remove(entry)]
    if removed:
        remove_from_index(state_dir, {entry.uid for entry, _ in removed})
        for entry, _ in removed:
            with contextlib.suppress(OSError):
                remove_unfinished(state_dir, entry.uid)
    return removed


def _remove(entry: Entry) -> bool:
    """Remove the files of a task, and return whether nothing of it is left."""
    try:
        directory = open_directory(Path(entry.project_dir), entry.directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    with TaskFolder(directory, entry.folder, entry.files) as folder:
        try:
            journal = folder.open(JOURNAL, os.O_RDWR)
        except FileNotFoundError:
            journal = -1
        except OSError:
            return False
        try:
            if journal >= 0 and not take_lock(journal):
                return False  # somebody works on it
            for suffix in (*(name for name in SUFFIXES if name != JOURNAL), JOURNAL):
                folder.remove(suffix)
        except OSError:
            return False
        finally:
            if journal >= 0:
                os.close(journal)
    return True


def _size_of(entry: Entry) -> int:
    size = 0
    for suffix in SUFFIXES:
        with contextlib.suppress(OSError):
            size += os.lstat(entry.path_of(suffix)).st_blocks * 512
    return size


# -- the command ------------------------------------------------------------------------------


def configure_gc(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ebt gc``."""
    from eventbus_tasks_disk.commands import guarded

    parser.description = HELP
    parser.epilog = (
        "Without limits those of the settings apply (disk.keep_days, keep_tasks, keep_bytes); they "
        "are also applied whenever an engine starts. Tasks that have not ended are never removed. "
        "Exit code: 0; 1 if something could not be removed; 2 without any limit."
    )
    parser.add_argument(
        "--older-than", metavar="AGE", type=_age, help="e.g. 30d, 12h; a plain number means days"
    )
    parser.add_argument(
        "--keep", metavar="N", type=_number, help="keep at most the latest N ended tasks"
    )
    parser.add_argument(
        "--max-size", metavar="SIZE", type=_bytes, help="keep at most so much on disk, e.g. 500M"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--json", action="store_true", help="one JSON array")
    parser.set_defaults(run=lambda arguments: guarded(run_gc, arguments))


def run_gc(arguments: argparse.Namespace) -> int:
    """Remove old tasks."""
    from eventbus_tasks_disk.commands import recover

    settings = Settings.load(tables={"disk": DiskSettings})
    limits = Limits(age=arguments.older_than, tasks=arguments.keep, size=arguments.max_size)
    limits = limits or Limits.of(settings.table(DiskSettings))
    if not limits:
        print_text("ebt: say what to remove: --older-than, --keep, --max-size\n", to=sys.stderr)
        return 2
    recover(settings.state_dir)
    if arguments.dry_run:
        found = list(old_tasks(settings.state_dir, limits))
    else:
        found = collect(settings.state_dir, limits)
    if arguments.json:
        print_json([_plain(entry, size) for entry, size in found])
        return 0
    verb = "would remove" if arguments.dry_run else "removed"
    for entry, size in found:
        print_text(f"{verb} {entry.id:>4}  {_say_size(size):>8}  {one_line(entry.name)}\n")
    total = _say_size(sum(size for _, size in found))
    print_text(f"{verb} {len(found)} tasks, {total}\n")
    return 0


def _plain(entry: Entry, size: int) -> dict[str, Any]:
    return {"id": entry.id, "uid": entry.uid, "name": entry.name, "bytes": size}


def _say_size(size: int) -> str:
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dhms]?)", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"must be like 30d or 12h: {text}")
    try:
        return timedelta(seconds=float(match[1]) * _SPANS[match[2]])
    except OverflowError:
        raise argparse.ArgumentTypeError(f"is too long: {text}") from None


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kmgt]?)i?b?", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"must be like 500M or 2G: {text}")
    return int(match[1]) * _UNITS[match[2]]


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number: {text}")
    return int(text)

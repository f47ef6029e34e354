"""Keeps the output, events and history of tasks on disk, from the first byte, however they end.

Only the hooks are here, and nothing is imported before it is needed: every start of the command
line imports this module. What is written where is described in the README.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from eventbus_tasks.hookspecs import hookimpl
from eventbus_tasks_disk.settings import DiskSettings

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from eventbus_tasks import Journal, OutputStore, ReopenedJournal, Task, TaskEngine, TaskRecord

__all__ = [
    "DiskSettings",
    "ebt_engine_started",
    "ebt_engine_stopping",
    "ebt_next_task_id",
    "ebt_open_journal",
    "ebt_output_log",
    "ebt_register_commands",
    "ebt_register_settings",
    "ebt_reopen_journal",
    "ebt_task_records",
]


@hookimpl
def ebt_register_settings(register: Callable[[str, type], None]) -> None:
    """Declare the table ``[disk]``."""
    register("disk", DiskSettings)


@hookimpl
def ebt_register_commands(
    register: Callable[[str, str, Callable[[argparse.ArgumentParser], Any]], None],
) -> None:
    """Add ``ebt ls``, ``ebt show``, ``ebt logs`` and ``ebt gc``."""
    register("ls", "list tasks, also of other processes and earlier days", _configure_ls)
    register("show", "show what is known about a task", _configure_show)
    register("logs", "print the output of a task", _configure_logs)
    register("gc", "remove the files of old tasks", _configure_gc)


@hookimpl
def ebt_engine_started(engine: TaskEngine) -> None:
    """Remember whose numbers have to be unique, and look after tasks whose host has died."""
    import threading

    from eventbus_tasks_disk import ids

    ids.add_engine(engine)
    # Not awaited by anybody: it can be interrupted at any moment, and whoever comes next goes on.
    threading.Thread(
        target=_look_after,
        args=(engine.settings.state_dir, engine.settings.table(DiskSettings)),
        name="eventbus-tasks recovery",
        daemon=True,
    ).start()


def _look_after(state_dir: Path, given: DiskSettings) -> None:
    from eventbus_tasks import Settings
    from eventbus_tasks_disk.gc import Limits, collect
    from eventbus_tasks_disk.recovery import recover_all

    try:
        recover_all(state_dir)
        # What the program has decided counts; what the user has, is not in the engine's settings.
        read = Settings.load(tables={"disk": DiskSettings}).table(DiskSettings)
        if limits := Limits.of(given) or Limits.of(read):
            collect(state_dir, limits)
    except Exception:
        logging.getLogger("eventbus_tasks").exception(
            "tasks of earlier hosts were not looked after"
        )


@hookimpl
def ebt_engine_stopping(engine: TaskEngine) -> None:
    """Forget it again."""
    from eventbus_tasks_disk import ids

    ids.remove_engine(engine)


@hookimpl
def ebt_next_task_id() -> int:
    """Give out a number that no task of this user has had.

    Raises:
        OSError: The state directory cannot be used.
    """
    from eventbus_tasks_disk import ids

    return ids.next_id(ids.state_directories())


@hookimpl
def ebt_open_journal(task: Task) -> Journal | None:
    """Open the journal of a task, and enter the task into the history."""
    if not task.settings.table(DiskSettings).enabled:
        return None
    from eventbus_tasks_disk.journal import DiskJournal

    return DiskJournal(task)


@hookimpl
def ebt_reopen_journal(task: Task) -> ReopenedJournal | None:
    """Go on with the journal of a task whose host has died."""
    from eventbus_tasks_disk.journal import reopen_journal

    return reopen_journal(task)


@hookimpl
def ebt_output_log(task: Task) -> OutputStore | None:
    """Keep the output of a task in named files."""
    if not task.settings.table(DiskSettings).enabled:
        return None
    from eventbus_tasks_disk.store import DiskStore

    return DiskStore(task)


@hookimpl
def ebt_task_records() -> Iterator[TaskRecord]:
    """Say what is known about tasks, the latest first."""
    from eventbus_tasks_disk.task_records import task_records

    return task_records()


def _configure_ls(parser: argparse.ArgumentParser) -> None:
    from eventbus_tasks_disk import commands

    commands.configure_ls(parser)


def _configure_show(parser: argparse.ArgumentParser) -> None:
    from eventbus_tasks_disk import commands

    commands.configure_show(parser)


def _configure_gc(parser: argparse.ArgumentParser) -> None:
    from eventbus_tasks_disk.gc import configure_gc

    configure_gc(parser)


def _configure_logs(parser: argparse.ArgumentParser) -> None:
    from eventbus_tasks_disk import commands

    commands.configure_logs(parser)

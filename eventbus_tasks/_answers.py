"""Checks of what plugins answer, and small conversions on the way to and from the guardian."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eventbus_tasks._native import redeliver
from eventbus_tasks._process import wire
from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.visit import Place, make_place
from eventbus_tasks.events import TaskCancelled, TaskCompleted, TaskEnded, TaskFailed
from eventbus_tasks.outcome import Outcome, Reason, Survivor, TaskStatus
from eventbus_tasks.policies import (
    Journal,
    LogFiles,
    OutputStore,
    ReopenedJournal,
    Stdin,
    TerminationPolicy,
)
from eventbus_tasks.request import Command, TaskRequest

if TYPE_CHECKING:
    from eventbus_tasks._input import TaskInput
    from eventbus_tasks.task import Task

__all__ = [
    "about",
    "check_command",
    "check_files",
    "check_journal",
    "check_policy",
    "check_reopened",
    "check_store",
    "close_files",
    "close_notes",
    "close_opened",
    "close_quietly",
    "current_umask",
    "my_identity",
    "name_survivors",
    "open_files",
    "open_stdin",
    "portable",
    "reason_of",
    "signals_of",
    "spawn_message",
    "terminal_event",
    "utc",
]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")

_COMMAND: Final = 200
"""Characters of a command line that an outcome keeps."""


def check_command(answer: Any) -> None:
    """Refuse what is no command, or cannot be executed."""
    if not isinstance(answer, Command):
        raise TypeError(f"ebt_build_command must return a Command or None, not {answer!r}")
    answer.validate()


def check_policy(answer: Any) -> None:
    """Refuse what is no policy."""
    if not isinstance(answer, TerminationPolicy):
        raise TypeError(
            f"ebt_termination_policy must return a TerminationPolicy or None, not {answer!r}"
        )


def check_store(answer: Any) -> None:
    """Refuse what opens no log."""
    if not isinstance(answer, OutputStore):
        raise TypeError(f"ebt_output_log must return an object with open(), not {answer!r}")


def check_journal(answer: Any) -> None:
    """Refuse what is no journal."""
    if not isinstance(answer, Journal):
        raise TypeError(
            f"ebt_open_journal must return an object with append(), finish() and close(), "
            f"not {answer!r}"
        )


def check_reopened(answer: Any) -> None:
    """Refuse what is no journal that can be read."""
    if not isinstance(answer, ReopenedJournal):
        raise TypeError(f"ebt_reopen_journal must return a journal with events(), not {answer!r}")


def check_files(files: Any) -> None:
    """Refuse what are no open files."""
    if not isinstance(files, LogFiles):
        raise TypeError(f"open() must return LogFiles, not {files!r}")
    for descriptor in _descriptors(files):
        os.fstat(descriptor)


def _descriptors(files: LogFiles) -> list[int]:
    given = (files.stdout, files.stderr, files.end_record, files.arrivals)
    return [descriptor for descriptor in given if descriptor is not None]


def close_files(files: LogFiles) -> None:
    """Close what nobody took."""
    check_files(files)
    for descriptor in _descriptors(files):
        os.close(descriptor)


def close_notes(files: LogFiles) -> None:
    """Close what only the guardian writes to."""
    for descriptor in (files.end_record, files.arrivals):
        if descriptor is not None:
            os.close(descriptor)


def open_files(
    store: OutputStore, separate_stderr: bool, state_dir: Path, uid: str
) -> tuple[LogFiles, Place | None]:
    """Open the log of a task, and make the place where its guardian will be found.

    Raises:
        Exception: The log cannot be opened. Without a place, a task only cannot be found.
    """
    files = store.open(separate_stderr=separate_stderr)
    check_files(files)
    try:
        return files, make_place(state_dir, uid)
    except OSError as error:
        logger.warning("other programs cannot find the task %s: %s", uid, error)
        return files, None


def close_opened(opened: tuple[LogFiles, Place | None]) -> None:
    """Close what nobody took."""
    files, place = opened
    if place is not None:
        place.remove()
    close_files(files)


def about(task: Task) -> dict[str, Any]:
    """Say who a task is, for whoever asks its guardian."""
    paths = {stream: task.output.path(stream) for stream in task.output.streams}
    return {
        "ref": task.ref.to_dict(),
        "created_at": task.created_at.isoformat(),
        "host": my_identity(),
        "logs": {stream: path for stream, path in paths.items() if path is not None},
    }


def name_survivors(found: Iterable[wire.Survivor]) -> tuple[Survivor, ...]:
    """Return the processes that are still there, as the outcome names them."""
    return tuple(
        Survivor(pid=one.pid, start_time=one.start_time, command=one.command[:_COMMAND])
        for one in found
    )


def portable(request: TaskRequest, command: Command) -> dict[str, Any]:
    """Return a request for a later host; what is in the command as well is left out."""
    data = request.to_dict()
    if request.argv == tuple(command.argv):
        del data["argv"]
    return data


def my_identity() -> list[int]:
    """Return number and start time of this process."""
    pid = os.getpid()
    return [pid, _my_start_time(pid)]


@functools.cache
def _my_start_time(pid: int) -> int:
    process = read_process(pid)  # of this process: it stays what it is
    return 0 if process is None else process.start_time


def close_quietly(journal: Journal) -> None:
    """Close a journal, whatever it raises."""
    try:
        journal.close()
    except BaseException as error:
        logger.exception("a journal could not be closed")
        redeliver(error)


def open_stdin(data: Stdin, writer: TaskInput) -> int:
    """Return a descriptor for standard input, and give its other end to the writer.

    Unless it is to stay open, it needs no writer and comes to an end.
    """
    if data == "open":
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        writer.open(ours)
        return theirs
    writer.shut("it was not asked for (stdin='open')")
    if data is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        # A reader of its own offset, which cannot write into what others read.
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)


def current_umask() -> int:
    """Return the umask without changing it for a moment, as `os.umask` does."""
    with open("/proc/self/status", "rb", buffering=0) as status:
        _, found, rest = status.read(4096).partition(b"\nUmask:")
    return int(rest.split(None, 1)[0], 8) if found else 0o077


def utc(seconds: float) -> datetime:
    """Return a time of the guardian."""
    return datetime.fromtimestamp(seconds, UTC)


def reason_of(word: str) -> Reason:
    """Return the reason that the guardian means."""
    try:
        return Reason(word)
    except ValueError:
        logger.error("the guardian gave an unknown reason: %r", word)
        return Reason.CANCELLED


def signals_of(policy: TerminationPolicy) -> list[dict[str, Any]]:
    """Return the rungs of a policy that are signals, for somebody who is not talked to any more."""
    return [step for step in policy.to_dict()["steps"] if step["signal"]]


def spawn_message(message: wire.SpawnFailed) -> str:
    """Say why nothing could be started."""
    return message.message or f"{message.path}: {os.strerror(message.errno)}"


_ENDS: Final[Mapping[TaskStatus, type[TaskEnded]]] = {
    TaskStatus.COMPLETED: TaskCompleted,
    TaskStatus.FAILED: TaskFailed,
    TaskStatus.CANCELLED: TaskCancelled,
}


def terminal_event(outcome: Outcome) -> TaskEnded:
    """Return the event of an end."""
    return _ENDS[outcome.status](outcome=outcome)

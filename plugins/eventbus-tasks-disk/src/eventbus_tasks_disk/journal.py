"""The durable record of one task: its events as they happen, and the readable file at its end."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet

from eventbus_tasks_disk.history import Entry, Host, add_to_index
from eventbus_tasks_disk.records import end_of_records, records_forwards
from eventbus_tasks_disk.settings import DiskSettings
from eventbus_tasks_disk.storage import (
    ARRIVALS,
    END_RECORD,
    JOURNAL,
    LOGS,
    MARKDOWN,
    TaskFolder,
    open_directory,
)
from eventbus_tasks_disk.unfinished import (
    add_unfinished,
    remove_unfinished,
    take_lock,
    unfinished_entries,
)

if TYPE_CHECKING:
    from eventbus_tasks import Outcome, Task, TaskEvent

__all__ = ["DiskJournal", "folder_of", "remove_unused", "reopen_journal", "sync_logs"]

# How long somebody who looks at the journal is waited for; a look takes microseconds.
_TRIES: Final = 100
_PAUSE: Final = 0.01

_folders: Final[WeakKeyDictionary[Task, TaskFolder]] = WeakKeyDictionary()
_journals: Final[WeakSet[DiskJournal]] = WeakSet()
_folders_lock: Final = threading.Lock()


def folder_of(task: Task) -> TaskFolder | None:
    """Return the place that the open journal of a task has taken, if there is one."""
    with _folders_lock:
        return _folders.get(task)


def reopen_journal(task: Task) -> DiskJournal | None:
    """Open the journal that a task has already, if there is one.

    Raises:
        OSError: It cannot be opened.
    """
    for entry in unfinished_entries(task.settings.state_dir):
        if entry.uid == task.uid:
            return DiskJournal(task, entry)
    return None


class DiskJournal:
    """The journal of one task.

    Where it cannot be opened it says so at the first `append`, because that is how a failure
    gets into the outcome of the task; the task goes on.

    Args:
        task: Whose journal it is.
        known: Where it is already, of a task whose host has died; an `OSError` is raised if it
            cannot be opened then.
    """

    def __init__(self, task: Task, known: Entry | None = None) -> None:
        from eventbus_tasks_disk.encoding import EventEncoder

        self._task = task
        self._settings = task.settings.table(DiskSettings)
        self._encoder = EventEncoder()
        self._lock = threading.Lock()
        self._folder: TaskFolder | None = None
        self._file = -1
        self._size = 0  # of what is whole
        self._torn = False
        self._failing = False
        self._missing = 0
        self._untold: OSError | None = None
        self._entry: Entry | None = None
        if known is not None:
            self._reopen(known)
            return
        try:
            self._open()
        except OSError as error:
            self._untold = error

    def _open(self) -> None:
        task = self._task
        folder, self._file = TaskFolder.reserve(
            task.project_dir,
            self._settings.directory,
            task.id,
            task.uid,
            JOURNAL,
            os.O_WRONLY | os.O_APPEND,
        )
        take_lock(self._file)  # nobody recovers the task as long as this journal is open
        self._folder = folder
        with _folders_lock:
            _folders[task] = folder
            _journals.add(self)
        entry = Entry(
            id=task.id,
            uid=task.uid,
            name=task.name,
            agent=task.agent,
            project_dir=str(task.project_dir),
            directory=self._settings.directory,
            files=folder.stem,
            created=task.created_at.isoformat(),
            host=Host.current(),
        )
        self._entry = entry
        add_unfinished(task.settings.state_dir, entry)
        add_to_index(task.settings.state_dir, entry)

    def _reopen(self, entry: Entry) -> None:
        """Go on where the last host was; what it has left torn is cut off.

        Raises:
            OSError: The journal is gone, or somebody else is at it.
        """
        directory = open_directory(Path(entry.project_dir), entry.directory)
        folder = TaskFolder(directory, entry.folder, entry.files)
        try:
            self._file = folder.open(JOURNAL, os.O_RDWR | os.O_APPEND)
            for _ in range(_TRIES):
                if take_lock(self._file):
                    break
                time.sleep(_PAUSE)  # somebody looks whether it has to be recovered
            else:
                raise BlockingIOError(errno.EAGAIN, "is in use", folder.path_of(JOURNAL))
            self._size, self._torn = end_of_records(self._file)
            os.ftruncate(self._file, self._size)
            add_unfinished(
                self._task.settings.state_dir, dataclasses.replace(entry, host=Host.current())
            )
        except BaseException:
            folder.close()
            if self._file >= 0:
                os.close(self._file)
            raise
        self._entry = entry
        self._folder = folder
        with _folders_lock:
            _folders[self._task] = folder
            _journals.add(self)

    def events(self) -> Iterator[Mapping[str, Any]]:
        """Yield what is in it, in order.

        Raises:
            OSError: It cannot be read.
        """
        for record in records_forwards(self._file):
            if record is not None:
                yield record

    def append(self, events: Sequence[TaskEvent]) -> None:
        """Write events, whole or not at all.

        Raises:
            OSError: They could not be written. The same trouble is told once, not for each
                event; the next events are tried again.
        """
        untold, self._untold = self._untold, None
        if self._file >= 0:
            data = b"".join(map(self._encoder.encode, events))
            try:
                self._write(data)
            except OSError:
                self._missing += len(events)
                if not self._failing:
                    self._failing = True
                    raise
            else:
                self._failing = False
        if untold is not None:
            raise untold

    def _write(self, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data
        done = 0
        try:
            while done < len(data):  # one call, unless the disk is full
                done += os.write(self._file, data[done:] if done else data)
        except OSError as error:
            if done:
                self._torn = True
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
                    self._torn = False
            raise self._named(error) from None
        self._torn = False
        self._size += done

    def _named(self, error: OSError) -> OSError:
        assert self._folder is not None
        return OSError(error.errno, error.strerror, self._folder.path_of(JOURNAL))

    def read_after(self, seq: int) -> list[TaskEvent]:
        """Read the events whose number is greater than `seq` back from the file.

        May be called in any thread, also while events are written, and after `close`. Stops at
        the first line that is not whole: it may be one that is just being written.

        Raises:
            OSError: The file cannot be read.
        """
        from eventbus_tasks import event_from_dict

        if self._entry is None:
            return []
        found: list[TaskEvent] = []
        descriptor = self._entry.open(JOURNAL)
        try:
            for record in records_forwards(descriptor):
                if record is None:
                    break
                if record.get("seq", 0) > seq:
                    found.append(event_from_dict(record))
        finally:
            os.close(descriptor)
        return found

    def finish(self, outcome: Outcome) -> None:
        """Make the logs durable, and write the readable file; the journal itself waits for `sync`.

        May go on in an abandoned thread after `close`.

        Raises:
            OSError: Something could not be written; everything else was.
        """
        with self._lock:
            if self._folder is None or self._file < 0:
                return  # that was told before
            folder = self._folder.duplicate()
        steps: list[Callable[[], object]] = [
            folder.check,
            lambda: sync_logs(folder),
            lambda: remove_unused(folder),
            folder.sync,
        ]
        if self._settings.markdown:
            steps.append(lambda: self._write_markdown(folder, outcome))
        first: OSError | None = None
        try:
            for step in steps:
                try:
                    step()
                except OSError as error:
                    first = first or error
        finally:
            folder.close()
        if first is not None:
            raise first
        if self._missing:
            raise OSError(f"{self._missing} events are missing in {folder.path_of(JOURNAL)}")

    def sync(self) -> None:
        """Make the journal durable, its terminal event included: nobody has to recover the task.

        May go on in an abandoned thread after `close`.

        Raises:
            OSError: It is not durable.
        """
        with self._lock:
            if self._file < 0:
                return
            journal = os.dup(self._file)
        try:
            os.fsync(journal)
        finally:
            os.close(journal)
        if not self._failing:
            remove_unfinished(self._task.settings.state_dir, self._task.uid)

    def _write_markdown(self, folder: TaskFolder, outcome: Outcome) -> None:
        from eventbus_tasks_disk.markdown import write_markdown
        from eventbus_tasks_disk.report import Subject, facts_of, sections_of

        try:
            with contextlib.ExitStack() as stack:
                sections = sections_of(self._task, outcome, folder, stack)
                with folder.replace(MARKDOWN) as descriptor:
                    facts = facts_of(Subject.of(self._task), outcome, datetime.now(UTC))
                    title = f"Task {self._task.id}: {outcome.status.value}"
                    limit = self._settings.markdown_limit
                    write_markdown(descriptor, title, facts, sections, limit)
        except OSError as error:
            path = error.filename or folder.path_of(MARKDOWN)
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error

    def close(self) -> None:
        """Let go of everything. Does not wait."""
        with _folders_lock:
            _folders.pop(self._task, None)
            _journals.discard(self)
        with self._lock:
            folder, self._folder = self._folder, None
            file, self._file = self._file, -1
        if folder is not None:
            folder.close()
        if file >= 0:
            os.close(file)


def _close_in_fork() -> None:
    """A forked copy of the host must not seem to be at work on its tasks."""
    for journal in list(_journals):
        if journal._file >= 0:
            with contextlib.suppress(OSError):
                os.close(journal._file)
            journal._file = -1


os.register_at_fork(after_in_child=_close_in_fork)


def sync_logs(folder: TaskFolder) -> None:
    """Make logs and end record durable. The guardian has done that, unless it was killed.

    Raises:
        OSError: They are not durable.
    """
    for suffix in (*LOGS.values(), END_RECORD):
        with contextlib.suppress(FileNotFoundError):
            descriptor = folder.open(suffix)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def remove_unused(folder: TaskFolder) -> None:
    """Remove what was for a guardian that has not written it.

    Raises:
        OSError: It cannot be read or removed.
    """
    for suffix in (END_RECORD, ARRIVALS):
        with contextlib.suppress(FileNotFoundError):
            descriptor = folder.open(suffix)
            try:
                if not os.fstat(descriptor).st_size:
                    folder.remove(suffix)
            finally:
                os.close(descriptor)

"""The index of all tasks of this user, and what their own files say about them.

The index holds only what never changes: who a task is, where its files are, and which process
answers for it. Whether it has ended, and how, is read from its journal, so that there is one
truth. Whoever reads gets along with lines that are torn, and with files that are gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eventbus_tasks_disk.records import (
    decode_record,
    encode_record,
    lines_backwards,
    records_forwards,
)
from eventbus_tasks_disk.storage import (
    END_RECORD,
    JOURNAL,
    create_file,
    make_private_path,
    open_directory,
    open_file,
    open_private_directory,
)

__all__ = [
    "ENDS",
    "INDEX",
    "STATE_FOLDER",
    "Entry",
    "Host",
    "Summary",
    "add_to_index",
    "guardian_lives",
    "host_lives",
    "index_numbers",
    "latest_entries",
    "open_state",
    "remove_from_index",
    "summarize",
]

STATE_FOLDER: Final = "disk"
"""Name of our directory in the state directory."""
INDEX: Final = "index.jsonl"

ENDS: Final = frozenset({"task.completed", "task.failed", "task.cancelled"})
"""Wire names of the terminal events."""

# The first records of a journal tell when the program was started; later ones need not be read.
_FIRST_RECORDS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The process that answers for a task, named so that no other can be mistaken for it.

    Attributes:
        pid: Its number.
        start_time: Clock ticks between the start of the system and that of the process.
        boot_id: Which start of the system that was.
    """

    pid: int
    start_time: int
    boot_id: str

    @classmethod
    def current(cls) -> Host:
        """Return this process."""
        return cls(pid=os.getpid(), start_time=_start_time(os.getpid()), boot_id=_boot_id())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"pid": self.pid, "start_time": self.start_time, "boot_id": self.boot_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One task in the index.

    Attributes:
        id: Its number.
        uid: Its UUID.
        name: Its name, as it was given: not safe to print.
        agent: Its agent.
        project_dir: The project, absolute.
        directory: Name of the directory in it that has the files.
        files: How the names of the files begin.
        created: When it was accepted, as ISO 8601 in UTC.
        host: Which process answers for it.
    """

    id: int
    uid: str
    name: str
    agent: str
    project_dir: str
    directory: str
    files: str
    created: str
    host: Host

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        data = {name: getattr(self, name) for name in self.__slots__}
        data["host"] = self.host.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Entry | None:
        """Rebuild an entry, or return ``None`` if it is none."""
        try:
            entry = cls(
                host=Host(**data["host"]),
                **{name: data[name] for name in cls.__slots__ if name != "host"},
            )
        except (KeyError, TypeError):
            return None
        words = (entry.uid, entry.name, entry.agent, entry.project_dir, entry.directory)
        sound = isinstance(entry.id, int) and all(
            isinstance(word, str) for word in (*words, entry.files, entry.created)
        )
        # They become parts of paths.
        plain = sound and all(
            part not in ("", ".", "..") and "/" not in part and "\0" not in part
            for part in (entry.directory, entry.files)
        )
        return entry if plain else None

    @property
    def folder(self) -> Path:
        """The directory that has its files."""
        return Path(self.project_dir) / self.directory

    def path_of(self, suffix: str) -> str:
        """Return the path of one of its files."""
        return str(self.folder / (self.files + suffix))

    def open(self, suffix: str) -> int:
        """Open one of its files for reading.

        Raises:
            OSError: It is gone, or something else is in its place.
        """
        directory = open_directory(Path(self.project_dir), self.directory)
        try:
            return open_file(directory, self.files + suffix)
        finally:
            os.close(directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the files of a task say about it.

    Attributes:
        status: ``"completed"``, ``"failed"``, ``"cancelled"``; ``"pending"``, ``"queued"``,
            ``"running"``, ``"stopping"``; ``"detached"`` (it runs, and its host has died);
            ``"lost"`` (it has no end, and nobody is left who could give it one); ``"gone"`` (its
            files are not there).
        started: When its program was started, as ISO 8601, or ``None``.
        ended: When it ended, or ``None``.
        outcome: `Outcome.to_dict` of its end, or ``None``.
    """

    status: str
    started: str | None = None
    ended: str | None = None
    outcome: Mapping[str, Any] | None = None

    @property
    def is_live(self) -> bool:
        """Whether something may still be added to it."""
        return self.status in ("pending", "queued", "running", "stopping", "detached")


def open_state(state_dir: Path, *, make: bool = False) -> int:
    """Open our directory in the state directory.

    Raises:
        OSError: It is not there, or not only ours.
    """
    if make:
        make_private_path(state_dir)
        return open_private_directory(state_dir, STATE_FOLDER)
    return open_directory(state_dir, STATE_FOLDER)


def add_to_index(state_dir: Path, entry: Entry) -> None:
    """Add a task to the index.

    Raises:
        OSError: It cannot be written.
    """
    directory = open_state(state_dir, make=True)
    try:
        file = _lock_index(directory, fcntl.LOCK_SH)
    finally:
        os.close(directory)
    try:
        os.fchmod(file, 0o600)
        line = encode_record(entry.to_dict())
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line  # the one before was torn: it must not spoil this one
        written = os.write(file, line)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(state_dir))
    finally:
        os.close(file)


def remove_from_index(state_dir: Path, uids: Collection[str]) -> None:
    """Take tasks out of the index: at every moment it is whole, with all of them or with none.

    Raises:
        OSError: It cannot be written; nothing has changed then.
    """
    directory = open_state(state_dir, make=True)
    temporary = f".{INDEX}"
    try:
        old = _lock_index(directory, fcntl.LOCK_EX)
        try:
            with contextlib.suppress(FileNotFoundError):  # of one that was interrupted
                os.unlink(temporary, dir_fd=directory)
            with open(create_file(directory, temporary), "wb") as new:
                for record in records_forwards(old):
                    if record is not None and record.get("uid") not in uids:
                        new.write(encode_record(record))
                new.flush()
                os.fsync(new.fileno())
            os.rename(temporary, INDEX, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            os.close(old)
        os.fsync(directory)
    finally:
        os.close(directory)


def _lock_index(directory: int, mode: int) -> int:
    """Open the index for appending; whoever replaces it waits for those who append, and they wait.

    Raises:
        OSError: It cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    while True:
        file = os.open(INDEX, flags, 0o600, dir_fd=directory)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, mode)
        if os.fstat(file).st_nlink:  # it was not replaced while we waited
            return file
        os.close(file)


def index_numbers(state: int) -> Iterator[int]:
    """Yield the numbers of the tasks in the index, the latest first.

    Args:
        state: Descriptor of our directory in the state directory.
    """
    for entry in _entries_backwards(state):
        yield entry.id


def latest_entries(state_dir: Path, containing: str = "") -> Iterator[Entry]:
    """Yield the tasks in the index, the latest first, reading no more than is asked for.

    Args:
        state_dir: The state directory.
        containing: Text that a field of each has to contain, whatever the case. That leaves out
            most of the others, not all, and is many times faster than to look at each.
    """
    try:
        state = open_state(state_dir)
    except FileNotFoundError:
        return
    try:
        yield from _entries_backwards(state, containing)
    finally:
        os.close(state)


def _entries_backwards(state: int, containing: str = "") -> Iterator[Entry]:
    # Another script may have an ASCII letter as its lower case, and is written as an escape.
    wanted = containing.lower().encode() if containing.isascii() else b""
    if not containing.isprintable() or any(mark in containing for mark in '"\\'):
        wanted = b""
    try:
        file = open_file(state, INDEX)
    except FileNotFoundError:
        return
    try:
        for line in lines_backwards(file):
            if wanted and wanted not in line.lower() and b"\\u" not in line:
                continue
            data = decode_record(line)
            entry = None if data is None else Entry.from_dict(data)
            if entry is not None:
                yield entry
    finally:
        os.close(file)


def summarize(entry: Entry) -> Summary:
    """Find out how a task is doing."""
    # First who lives, then what is written: the other way round, a task that ends meanwhile
    # would look lost.
    alive = host_lives(entry.host)
    try:
        journal = entry.open(JOURNAL)
    except OSError:
        return Summary(status="gone")
    try:
        alive = alive or _is_locked(journal)
        started, last, stopping, queued = _skim(journal)
    except OSError:
        return Summary(status="gone")
    finally:
        os.close(journal)
    if last is not None and last.get("event") in ENDS:
        outcome = last.get("outcome")
        outcome = outcome if isinstance(outcome, dict) else {}
        status = str(last["event"]).removeprefix("task.")
        return Summary(status=status, started=started, ended=_text(last.get("at")), outcome=outcome)
    waits = queued and not started  # and whoever has the project is another task
    if not alive:
        at_work = not waits and guardian_lives(entry)
        status = ("stopping" if stopping else "detached") if at_work else "lost"
        return Summary(status=status, started=started)
    if stopping:
        return Summary(status="stopping", started=started)
    if started:
        return Summary(status="running", started=started)
    return Summary(status="queued" if waits else "pending")


def _skim(journal: int) -> tuple[str | None, Mapping[str, Any] | None, bool, bool]:
    """Return when the program was started, the last record, whether it is stopped, and queued."""
    last: Mapping[str, Any] | None = None
    stopping = False
    for number, line in enumerate(lines_backwards(journal)):
        record = decode_record(line)
        if record is not None:
            last = last or record
            stopping = stopping or record.get("event") == "task.stopping"
        if number >= _FIRST_RECORDS:
            break
    started = None
    queued = False
    for number, record in enumerate(records_forwards(journal)):
        queued = queued or (record is not None and record.get("event") == "task.queued")
        if record is not None and record.get("event") == "task.started":
            started = _text(record.get("at"))
        if started is not None or number >= _FIRST_RECORDS:
            break
    return started, last, stopping, queued


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_locked(journal: int) -> bool:
    """Whether some host, a later one perhaps than that of the index, has the journal open."""
    try:
        fcntl.flock(journal, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def host_lives(host: Host) -> bool:
    """Whether the very process is still there."""
    return host.boot_id == _boot_id() and _start_time(host.pid) == host.start_time != 0


def guardian_lives(entry: Entry) -> bool:
    """Whether somebody is still at work on a task whose host has died.

    The guardian, and the warden behind it, keep the end record locked until nothing of the task
    is left; its content is the guardian's last word.
    """
    try:
        record = entry.open(END_RECORD)
    except OSError:
        return False  # it was never started
    try:
        fcntl.flock(record, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        size = os.fstat(record).st_size
        return not size or os.pread(record, 1, size - 1) != b"\n"
    except OSError:
        return False  # no locks on this file system
    finally:
        os.close(record)
    return False


def _start_time(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read()
    except OSError:
        return 0
    # The name of the program may contain anything; the numbers follow its last parenthesis.
    fields = content.rpartition(b")")[2].split()
    zombie = fields[0] in (b"Z", b"X")
    return 0 if zombie else int(fields[19])


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""

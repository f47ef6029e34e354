"""Gives an end to tasks whose host has died: each exactly one, by whoever comes first.

What the guardian has left in its end record is the end of the task; where it has left none, the
reason is ``host_lost``. Whoever recovers holds the lock of the journal, so there is never more
than one, and looks again once it has the lock; whatever it was doing when it is interrupted, the
next one begins anew. The terminal event is the last thing to be written, when everything that it
speaks of is durable.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from eventbus_tasks import (
    Outcome,
    Reason,
    Survivor,
    TaskCancelled,
    TaskCompleted,
    TaskEnded,
    TaskFailed,
    TaskRef,
    TaskStatus,
    Verdict,
)
from eventbus_tasks.lifecycle import Facts, judge
from eventbus_tasks_disk.history import ENDS, Entry, guardian_lives, host_lives
from eventbus_tasks_disk.journal import remove_unused, sync_logs
from eventbus_tasks_disk.printing import parse_time
from eventbus_tasks_disk.records import encode_record, records_with_ends
from eventbus_tasks_disk.settings import DiskSettings
from eventbus_tasks_disk.storage import (
    END_RECORD,
    JOURNAL,
    LOGS,
    MARKDOWN,
    TaskFolder,
    open_directory,
)
from eventbus_tasks_disk.unfinished import remove_unfinished, take_lock, unfinished_entries

__all__ = ["recover_all", "recover_task"]

# How long somebody else who looks at the same task is waited for; a look takes microseconds.
_TRIES: Final = 100
_PAUSE: Final = 0.01
_MAX_END_RECORD: Final = 16 * 1024 * 1024
_ENDS: Final[dict[TaskStatus, type[TaskEnded]]] = {
    TaskStatus.COMPLETED: TaskCompleted,
    TaskStatus.FAILED: TaskFailed,
    TaskStatus.CANCELLED: TaskCancelled,
}
_NOT_UNDERSTOOD: Final = "its answer was not understood by anybody; it is in the log"
_HOST_DIED: Final = "its host process had died"


def recover_all(state_dir: Path) -> list[int]:
    """Give an end to every task whose host has died and of which nothing runs any more.

    Returns:
        The numbers of the tasks that have got theirs now.
    """
    entries = unfinished_entries(state_dir)
    return [entry.id for entry in entries if recover_task(state_dir, entry)]


def recover_task(state_dir: Path, entry: Entry) -> bool:
    """Give one task its end, if its host has died and nothing of it runs any more.

    Returns:
        Whether it has got its end now, and not before or never.
    """
    if host_lives(entry.host):
        return False
    # What cannot be written now may be possible later; the task stays unfinished until then.
    with contextlib.suppress(OSError):
        directory = open_directory(Path(entry.project_dir), entry.directory)
        with TaskFolder(directory, entry.folder, entry.files) as folder:
            try:
                journal = folder.open(JOURNAL, os.O_RDWR | os.O_APPEND)
            except FileNotFoundError:
                remove_unfinished(state_dir, entry.uid)
                return False
            try:
                return _recover(state_dir, entry, folder, journal)
            finally:
                os.close(journal)
    return False


def _recover(state_dir: Path, entry: Entry, folder: TaskFolder, journal: int) -> bool:
    for _ in range(_TRIES):
        if take_lock(journal):
            break
        time.sleep(_PAUSE)
    else:
        return False  # somebody else is at it, or has taken the task over
    if not os.fstat(journal).st_nlink or guardian_lives(entry):
        return False
    story = _read_story(journal)
    if not story.ended:
        _end(entry, folder, journal, story)
    remove_unfinished(state_dir, entry.uid)
    return not story.ended


@dataclass(slots=True)
class _Story:
    """What a journal says, up to where it is whole."""

    whole: int = 0
    whole_line: bool = True  # the last record has its line ending
    seq: int = 0
    ended: bool = False
    request: Mapping[str, Any] = field(default_factory=dict)
    started: datetime | None = None
    last: datetime | None = None
    answer: Mapping[str, Any] | None = None
    lost: dict[str, int] = field(default_factory=dict)


def _read_story(journal: int) -> _Story:
    story = _Story()
    size = os.fstat(journal).st_size
    for record, end in records_with_ends(journal):
        if record is None:
            continue
        story.whole, story.whole_line = min(end, size), end <= size
        seq = record.get("seq")
        story.seq = max(story.seq, seq if isinstance(seq, int) else 0)
        story.last = parse_time(record.get("at")) or story.last
        match record.get("event"):
            case "task.accepted" if isinstance(record.get("request"), dict):
                story.request = record["request"]
            case "task.started":
                story.started = story.last
            case "agent.result":
                story.answer = record
            case "output.dropped":
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    stream = str(record["stream"])
                    count = int(record["end"]) - int(record["start"])
                    story.lost[stream] = story.lost.get(stream, 0) + count
            case name if name in ENDS:
                story.ended = True
    return story


def _end(entry: Entry, folder: TaskFolder, journal: int, story: _Story) -> None:
    """Write everything that a host writes at the end of a task.

    Raises:
        OSError: The terminal event could not be written.
    """
    from eventbus_tasks_disk.report import Subject

    record = _read_end_record(folder)
    outcome = _outcome_of(entry, folder, story, record)
    ended = _time_of(record.get("ended_at")) or _last_sign(folder, story)
    begun = parse_time(entry.created) or ended
    ended = max(ended, story.last or begun)
    settings = _settings_of(entry)
    subject = Subject(
        id=entry.id,
        uid=entry.uid,
        name=entry.name,
        agent=entry.agent,
        prompt=str(story.request.get("prompt", "")),
        project_dir=entry.project_dir,
        created=begun,
        started=story.started or _time_of(record.get("started_at")),
        argv=tuple(map(str, story.request.get("argv") or ())),
    )
    try:
        sync_logs(folder)
        remove_unused(folder)
        if settings.markdown:
            _write_markdown(folder, subject, outcome, ended, settings.markdown_limit)
        folder.sync()
    except OSError as error:
        problem = f"recovery: {type(error).__name__}: {error}"
        outcome = Outcome.from_dict({**outcome.to_dict(), "persist_error": problem})
    ref = TaskRef(
        id=entry.id,
        uid=entry.uid,
        name=entry.name,
        agent=entry.agent,
        project_dir=entry.project_dir,
    )
    event = _ENDS[outcome.status](outcome=outcome).stamp(ref, story.seq + 1, ended)
    _append(journal, story, encode_record(event.to_dict()))


def _append(journal: int, story: _Story, data: bytes) -> None:
    """Cut off what is torn, and add the last record, whole or not at all."""
    os.ftruncate(journal, story.whole)
    if not story.whole_line:
        data = b"\n" + data
    try:
        done = 0
        while done < len(data):
            done += os.write(journal, data[done:])
        os.fsync(journal)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(journal, story.whole)
        raise


def _write_markdown(
    folder: TaskFolder, subject: Any, outcome: Outcome, ended: datetime, limit: int
) -> None:
    from eventbus_tasks_disk.markdown import write_markdown
    from eventbus_tasks_disk.report import facts_of, sections_of_files

    folder.remove_temporary(MARKDOWN)  # of one that was interrupted here
    with contextlib.ExitStack() as stack:
        sections = sections_of_files(outcome, folder, stack)
        with folder.replace(MARKDOWN) as descriptor:
            facts = facts_of(subject, outcome, ended)
            title = f"Task {subject.id}: {outcome.status.value}"
            write_markdown(descriptor, title, facts, sections, limit)


def _read_end_record(folder: TaskFolder) -> Mapping[str, Any]:
    """Return the last word of the guardian, or nothing if there is none that is whole."""
    try:
        descriptor = folder.open(END_RECORD)
    except OSError:
        return {}
    try:
        data = json.loads(os.pread(descriptor, _MAX_END_RECORD, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    finally:
        os.close(descriptor)
    return data if isinstance(data, dict) else {}


def _outcome_of(
    entry: Entry, folder: TaskFolder, story: _Story, record: Mapping[str, Any]
) -> Outcome:
    try:
        match record.get("kind"):
            case "ended":
                return _outcome_of_record(entry, story, record)
            case "spawn_failed":
                return _recovered(Reason.SPAWN_FAILED, str(record.get("message", "")))
    except (KeyError, TypeError, ValueError):
        pass  # not a record of ours, or of a version that we do not know
    if story.started is not None or record or _size_of(folder, END_RECORD) is not None:
        message = "its host process died, and nobody was left to see its end"
    else:
        message = "its host process died before the task was started"
    sizes = {stream: _size_of(folder, suffix) for stream, suffix in LOGS.items()}
    return Outcome(
        reason=Reason.HOST_LOST,
        message=message,
        output_bytes={stream: size for stream, size in sizes.items() if size is not None},
        lost_bytes=story.lost,
    )


def _outcome_of_record(entry: Entry, story: _Story, record: Mapping[str, Any]) -> Outcome:
    code, reason = record["return_code"], record["reason"]
    reason, message = judge(
        Facts(
            return_code=None if code is None else int(code),
            stop_reason=None if reason is None else Reason(reason),
            unkillable=bool(record["unkillable"]),
            verdict=None if entry.agent == "command" else _verdict_of(story.answer),
        )
    )
    dropped = {str(stream): int(count) for stream, count in record["dropped"].items() if count}
    answer = story.answer if reason is Reason.EXITED else None
    return _recovered(
        reason,
        message,
        return_code=None if code is None else int(code),
        result=None if answer is None else str(answer.get("text", "")),
        survivors=tuple(Survivor(**survivor) for survivor in record["survivors"]),
        output_bytes={str(stream): int(size) for stream, size in record["sizes"].items()},
        lost_bytes=dropped,
    )


def _recovered(reason: Reason, message: str, **facts: Any) -> Outcome:
    if reason is not Reason.HOST_LOST:
        message = f"{message}; {_HOST_DIED}" if message else _HOST_DIED
    return Outcome(reason=reason, message=message, **facts)


def _verdict_of(answer: Mapping[str, Any] | None) -> Verdict:
    """Judge an agent by what its interpreter has understood; what it has not is no success."""
    if answer is None:
        return Verdict(reason=Reason.NO_RESULT, message=_NOT_UNDERSTOOD)
    if answer.get("ok") is True:
        return Verdict(reason=Reason.EXITED)
    return Verdict(reason=Reason.AGENT_ERROR, message=str(answer.get("text", "")))


def _size_of(folder: TaskFolder, suffix: str) -> int | None:
    try:
        descriptor = folder.open(suffix)
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _time_of(seconds: Any) -> datetime | None:
    if not isinstance(seconds, (int, float)):
        return None
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None


def _last_sign(folder: TaskFolder, story: _Story) -> datetime:
    """Return when the task was last known to be there: its end is not known any better."""
    signs = [] if story.last is None else [story.last]
    for suffix in LOGS.values():
        with contextlib.suppress(OSError):
            descriptor = folder.open(suffix)
            try:
                signs.append(datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC))
            finally:
                os.close(descriptor)
    return max(signs, default=datetime.now(UTC))


def _settings_of(entry: Entry) -> DiskSettings:
    from eventbus_tasks import EventbusTasksError, Settings

    try:
        settings = Settings.load(Path(entry.project_dir), tables={"disk": DiskSettings})
    except EventbusTasksError:
        return DiskSettings()  # whoever starts the next task there is told
    return settings.table(DiskSettings)

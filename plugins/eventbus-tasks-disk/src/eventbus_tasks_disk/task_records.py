"""What the index knows about tasks, for the commands of the core."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from eventbus_tasks import Outcome, Settings, TaskRecord, TaskRef
from eventbus_tasks_disk.history import Entry, latest_entries, summarize
from eventbus_tasks_disk.printing import parse_time
from eventbus_tasks_disk.recovery import recover_task

__all__ = ["task_records"]


def task_records() -> Iterator[TaskRecord]:
    """Yield the tasks of the index, the latest first."""
    state_dir = Settings.load().state_dir
    for entry in latest_entries(state_dir):
        created = parse_time(entry.created)
        if created is not None:
            yield TaskRecord(
                ref=TaskRef(
                    id=entry.id,
                    uid=entry.uid,
                    name=entry.name,
                    agent=entry.agent,
                    project_dir=entry.project_dir,
                ),
                created_at=created,
                is_live=partial(_is_live, entry),
                read_outcome=partial(_read_outcome, state_dir, entry),
            )


def _is_live(entry: Entry) -> bool:
    return summarize(entry).is_live


def _read_outcome(state_dir: Path, entry: Entry) -> Outcome | None:
    summary = summarize(entry)
    if summary.status == "lost":
        recover_task(state_dir, entry)
        summary = summarize(entry)
    try:
        return None if not summary.outcome else Outcome.from_dict(summary.outcome)
    except (KeyError, TypeError, ValueError):
        return None

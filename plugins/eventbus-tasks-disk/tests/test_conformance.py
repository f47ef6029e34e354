"""The contracts of output stores and journals."""

from __future__ import annotations

import os
from collections.abc import Sequence

import eventbus_tasks_disk
import pytest
from eventbus_tasks_disk.records import records_forwards

from eventbus_tasks import Task, TaskEvent, event_from_dict
from eventbus_tasks.testing.conformance import (
    JournalCase,
    JournalContract,
    OutputStoreContract,
    StoreCase,
)


def read_journal(task: Task) -> Sequence[TaskEvent]:
    """Return the events that stand in the journal of a task."""
    (path,) = task.project_dir.glob(f".claude-tasks/task-{task.id}*events.jsonl")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return [event_from_dict(data) for data in records_forwards(descriptor) if data]
    finally:
        os.close(descriptor)


class TestStore(OutputStoreContract):
    """The files of the output."""

    @pytest.fixture
    def case(self) -> StoreCase:
        """Return the plugin with its default settings."""
        return StoreCase(plugin=eventbus_tasks_disk)


class TestJournal(JournalContract):
    """The journal beside them."""

    @pytest.fixture
    def case(self) -> JournalCase:
        """Return the plugin with its default settings."""
        return JournalCase(plugin=eventbus_tasks_disk, read=read_journal)

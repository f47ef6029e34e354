"""Tasks that run now and that nobody keeps: of programs without this plugin.

Their guardians answer whoever asks, so they can be listed, and what they have written can be read
for as long as they run.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eventbus_tasks_disk.history import Entry, Host
from eventbus_tasks_disk.unfinished import unfinished_entries

if TYPE_CHECKING:
    from eventbus_tasks import RunningTask

__all__ = ["describe", "entry_of", "follow_until_end", "other_tasks"]

_SOCKETS: Final = "run"
_SUFFIX: Final = ".sock"
_NOBODY: Final = Host(pid=0, start_time=0, boot_id="")


def other_tasks(state_dir: Path) -> list[RunningTask]:
    """Return the tasks that run and are not in the index, the latest first."""
    known = {entry.uid for entry in unfinished_entries(state_dir)}
    if not _uids_of_sockets(state_dir) - known:
        return []
    from eventbus_tasks import find_running_tasks  # seldom needed, and not cheap

    found = [task for task in find_running_tasks(state_dir) if task.ref.uid not in known]
    return found[::-1]


def _uids_of_sockets(state_dir: Path) -> set[str]:
    """Return whose sockets there are: a hint, which the core alone can judge."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir(state_dir / _SOCKETS)
    return {name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)}


def entry_of(task: RunningTask) -> Entry:
    """Return a task as an entry of the index would say who it is; it has no files."""
    created = task.created_at or datetime.now(UTC)
    return Entry(
        id=task.ref.id,
        uid=task.ref.uid,
        name=task.ref.name,
        agent=task.ref.agent,
        project_dir=task.ref.project_dir,
        directory="",
        files="",
        created=created.isoformat(),
        host=_NOBODY,
    )


def describe(task: RunningTask) -> dict[str, Any]:
    """Return a task as ``ebt ls --json`` shows it."""
    state = {"starting": "pending", "left": "running"}.get(task.state, task.state)
    return {
        "id": task.ref.id,
        "uid": task.ref.uid,
        "name": task.ref.name,
        "agent": task.ref.agent,
        "project_dir": task.ref.project_dir,
        "status": "detached" if task.is_detached else state,
        "reason": None,
        "return_code": None,
        "created": None if task.created_at is None else task.created_at.isoformat(),
        "started": None if task.started_at is None else task.started_at.isoformat(),
        "ended": None,
        "kept": False,
    }


def follow_until_end(task: RunningTask, copy: Callable[[], object], pause: float) -> None:
    """Call `copy` again and again until the task has ended, and once more after that.

    Args:
        task: The task.
        copy: Takes what is new.
        pause: Seconds between two calls.
    """
    from eventbus_tasks import TaskNotFoundError

    ended = False
    while not ended:
        copy()
        began = time.monotonic()
        try:
            ended = task.wait(pause) is not None
        except TaskNotFoundError:
            ended = True
        if not ended:
            time.sleep(max(0.0, pause - (time.monotonic() - began)))
    copy()

"""What stands in the readable file of a task."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from eventbus_tasks_disk.markdown import Section
from eventbus_tasks_disk.storage import LOGS, TaskFolder

if TYPE_CHECKING:
    from eventbus_tasks import Outcome, Stream, Task

__all__ = ["facts_of", "sections_of"]

_CHUNK: Final = 256 * 1024
_TITLES: Final[dict[Stream, str]] = {"stdout": "Output", "stderr": "Standard error"}


def facts_of(task: Task, outcome: Outcome, ended: datetime) -> dict[str, Any]:
    """Return the header: what a person wants to know first, first."""
    started = task.started_at
    facts: dict[str, Any] = {
        "id": task.id,
        "name": task.name,
        "agent": task.agent,
        "status": outcome.status.value,
        "reason": outcome.reason.value,
        "message": outcome.message,
        "exit_code": outcome.return_code,
        "prompt": task.prompt,
        "project": str(task.project_dir),
        "created": task.created_at.isoformat(),
        "started": None if started is None else started.isoformat(),
        "ended": ended.isoformat(),
        "duration_seconds": round((ended - (started or task.created_at)).total_seconds(), 3),
        "result": outcome.result,
        "output_bytes": dict(outcome.output_bytes),
        "uid": task.uid,
    }
    if task.request.argv:
        facts["command"] = list(task.request.argv)
    if outcome.survivors:
        facts["survivors"] = [{"pid": s.pid, "command": s.command} for s in outcome.survivors]
    if any(outcome.lost_bytes.values()):
        facts["lost_bytes"] = dict(outcome.lost_bytes)
    if outcome.persist_error is not None:
        facts["persist_error"] = outcome.persist_error
    return facts


def sections_of(
    task: Task, outcome: Outcome, folder: TaskFolder, stack: ExitStack
) -> list[Section]:
    """Return the texts: the result of an agent, and everything that was written.

    Args:
        task: The task.
        outcome: Its end.
        folder: Where its files are.
        stack: Closes what the sections read from.

    Raises:
        OSError: A log cannot be opened.
    """
    sections = []
    if outcome.result:
        result = outcome.result.encode("utf-8", "replace")
        sections.append(Section(title="Result", chunks=lambda: (result,)))
    for stream in task.output.streams:
        if task.output.path(stream) is None:
            # Not kept by us (that is an error by itself), but shown as long as it is there.
            chunks = partial(_from_task, task, stream)
        else:
            descriptor = folder.open(LOGS[stream])
            stack.callback(os.close, descriptor)
            # What survivors write from now on is in the log only.
            chunks = partial(_from_file, descriptor, os.fstat(descriptor).st_size)
        sections.append(Section(title=_TITLES[stream], chunks=chunks))
    return sections


def _from_task(task: Task, stream: Stream) -> Iterator[bytes]:
    size = task.output.size(stream)
    for start in range(0, size, _CHUNK):
        yield task.output.read(start, min(start + _CHUNK, size), stream)


def _from_file(descriptor: int, size: int) -> Iterator[bytes]:
    """Yield what is in a file. Holes, where bytes were lost or freed, are left out."""
    position = 0
    while position < size:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = min(os.lseek(descriptor, position, os.SEEK_HOLE), size)
        while position < end:
            block = os.pread(descriptor, min(_CHUNK, end - position), position)
            if not block:
                return
            position += len(block)
            yield block

"""What stands in the readable file of a task."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from eventbus_tasks_disk.interleaving import Interleaving
from eventbus_tasks_disk.markdown import Section
from eventbus_tasks_disk.storage import ARRIVALS, LOGS, TaskFolder, find_data

if TYPE_CHECKING:
    from eventbus_tasks import Outcome, Stream, Task

__all__ = ["Subject", "facts_of", "sections_of", "sections_of_files"]

_CHUNK: Final = 256 * 1024
_WOVEN: Final = 16 * 1024 * 1024
_MARK: Final = b"stderr: "
_TITLES: Final[dict[Stream, str]] = {"stdout": "Output", "stderr": "Standard error"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a readable file is about.

    Attributes:
        id: Number of the task.
        uid: Its UUID.
        name: Its name.
        agent: Its agent.
        prompt: What the agent was told.
        project_dir: The project, absolute.
        created: When it was accepted.
        started: When its program was executed, or ``None``.
        argv: What was asked for, where that was a plain command.
    """

    id: int
    uid: str
    name: str
    agent: str
    prompt: str
    project_dir: str
    created: datetime
    started: datetime | None
    argv: tuple[str, ...]

    @classmethod
    def of(cls, task: Task) -> Subject:
        """Describe a live task."""
        return cls(
            id=task.id,
            uid=task.uid,
            name=task.name,
            agent=task.agent,
            prompt=task.prompt,
            project_dir=str(task.project_dir),
            created=task.created_at,
            started=task.started_at,
            argv=task.request.argv,
        )


def facts_of(task: Subject, outcome: Outcome, ended: datetime) -> dict[str, Any]:
    """Return the header: what a person wants to know first, first."""
    facts: dict[str, Any] = {
        "id": task.id,
        "name": task.name,
        "agent": task.agent,
        "status": outcome.status.value,
        "reason": outcome.reason.value,
        "message": outcome.message,
        "exit_code": outcome.return_code,
        "prompt": task.prompt,
        "project": task.project_dir,
        "created": task.created.isoformat(),
        "started": None if task.started is None else task.started.isoformat(),
        "ended": ended.isoformat(),
        "duration_seconds": round((ended - (task.started or task.created)).total_seconds(), 3),
        "result": outcome.result,
        "output_bytes": dict(outcome.output_bytes),
        "uid": task.uid,
    }
    if task.argv:
        facts["command"] = list(task.argv)
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
    sections = _result_of(outcome)
    if all(task.output.path(stream) for stream in task.output.streams):
        woven = _weave(outcome, folder, stack)
        if woven is not None:
            return [*sections, woven]
    for stream in task.output.streams:
        if task.output.path(stream) is None:
            # Not kept by us (that is an error by itself), but shown as long as it is there.
            size = task.output.size(stream)
            chunks = partial(_from_task, task, stream)
        else:
            descriptor = folder.open(LOGS[stream])
            stack.callback(os.close, descriptor)
            # What survivors write from now on is in the log only.
            size = os.fstat(descriptor).st_size
            chunks = partial(_from_file, descriptor)
        sections.append(Section(title=_TITLES[stream], size=size, chunks=chunks))
    return sections


def sections_of_files(outcome: Outcome, folder: TaskFolder, stack: ExitStack) -> list[Section]:
    """Return the same texts for a task that nobody has in memory any more.

    Raises:
        OSError: A log is there and cannot be opened.
    """
    sections = _result_of(outcome)
    woven = _weave(outcome, folder, stack)
    if woven is not None:
        return [*sections, woven]
    for stream, title in _TITLES.items():
        try:
            descriptor = folder.open(LOGS[stream])
        except FileNotFoundError:
            continue
        stack.callback(os.close, descriptor)
        size = os.fstat(descriptor).st_size
        sections.append(Section(title=title, size=size, chunks=partial(_from_file, descriptor)))
    return sections


def _result_of(outcome: Outcome) -> list[Section]:
    if not outcome.result:
        return []
    result = outcome.result.encode("utf-8", "replace")
    return [Section(title="Result", size=len(result), chunks=lambda a, b: iter((result[a:b],)))]


def _weave(outcome: Outcome, folder: TaskFolder, stack: ExitStack) -> Section | None:
    """Return one text with the lines of both streams in the order in which they had come.

    Only if there are two streams with something in them, their order is known, and they are small
    enough to be read more than once.
    """
    if any(outcome.lost_bytes.values()):
        return None
    opened: list[int] = []
    for suffix in (*LOGS.values(), ARRIVALS):
        try:
            descriptor = folder.open(suffix)
        except OSError:
            return None
        stack.callback(os.close, descriptor)
        opened.append(descriptor)
    *logs, index = opened
    sizes = [os.fstat(log).st_size for log in logs]
    if not all(sizes) or sum(sizes) > _WOVEN:
        return None
    chunks = partial(_woven, dict(zip(LOGS, logs, strict=True)), index)
    size = sum(map(len, chunks(0, sys.maxsize)))
    return Section(title=_TITLES["stdout"], size=size, chunks=chunks)


def _woven(logs: Mapping[str, int], index: int, begin: int, end: int) -> Iterator[bytes]:
    lines = Interleaving(logs, index)
    position = 0
    begun = {"stderr": False}
    for line in chain(lines.read(), lines.finish()):
        data = line.data
        if line.stream == "stderr" and not begun["stderr"]:
            data = _MARK + data
        if line.at is None and not data.endswith(b"\n"):
            data += b"\n"
        begun[line.stream] = not data.endswith(b"\n")
        first, position = position, position + len(data)
        if position > begin:
            yield data[max(0, begin - first) : end - first]
        if position >= end:
            return


def _from_task(task: Task, stream: Stream, begin: int, end: int) -> Iterator[bytes]:
    for start in range(begin, end, _CHUNK):
        yield task.output.read(start, min(start + _CHUNK, end), stream)


def _from_file(descriptor: int, begin: int, limit: int) -> Iterator[bytes]:
    """Yield a part of a file. Holes, where bytes were lost or freed, are left out."""
    position = begin
    while position < limit:
        position, end = find_data(descriptor, position)
        end = min(end, limit)
        if position >= end:
            return
        while position < end:
            block = os.pread(descriptor, min(_CHUNK, end - position), position)
            if not block:
                return
            position += len(block)
            yield block

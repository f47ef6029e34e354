"""Tasks that run now, of any program of this user: finding, reading, stopping, waiting.

Everything here works between processes: it needs no engine, and no plugin. All of it blocks for
a moment, and may be called from any thread; `RunningTask.wait` blocks for as long as it takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

from eventbus_tasks._process import visit, wire
from eventbus_tasks.errors import TaskNotFoundError
from eventbus_tasks.lifecycle import Facts, judge
from eventbus_tasks.outcome import Outcome, Reason, Survivor
from eventbus_tasks.policies import Stream
from eventbus_tasks.request import TaskRef
from eventbus_tasks.settings import Settings

__all__ = ["RunningState", "RunningTask", "TaskRecord", "find_running_tasks"]

RunningState = Literal["starting", "running", "stopping", "left", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """One task that runs, as its guardian describes it at one moment.

    Attributes:
        ref: Who it is.
        state: ``"starting"``, ``"running"``, ``"stopping"``; ``"left"`` when it has ended and
            its policy lets what it has left behind live on; ``"unknown"`` when its guardian does
            not answer (a stalled disk), so that only its UUID is known.
        has_host: Whether a program answers for it. ``False``: its host has died, and it goes on
            by itself (``on_host_death="detach"``) or is being ended.
        host_pid: Process number of the host, or of the last one; ``None`` if unknown.
        pid: Process number of its program, once it was executed.
        pid_start_time: Start time of that process in clock ticks after boot; number and start
            time together identify it, the number alone does not.
        guardian_pid: Process number of its guardian.
        created_at: When it was accepted, in UTC.
        started_at: When its program was executed, in UTC.
        log_paths: Paths of its logs by stream; empty for logs without a name.
    """

    ref: TaskRef
    state: RunningState
    has_host: bool
    host_pid: int | None
    pid: int | None
    pid_start_time: int | None
    guardian_pid: int | None
    created_at: datetime | None
    started_at: datetime | None
    log_paths: Mapping[str, str]
    _path: str = field(repr=False, compare=False)
    _guardian: tuple[int, int] = field(default=(0, 0), repr=False, compare=False)

    @property
    def is_detached(self) -> bool:
        """Whether it runs although its host has died: an engine may re-attach to it."""
        return not self.has_host and self.state in ("starting", "running")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            **self.ref.to_dict(),
            "state": self.state,
            "detached": self.is_detached,
            "host_pid": self.host_pid if self.has_host else None,
            "pid": self.pid,
            "guardian_pid": self.guardian_pid,
            "created": None if self.created_at is None else self.created_at.isoformat(),
            "started": None if self.started_at is None else self.started_at.isoformat(),
            "logs": dict(self.log_paths),
        }

    def stop(self, *, now: bool = False) -> None:
        """Begin to end it, as ``Task.cancel_nowait`` does in its own program; reason ``cancelled``.

        Args:
            now: Skip the polite rungs of the ladder: SIGKILL.

        Raises:
            TaskNotFoundError: It has ended.
            OSError: Its guardian does not answer.
        """
        try:
            visit.request_stop(self._path, now=now)
        except (FileNotFoundError, ConnectionError) as error:
            raise TaskNotFoundError(self.ref.id) from error

    def open_log(self, stream: Stream = "stdout") -> int:
        """Return a descriptor of its log, for reading; also of a log without a name.

        Raises:
            TaskNotFoundError: It has ended, or has no such stream of its own.
            OSError: Its guardian does not answer.
        """
        try:
            logs = visit.open_logs(self._path)
        except (FileNotFoundError, ConnectionError) as error:
            raise TaskNotFoundError(self.ref.id) from error
        wanted = logs.pop(stream, None)
        for descriptor in logs.values():
            os.close(descriptor)
        if wanted is None:
            raise TaskNotFoundError(self.ref.id)
        return wanted

    def wait(
        self, timeout: float | None = None, *, watching: Callable[[], object] | None = None
    ) -> Outcome | None:
        """Wait until its family is gone, and return how it ended, as its guardian saw it.

        What an agent says about its own success is not in it: only the host understands that.

        Args:
            timeout: Seconds to wait at most; ``None`` without a limit.
            watching: Called, in this thread, once the end cannot be missed any more.

        Returns:
            The outcome, or ``None`` when the time is over.

        Raises:
            TaskNotFoundError: It had ended before.
            OSError: Its guardian does not answer.
        """
        return self._watch(timeout, None, watching)

    def cancel(self, *, now: bool = False, timeout: float | None = None) -> Outcome | None:
        """End it, and wait until its family is gone; `stop` and `wait` in one.

        Args:
            now: Skip the polite rungs of the ladder: SIGKILL.
            timeout: Seconds to wait at most; ``None`` without a limit.

        Returns:
            The outcome, or ``None`` when the time is over; it is being ended all the same.

        Raises:
            TaskNotFoundError: It had ended before.
            OSError: Its guardian does not answer.
        """
        return self._watch(timeout, "now" if now else "polite")

    def _watch(
        self,
        timeout: float | None,
        stop: str | None,
        watching: Callable[[], object] | None = None,
    ) -> Outcome | None:
        try:
            heard = visit.watch(self._path, timeout, stop=stop, watching=watching)
        except (FileNotFoundError, ConnectionError) as error:
            raise TaskNotFoundError(self.ref.id) from error
        if heard is None:
            return None
        if not any(isinstance(message, wire.Ended) and message.survivors for message in heard):
            visit.wait_released(self._guardian, Path(self.ref.project_dir))
        return _outcome_of(heard)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """What a plugin that keeps the history of tasks knows about one: see ``ebt_task_records``.

    Attributes:
        ref: Who it is.
        created_at: When it was accepted, in UTC.
        is_live: Says, each time anew, whether somebody is left who may still add its end.
        read_outcome: Says how it ended, or ``None`` if that is not known.
    """

    ref: TaskRef
    created_at: datetime
    is_live: Callable[[], bool]
    read_outcome: Callable[[], Outcome | None]


def find_running_tasks(state_dir: Path | None = None) -> tuple[RunningTask, ...]:
    """Return every task of this user that runs now, whichever program started it, oldest first.

    Args:
        state_dir: The state directory; that of the settings when left out.
    """
    found = visit.find_all(Settings.load().state_dir if state_dir is None else state_dir)
    tasks = (_read(path, data) for path, data in found)
    return tuple(sorted(tasks, key=lambda task: (task.created_at or _LATEST, task.ref.uid)))


_LATEST: Final = datetime.max.replace(tzinfo=UTC)


def _read(path: str, data: Mapping[str, Any]) -> RunningTask:
    about = data.get("about") or {}
    ref = about.get("ref")
    leader = data.get("leader") or (None, None)
    guardian = data.get("guardian") or (None, None)
    started, created = data.get("started_at"), about.get("created_at")
    return RunningTask(
        ref=TaskRef(**ref)
        if ref
        else TaskRef(id=0, uid=data["uid"], name="", agent="", project_dir=""),
        state=cast("RunningState", data.get("state", "unknown")),
        has_host=bool(data.get("hosted", True)),
        host_pid=(data.get("host") or (None,))[0],
        pid=leader[0],
        pid_start_time=leader[1],
        guardian_pid=guardian[0],
        created_at=None if created is None else datetime.fromisoformat(created),
        started_at=None if started is None else datetime.fromtimestamp(started, UTC),
        log_paths=dict(about.get("logs") or {}),
        _path=path,
        _guardian=(guardian[0] or 0, guardian[1] or 0),
    )


def _outcome_of(heard: list[wire.Message]) -> Outcome:
    for message in reversed(heard):
        if isinstance(message, wire.Ended):
            stop = None if message.reason is None else Reason(message.reason)
            reason, text = judge(
                Facts(
                    return_code=message.return_code,
                    stop_reason=stop,
                    unkillable=message.unkillable,
                )
            )
            return Outcome(
                reason=reason,
                message=text,
                return_code=message.return_code,
                survivors=tuple(
                    Survivor(pid=one.pid, start_time=one.start_time, command=one.command[:200])
                    for one in message.survivors
                ),
                output_bytes=dict(message.sizes),
                lost_bytes=dict(message.dropped),
            )
        if isinstance(message, wire.SpawnFailed):
            reason, text = judge(Facts(spawn_error=message.message or os.strerror(message.errno)))
            return Outcome(reason=reason, message=text)
    reason, text = judge(Facts(guardian_lost=True))
    return Outcome(reason=reason, message=text)

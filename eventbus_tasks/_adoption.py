"""Goes on with a task whose host has died: the run of a re-attached task.

The guardian sends everything it has ever told, from the beginning, and the log has every byte.
What the journal of the dead host has already, is not written again: a message, an activity or a
range of output that is in it is passed over, or delivered to this host's receivers with the
number of the last event, and everything behind it is numbered on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus_tasks import events
from eventbus_tasks._answers import (
    check_command,
    check_journal,
    check_reopened,
    close_quietly,
    my_identity,
)
from eventbus_tasks._process import wire
from eventbus_tasks._process.handle import GuardianLink
from eventbus_tasks._process.lost import Lost
from eventbus_tasks._process.visit import Attached, attach, wait_released
from eventbus_tasks._runner import TaskRun
from eventbus_tasks._services import Services
from eventbus_tasks.errors import ReattachError, TaskNotFoundError, UnknownAgentError
from eventbus_tasks.events import EVENT_TYPES, AgentActivity, OutputReceived, TaskEvent
from eventbus_tasks.lifecycle import Input
from eventbus_tasks.policies import (
    LogFiles,
    ReopenedJournal,
    TerminationPolicy,
)
from eventbus_tasks.request import TaskRef, TaskRequest
from eventbus_tasks.running import find_running_tasks
from eventbus_tasks.settings import Settings
from eventbus_tasks.task import Task

if TYPE_CHECKING:
    from eventbus_tasks._delivery import Delivery
    from eventbus_tasks._turns import Admittance
    from eventbus_tasks.output import StreamCursor
    from eventbus_tasks.plugins import PluginHost
    from eventbus_tasks.signals import Subscription
    from eventbus_tasks.task import TaskControl

__all__ = ["AdoptedRun", "Adoption", "Past"]


@dataclass(slots=True)
class Past:
    """What a journal has already.

    Attributes:
        seq: Number of its last event.
        accepted: Whether the task was accepted in it.
        started: Whether the program was started.
        stopping: Whether the ladder had begun.
        signals: How many rungs there were.
        activities: How many things the agent has done.
        output: Up to where the output of each stream is known.
        dropped: Which bytes are known to be lost, by stream and cause.
    """

    seq: int = 0
    accepted: bool = False
    started: bool = False
    stopping: bool = False
    signals: int = 0
    activities: int = 0
    output: dict[str, int] = field(default_factory=dict)
    dropped: dict[tuple[str, str], Lost] = field(default_factory=dict)

    @classmethod
    def read(cls, journal: Iterable[Mapping[str, Any]]) -> Past:
        """Read a journal; what is damaged is passed over."""
        past = cls()
        for data in journal:
            try:
                past._add(data)
            except (KeyError, TypeError, ValueError):
                continue
        return past

    def _add(self, data: Mapping[str, Any]) -> None:
        self.seq = max(self.seq, int(data["seq"]))
        match data["event"]:
            case "task.accepted":
                self.accepted = True
            case "task.started":
                self.started = True
            case "task.stopping":
                self.stopping = True
            case "task.signal_sent":
                self.signals += 1
            case "output.received":
                stream = data["stream"]
                self.output[stream] = max(self.output.get(stream, 0), int(data["end"]))
            case "output.dropped":
                self._lose(data["stream"], data["why"], int(data["start"]), int(data["end"]))
            case name if issubclass(EVENT_TYPES.get(name, TaskEvent), AgentActivity):
                self.activities += 1

    def _lose(self, stream: str, why: str, start: int, end: int) -> list[tuple[int, int]]:
        return self.dropped.setdefault((stream, why), Lost()).add(start, end)

    def parts_of(self, loss: wire.Dropped) -> list[tuple[wire.Dropped, bool]]:
        """Return a loss in parts, in order, each with whether it was known; now all of it is.

        Bytes are not lost in their order: what is cut off a log lies before what did not fit.
        """
        parts = []
        position = loss.start
        for start, end in self._lose(loss.stream, loss.why, loss.start, loss.end):
            if position < start:
                parts.append((replace(loss, start=position, end=start), True))
            parts.append((replace(loss, start=start, end=end), False))
            position = end
        if position < loss.end:
            parts.append((replace(loss, start=position), True))
        return parts


class AdoptedRun(TaskRun):
    """The life of a task from here on.

    Args:
        services: What the runs of the engine share.
        task: The task, as it will be known to this host.
        admittance: Of a task that waits for nothing: its guardian has the project.
        attached: The connection to its guardian; owned from here on.
        offset: Where the delivery of its output begins, in each stream.
    """

    def __init__(
        self,
        services: Services,
        task: Task,
        admittance: Admittance,
        attached: Attached,
        *,
        offset: int = 0,
    ) -> None:
        super().__init__(services, task, admittance)
        self._guardian = tuple(attached.facts.get("guardian") or (0, 0))
        self._offset = offset
        self._past = Past()
        self._reopened = False
        self._resumed = False
        self._mute = False
        self._heard = self._warden_lost = True
        self._argv = tuple(attached.spec.argv)
        self._policy = TerminationPolicy.from_dict(attached.spec.policy)
        paths = (attached.facts.get("about") or {}).get("logs") or {}
        logs = attached.logs
        task.output.attach(
            LogFiles(
                stdout=logs["stdout"],
                stderr=logs.get("stderr"),
                stdout_path=paths.get("stdout"),
                stderr_path=paths.get("stderr"),
            )
        )
        self._output.attach()
        self._output.replays = True
        task._input.shut("it ended with the host that had started the task")
        self._link = GuardianLink.attached(
            attached.control, attached.bell, attached.spec.argv, attached.pipes
        )
        if attached.spec.capture == "pty":
            task._input.resize = self._link.resize
        task._step(Input.LAUNCH)

    async def _live(self) -> None:
        if not self._reopened:
            await self._reopen()
            self._reopened = True
        if not self._resumed:
            await self._resume()
            self._resumed = True
        await super()._live()
        if not self._survivors:
            # The warden has no connection to this host; what it does last can be seen.
            await self._services.plugins.run(
                functools.partial(wait_released, self._guardian, self.task.project_dir),
                deadline=30.0,
                endures=True,
            )

    async def _reopen(self) -> None:
        """Go on with the journal where it ended."""
        reopened = await self._ask("ebt_reopen_journal", check=check_reopened, undo=close_quietly)
        if reopened is not None:
            await self._read_past(reopened)
        elif self._hook_errors:
            # There may be one, and a task has no second one.
            self._failed_to_persist(f"journal: {'; '.join(self._hook_errors)}")
        else:
            journal = await self._ask("ebt_open_journal", check=check_journal, undo=close_quietly)
            self.chronicle.write_to(journal)
        self.chronicle.go_on_after(self._past.seq)
        if not self._past.accepted:
            self._emit(events.TaskAccepted(request=self.task.request))
        self._emit(events.TaskReattached(offset=self._offset))

    async def _read_past(self, reopened: ReopenedJournal) -> None:
        """Learn what happened before; a journal of days takes its time, and the task goes on."""
        try:
            self._past = await self._services.plugins.run(
                lambda: Past.read(reopened.events()), deadline=math.inf, endures=True
            )
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises
            # Without it, nobody knows which number comes next.
            self._failed_to_persist(f"journal: {type(error).__name__}: {error}")
            close_quietly(reopened)
            return
        self.chronicle.write_to(reopened)
        # Also if its guardian is killed before it has told us so once more.
        self._executed = self._past.started

    async def _resume(self) -> None:
        """Find somebody who understands the output."""
        command = await self._ask("ebt_build_command", check=check_command)
        if command is not None:
            self._output.interpreter = command.interpreter
            self.task._session_id = command.session_id
            await self.sessions.guard()
            self.sessions.note(self.task.session_id)
        elif self.task.agent != "command":
            errors = "; ".join(self._hook_errors) or "its plugin did not say how"
            problem = f"the output of the agent is not understood: {errors}"
            self._facts = replace(self._facts, plugin_error=problem)
        for stream in self.task.output.streams:
            self._output.stop_at[stream] = (self._offset, self._past.output.get(stream, 0))

    def _take(self, message: wire.Message) -> None:
        past = self._past
        known = False
        match message:
            case wire.Started():
                known = past.started
            case wire.Stopping():
                known = past.stopping
            case wire.SignalSent() if past.signals > 0:
                past.signals -= 1
                known = True
            case wire.Dropped():
                for part, is_known in past.parts_of(message):
                    self._take_part(part, known=is_known)
                return
        self._take_part(message, known=known)

    def _take_part(self, message: wire.Message, *, known: bool) -> None:
        if known:
            self._take_quietly(message)
        else:
            super()._take(message)

    def _take_quietly(self, message: wire.Message) -> None:
        self._mute = True
        try:
            super()._take(message)
        finally:
            self._mute = False

    def _line_emitter(self) -> Callable[[Subscription, StreamCursor, bytes], bool]:
        return lambda *_: False  # whether it was told before is asked for each range

    def _emit(self, event: TaskEvent, *, at: datetime | None = None) -> list[Delivery]:
        if self._mute:
            return []
        if isinstance(event, OutputReceived):
            known = event.end <= self._past.output.get(event.stream, 0) and not event.last
            wanted = event.end > self._offset
        elif isinstance(event, AgentActivity) and self._past.activities > 0:
            self._past.activities -= 1
            known, wanted = True, event.end > self._offset
        else:
            return super()._emit(event, at=at)
        if known:
            event._stamp_here(self.task.ref, self.chronicle.seq, datetime.now(UTC))
            # Whoever asks for earlier events finds it in the journal.
            return self._services.bus.emit(event, self.task) if wanted else []
        self.chronicle.record(event, at=at)
        if wanted:
            return self.chronicle.tell(event)
        self.chronicle.history.add(event)
        return []


@dataclass(slots=True, kw_only=True)
class Adoption:
    """A task that was taken over, before its run begins.

    Attributes:
        ref: Who it is.
        request: What was asked for.
        settings: The settings of its project.
        created_at: When it was accepted.
        attached: The connection to its guardian.
    """

    ref: TaskRef
    request: TaskRequest
    settings: Settings
    created_at: datetime
    attached: Attached

    @classmethod
    def prepare(cls, uid: str, settings: Settings, plugins: PluginHost) -> Adoption:
        """Take a task over. Blocks: call it in a worker thread.

        Raises:
            TaskNotFoundError: It does not run.
            ReattachError: It has a host.
            UnknownAgentError: No plugin here drives its agent.
            SettingsError: The project's own settings are wrong.
        """
        found = [task for task in find_running_tasks(settings.state_dir) if task.ref.uid == uid]
        if not found:
            raise TaskNotFoundError(uid)
        task = found[0]
        if task.state == "unknown":
            raise ReattachError(uid, "its guardian does not answer")
        if task.ref.agent not in plugins.agents:
            raise UnknownAgentError(task.ref.agent, tuple(sorted(plugins.agents)))
        project = Settings.load(Path(task.ref.project_dir), tables=plugins.tables)
        try:
            attached = attach(task._path, {"host": my_identity()})
        except OSError as error:
            raise TaskNotFoundError(uid) from error
        if isinstance(attached, str):
            raise ReattachError(uid, attached)
        request = {"argv": attached.spec.argv, **attached.spec.request}
        return cls(
            ref=task.ref,
            request=TaskRequest.from_dict(request),
            settings=project.pinned(settings),
            created_at=task.created_at or datetime.now(UTC),
            attached=attached,
        )

    def start(
        self,
        services: Services,
        admittance: Admittance,
        *,
        control: TaskControl,
        number: int,
        offset: int,
    ) -> AdoptedRun:
        """Make the task and its run.

        Args:
            services: What the runs of the engine share.
            admittance: Of a task that waits for nothing.
            control: The engine.
            number: Its number there.
            offset: Where the delivery of its output begins.
        """
        task = Task(
            ref=replace(self.ref, id=number),
            request=self.request,
            settings=self.settings,
            control=control,
        )
        task.created_at = self.created_at
        return AdoptedRun(services, task, admittance, self.attached, offset=offset)

    def close(self) -> None:
        """Give the task back: its policy says what becomes of it."""
        self.attached.close()

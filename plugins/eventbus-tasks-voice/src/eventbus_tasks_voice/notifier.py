"""The notifier: turns the events of an engine into announcements."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Final

from eventbus_tasks import (
    AgentInputRequired,
    Reason,
    TaskCancelled,
    TaskCompleted,
    TaskEnded,
    TaskFailed,
    TaskNotFoundError,
)
from eventbus_tasks_voice.announcements import Announcement, Kind, Urgency
from eventbus_tasks_voice.cleaning import speakable, spoken_name
from eventbus_tasks_voice.settings import VoiceSettings

if TYPE_CHECKING:
    from eventbus_tasks import Subscription, TaskEngine, TaskEvent
    from eventbus_tasks_voice.voice import Voice

__all__ = ["Notifier", "time_taken"]

logger: Final = logging.getLogger("eventbus_tasks.voice")

_KINDS: Final[tuple[tuple[type[TaskEvent], Kind], ...]] = (
    (TaskCompleted, Kind.COMPLETED),
    (TaskFailed, Kind.FAILED),
    (TaskCancelled, Kind.CANCELLED),
    (AgentInputRequired, Kind.INPUT),
)

_HEADLINES: Final = {
    Kind.COMPLETED: "done",
    Kind.FAILED: "failed",
    Kind.CANCELLED: "cancelled",
    Kind.INPUT: "needs you",
}

# Events carry no live object, so whoever describes one has to look up when its task began.
_engines: Final[weakref.WeakSet[TaskEngine]] = weakref.WeakSet()


def time_taken(event: TaskEvent) -> float | None:
    """Return how many seconds the task of a terminal event has run, if that is known here."""
    if not isinstance(event, TaskEnded):
        return None
    for engine in tuple(_engines):
        try:
            task = engine.get_task(event.task)
        except TaskNotFoundError:
            continue
        if task.started_at is None:
            return None
        return max(0.0, (event.at - task.started_at).total_seconds())
    return None


class Notifier:
    """Connects a voice to an engine.

    Args:
        engine: Whose events are announced.
        voice: Who announces them.
        settings: What is announced how, unless a project says otherwise.
        fixed: Whether the program itself has given the settings: then no project changes them.
    """

    def __init__(
        self, engine: TaskEngine, voice: Voice, settings: VoiceSettings, *, fixed: bool = False
    ) -> None:
        self._engine = weakref.ref(engine)
        self._voice = voice
        self._settings = settings
        self._fixed = fixed
        _engines.add(engine)
        signals = engine.signals
        # Sync receivers: they only put something in a queue, and no task waits for speech.
        self._subscriptions: tuple[Subscription, ...] = (
            signals.task_ended.connect(self._announce),
            signals.agent_input_required.connect(self._announce),
        )

    def close(self) -> None:
        """Disconnect."""
        for subscription in self._subscriptions:
            subscription.close()

    def _announce(self, event: TaskEvent) -> None:
        engine = self._engine()
        kind = next((kind for cls, kind in _KINDS if isinstance(event, cls)), None)
        if engine is None or kind is None:
            return
        name = spoken_name(event.task.name)
        text = speakable(engine.describe(event)) or f"{name}: {_HEADLINES[kind]}"
        self._voice.announce(
            Announcement(
                text=text,
                kind=kind,
                urgency=self._urgency(engine, event, kind),
                name=name,
                headline=f"{name}: {_HEADLINES[kind]}",
                key=_key(event),
                task=event.task,
            )
        )

    def _urgency(self, engine: TaskEngine, event: TaskEvent, kind: Kind) -> Urgency:
        # The program is ending its tasks itself: no news to anybody.
        if isinstance(event, TaskEnded) and event.outcome.reason is Reason.ENGINE_CLOSED:
            return Urgency.SILENT
        settings = self._settings
        if not self._fixed:
            try:
                settings = engine.get_task(event.task).settings.table(VoiceSettings)
            except TaskNotFoundError:  # removed by a receiver before us
                pass
        urgency = Urgency(getattr(settings, kind.value))
        if settings.quiet and urgency is not Urgency.INTERRUPT:
            return Urgency.SILENT
        return urgency


def _key(event: TaskEvent) -> str:
    if isinstance(event, AgentInputRequired):
        return f"{event.task.uid} {event.name} {event.request_id or event.seq}"
    return f"{event.task.uid} ended"

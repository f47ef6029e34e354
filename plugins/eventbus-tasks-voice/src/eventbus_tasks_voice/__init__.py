"""Announces the ends of tasks by voice: one short sentence each, one speaker at a time.

Installing it is enough. Programs with a voice of their own use `get_voice`::

    voice = eventbus_tasks_voice.get_voice()
    voice.user_speaking()
    voice.user_idle()
    async with voice.hand_over() as cues:
        async for cue in cues: ...
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from eventbus_tasks import hookimpl
from eventbus_tasks_voice.settings import TABLE, VoiceSettings, voice_settings

if TYPE_CHECKING:
    import argparse

    from eventbus_tasks import TaskEngine, TaskEvent
    from eventbus_tasks_voice.announcements import (
        Admission,
        Announcement,
        Delivery,
        Kind,
        Receipt,
        Urgency,
        Utterance,
    )
    from eventbus_tasks_voice.hand_over import Cue, HandOver
    from eventbus_tasks_voice.notifier import Notifier
    from eventbus_tasks_voice.voice import Voice, get_voice

__all__ = [
    "Admission",
    "Announcement",
    "Cue",
    "Delivery",
    "HandOver",
    "Kind",
    "Receipt",
    "Urgency",
    "Utterance",
    "Voice",
    "VoiceSettings",
    "get_voice",
]

_MODULES: Final = {
    **dict.fromkeys(
        ("Admission", "Announcement", "Delivery", "Kind", "Receipt", "Urgency", "Utterance"),
        "announcements",
    ),
    **dict.fromkeys(("Cue", "HandOver"), "hand_over"),
    **dict.fromkeys(("Voice", "get_voice"), "voice"),
}

_notifiers: Final[weakref.WeakKeyDictionary[TaskEngine, tuple[Notifier, float]]] = (
    weakref.WeakKeyDictionary()
)


def __getattr__(name: str) -> Any:
    """Import what is public when it is used: the command line loads this module every time."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


@hookimpl
def ebt_register_settings(register: Callable[[str, type], None]) -> None:
    """Declare the table ``[voice]``."""
    register(TABLE, VoiceSettings)


@hookimpl
def ebt_register_commands(
    register: Callable[[str, str, Callable[[argparse.ArgumentParser], Any]], None],
) -> None:
    """Add ``ebt say``."""

    def configure(parser: argparse.ArgumentParser) -> None:
        from eventbus_tasks_voice.say import configure

        configure(parser)

    register("say", "say a text with the voice of announcements", configure)


@hookimpl
def ebt_describe(event: TaskEvent) -> str | None:
    """Say an event as one says it aloud: with the time it took, without numbers of any kind."""
    from eventbus_tasks_voice.notifier import time_taken
    from eventbus_tasks_voice.wording import describe

    return describe(event, time_taken(event))


@hookimpl
def ebt_engine_started(engine: TaskEngine) -> None:
    """Announce what happens in an engine, unless that is switched off."""
    settings = voice_settings(engine.settings)
    if settings.enabled is False:
        return
    from eventbus_tasks_voice.loudspeaker import make_loudspeaker
    from eventbus_tasks_voice.notifier import Notifier
    from eventbus_tasks_voice.queue import QueueLimits
    from eventbus_tasks_voice.voice import get_voice

    voice = get_voice()
    fixed = engine.settings.table(VoiceSettings) != VoiceSettings()
    voice.retain(make_loudspeaker(settings, engine.settings), QueueLimits(gather=settings.gather))
    notifier = Notifier(engine, voice, settings, fixed=fixed)
    _notifiers[engine] = (notifier, settings.linger)


@hookimpl
def ebt_engine_stopping(engine: TaskEngine) -> None:
    """Stop listening; what waits to be said is said, for a while."""
    notifier, linger = _notifiers.pop(engine, (None, 0.0))
    if notifier is not None:
        from eventbus_tasks_voice.voice import get_voice

        notifier.close()
        get_voice().release(linger)

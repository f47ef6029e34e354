"""The loudspeaker: takes utterances from the voice and has them said, one after the other."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from eventbus_tasks_voice.announcements import Delivery, Utterance
from eventbus_tasks_voice.speaker import Speaker, Spoken, TurnTakenError, open_speaker
from eventbus_tasks_voice.synthesizers import (
    NoSynthesizerError,
    Synthesizer,
    choose_synthesizer,
    has_sound,
)

if TYPE_CHECKING:
    from eventbus_tasks import Settings
    from eventbus_tasks_voice.settings import VoiceSettings
    from eventbus_tasks_voice.waking import Waker

__all__ = ["Loudspeaker", "Source", "drive", "make_loudspeaker"]

logger: Final = logging.getLogger("eventbus_tasks.voice")

_TURN_POLL: Final = 0.05
"""Seconds between two looks whether it is our turn: too short to be heard."""


class Source(Protocol):
    """What the loudspeaker asks of the voice."""

    def take(self, waker: Waker, lease: float | None = None) -> Utterance | float | None:
        """Return what to say now, or how long to wait at most."""

    def must_stop(self, utterance: Utterance) -> bool:
        """Whether to break it off."""

    def finish(self, utterance: Utterance, delivery: Delivery, reason: str = "") -> None:
        """Note what became of it."""

    def put_back(self, utterance: Utterance) -> None:
        """Undo `take`."""

    def time_left(self, waker: Waker) -> float | None:
        """Return how many seconds there are left."""

    def try_leave(self, waker: Waker) -> bool:
        """Leave, if there is nothing left to do."""

    def left(self, waker: Waker) -> None:
        """Note that the loudspeaker has gone."""


async def drive(source: Source, waker: Waker, speak: Callable[[str], Awaitable[Spoken]]) -> None:
    """Have everything said that the source hands out, until it lets go.

    Args:
        source: Where utterances come from.
        waker: Is rung when something has changed there.
        speak: Says a text; is cancelled to cut it off, and raises `TurnTakenError` when somebody
            else is speaking.

    Cancellation: what is being said counts as given up.
    """
    known: set[str] = set()
    while not source.try_leave(waker):
        found = source.take(waker)
        if isinstance(found, Utterance):
            await _say(source, waker, speak, found, known)
        else:
            await waker.wait(_least(found, source.time_left(waker)))


async def _say(
    source: Source,
    waker: Waker,
    speak: Callable[[str], Awaitable[Spoken]],
    utterance: Utterance,
    known: set[str],
) -> None:
    delivery, reason = Delivery.SKIPPED, "the program has ended"
    is_our_turn = True
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, source, waker, utterance, group.cancel_scope)
            try:
                spoken = await speak(utterance.text)
            except TurnTakenError:
                is_our_turn = False
                source.put_back(utterance)
            except (NoSynthesizerError, OSError) as error:
                reason = str(error)
            else:
                delivery = Delivery.DELIVERED if spoken.ok else Delivery.SKIPPED
                reason = spoken.problem
            group.cancel_scope.cancel()
        if is_our_turn and delivery is Delivery.SKIPPED and source.must_stop(utterance):
            delivery, reason = Delivery.INTERRUPTED, ""
    finally:
        source.finish(utterance, delivery, reason)  # does nothing if it was put back
        if (
            is_our_turn
            and delivery is Delivery.SKIPPED
            and reason not in known
            and len(known) < 100
        ):
            known.add(reason)
            logger.warning("an announcement was not heard: %s", reason)
    if not is_our_turn:
        await anyio.sleep(_TURN_POLL)


async def _watch(
    source: Source, waker: Waker, utterance: Utterance, scope: anyio.CancelScope
) -> None:
    """Cut off an utterance when it must stop, or when there is no time left."""
    while not source.must_stop(utterance) and (left := source.time_left(waker)) != 0:
        await waker.wait(left)
    scope.cancel()


def _least(*seconds: float | None) -> float | None:
    return min((value for value in seconds if value is not None), default=None)


class Loudspeaker:
    """Speaks aloud, in a thread with an event loop of its own.

    A thread, because the program's own loop may be of any kind, may be blocked, and may end
    before the last sentence has been said.

    Args:
        synthesizer: Who speaks.
        settings: How.
        core: Settings of the engine that runs the synthesizer.
    """

    def __init__(self, synthesizer: Synthesizer, settings: VoiceSettings, core: Settings) -> None:
        self._synthesizer = synthesizer
        self._settings = settings
        self._core = core
        self._numbers = itertools.count(1)

    @property
    def linger(self) -> float:
        """Seconds that may be spoken on when the program ends."""
        return self._settings.linger

    def run(self, source: Source, waker: Waker) -> None:
        """Speak until the source lets go; blocks."""
        try:
            anyio.run(self._main, source, waker)
        except Exception:
            logger.exception("the loudspeaker has failed; nothing is said until the next news")
        finally:
            source.left(waker)
            waker.close()

    async def _main(self, source: Source, waker: Waker) -> None:
        settings = self._settings
        async with open_speaker(
            self._synthesizer,
            settings=self._core,
            voice=settings.voice,
            rate=settings.rate,
            deadline=settings.deadline,
        ) as speaker:
            if settings.wav_dir is None:
                await drive(source, waker, speaker.speak)
            else:
                directory = settings.wav_dir
                await drive(source, waker, lambda text: self._write(speaker, directory, text))

    async def _write(self, speaker: Speaker, directory: Path, text: str) -> Spoken:
        return await speaker.write(text, self._new_file(directory))

    def _new_file(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        now = datetime.now().astimezone()
        return directory / f"{now:%Y%m%d-%H%M%S}-{os.getpid()}-{next(self._numbers):04}.wav"


def make_loudspeaker(settings: VoiceSettings, core: Settings) -> Loudspeaker | None:
    """Return the loudspeaker that the settings ask for, or ``None`` and one line in the log.

    Args:
        settings: What is wanted.
        core: Settings of the engine that will run the synthesizer.
    """
    if settings.enabled is False:
        return None
    wants_sound = settings.wav_dir is None
    chosen = bool(settings.enabled or settings.synthesizer or not wants_sound)
    try:
        synthesizer = choose_synthesizer(settings, wav=not wants_sound)
    except NoSynthesizerError as error:
        level = logging.WARNING if chosen else logging.INFO
        logger.log(level, "announcements are not spoken: %s", error)
        return None
    if not chosen and not has_sound():
        logger.info("announcements are not spoken: no sound device (EBT_VOICE_ENABLED=1 overrules)")
        return None
    return Loudspeaker(synthesizer, settings, core)

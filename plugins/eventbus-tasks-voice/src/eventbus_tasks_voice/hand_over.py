"""Handing over what is to be said to a live session, which says it in its own voice."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from eventbus_tasks_voice.announcements import Announcement, Delivery, Urgency, Utterance
from eventbus_tasks_voice.waking import Waker

if TYPE_CHECKING:
    from eventbus_tasks_voice.voice import Voice

__all__ = ["Cue", "HandOver"]


class Cue:
    """Something a live session is to say now."""

    def __init__(self, voice: Voice, waker: Waker, utterance: Utterance) -> None:
        self._voice = voice
        self._waker = waker
        self.utterance = utterance

    @property
    def text(self) -> str:
        """What to say, clean for speech."""
        return self.utterance.text

    @property
    def urgency(self) -> Urgency:
        """How urgent it is."""
        return self.utterance.urgency

    @property
    def announcements(self) -> tuple[Announcement, ...]:
        """What it tells."""
        return self.utterance.announcements

    @property
    def must_stop(self) -> bool:
        """Whether to stop saying it: the user speaks, or something urgent has come up."""
        return self._voice.must_stop(self.utterance)

    async def wait_must_stop(self) -> None:
        """Wait until it must be broken off.

        Cancellation: ends the waiting.
        """
        while not self.must_stop:
            await self._waker.wait()

    def delivered(self) -> None:
        """Note that it was heard to its end."""
        self._voice.finish(self.utterance, Delivery.DELIVERED)

    def interrupted(self) -> None:
        """Note that it was cut off: it is repeated when nobody speaks."""
        self._voice.finish(self.utterance, Delivery.INTERRUPTED)

    def skipped(self) -> None:
        """Note that it is not wanted, and never will be."""
        self._voice.finish(self.utterance, Delivery.SKIPPED)


class HandOver:
    """Cues for a live session, as an async iterator; made by `Voice.hand_over`.

    To be used like this::

        async with voice.hand_over() as cues:
            async for cue in cues:
                await session.say(cue.text)

    Asking for the next cue means that the last one was delivered, unless it was acknowledged
    otherwise. Leaving the block with one unfinished means that it was interrupted.
    """

    def __init__(self, voice: Voice, lease: float) -> None:
        self._voice = voice
        self._lease = lease
        self._waker: Waker | None = None
        self._cue: Cue | None = None

    async def __aenter__(self) -> Self:
        """Take over."""
        self._waker = Waker()
        self._voice.attach(self._waker)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give back, without waiting for anything."""
        waker, self._waker = self._waker, None
        cue, self._cue = self._cue, None
        if cue is not None:
            cue.interrupted()
        if waker is not None:
            self._voice.detach(waker)
            waker.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Cue:
        """Wait for the next cue.

        Cancellation: loses no cue.
        """
        cue, self._cue = self._cue, None
        if cue is not None:
            cue.delivered()
        while self._waker is not None:
            found = self._voice.take(self._waker, self._lease)
            if isinstance(found, Utterance):
                self._cue = Cue(self._voice, self._waker, found)
                return self._cue
            await self._waker.wait(found)
        raise StopAsyncIteration

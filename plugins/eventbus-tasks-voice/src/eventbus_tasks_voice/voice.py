"""`Voice`: everything that is said in one process goes through one of these.

It puts a lock and a clock around the announcement queue, and hands utterances to one consumer at
a time: a live session that asked for them, else the loudspeaker.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from eventbus_tasks_voice.announcements import (
    Admission,
    Announcement,
    Delivery,
    Receipt,
    Urgency,
    Utterance,
)
from eventbus_tasks_voice.cleaning import speakable
from eventbus_tasks_voice.hand_over import HandOver
from eventbus_tasks_voice.queue import AnnouncementQueue, QueueLimits
from eventbus_tasks_voice.waking import Waker

if TYPE_CHECKING:
    from eventbus_tasks_voice.loudspeaker import Loudspeaker

__all__ = ["Voice", "get_voice"]

logger: Final = logging.getLogger("eventbus_tasks.voice")

# Seconds that are given, beyond what an utterance may take, to whoever has to end it.
_MARGIN: Final = 10.0


class Voice:
    """What is said in this process, by one speaker at a time.

    All methods may be called from any thread and never block; only `close` waits.

    Args:
        limits: How the queue behaves.
        loudspeaker: Says things aloud when no live session takes them; ``None`` for nobody.
    """

    def __init__(
        self, limits: QueueLimits | None = None, *, loudspeaker: Loudspeaker | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._queue = AnnouncementQueue(limits)
        self._loudspeaker = loudspeaker
        self._consumers: list[Waker] = []  # the last one is served
        self._listeners: list[Callable[[Receipt], object]] = []
        self._users = 0
        self._thread: threading.Thread | None = None
        self._ends_at: float | None = None
        self._watches_exit = False

    # -- saying -------------------------------------------------------------------------------

    def say(self, text: str, *, urgency: Urgency = Urgency.WHEN_IDLE, key: str = "") -> Admission:
        """Say a sentence of your own.

        Args:
            text: Anything; it is cleaned for speech.
            urgency: When it may be said.
            key: What makes it the same as another one, so that it is said only once.
        """
        clean = speakable(text)
        return self.announce(Announcement(text=clean, headline=clean, urgency=urgency, key=key))

    def announce(self, announcement: Announcement) -> Admission:
        """Take in an announcement, to be said when its urgency allows."""
        with self._changing():
            admission = self._queue.offer(announcement, time.monotonic())
        if admission is Admission.ACCEPTED:
            self._start()
        return admission

    # -- live sessions ------------------------------------------------------------------------

    def user_speaking(self) -> None:
        """Note that the user has begun to speak.

        What is being said is cut off, and repeated later. Until `user_idle`, nothing begins but
        what is urgent and was not cut off by the user before.
        """
        with self._changing():
            self._queue.user_speaking()

    def user_idle(self) -> None:
        """Note that the user has stopped speaking; what waits is said after a short silence."""
        with self._changing():
            self._queue.user_idle(time.monotonic())

    def stop_speaking(self) -> None:
        """Cut off what is being said, for good."""
        with self._changing():
            self._queue.cut(Delivery.SKIPPED)

    def hand_over(self, *, lease: float = 60.0) -> HandOver:
        """Take over what is to be said: nothing is said aloud here while this is open.

        Args:
            lease: Seconds after which an utterance counts as interrupted if nobody says what
                became of it.
        """
        return HandOver(self, lease)

    def on_receipt(self, listener: Callable[[Receipt], object]) -> Callable[[], None]:
        """Tell `listener` what becomes of announcements, in whatever thread that happens.

        Returns:
            A function that ends it.
        """
        with self._lock:
            self._listeners.append(listener)
        return functools.partial(self._forget_listener, listener)

    def _forget_listener(self, listener: Callable[[Receipt], object]) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    @property
    def waiting(self) -> int:
        """How many announcements wait to be said."""
        with self._lock:
            return self._queue.waiting

    # -- life ---------------------------------------------------------------------------------

    def retain(self, loudspeaker: Loudspeaker | None, limits: QueueLimits | None = None) -> None:
        """Note that an engine uses this voice.

        Args:
            loudspeaker: Who speaks aloud from now on, if no other engine uses this voice.
            limits: How the queue behaves from now on, under the same condition.
        """
        with self._changing():
            if not self._users:
                self._loudspeaker = loudspeaker
                self._queue.limits = limits or self._queue.limits
            self._users += 1
            self._ends_at = None

    def release(self, linger: float) -> None:
        """Note that an engine uses it no longer.

        Args:
            linger: Seconds that what waits may still be said, once nobody uses it.
        """
        with self._changing():
            self._users -= 1
            if not self._users:
                self._ends_at = time.monotonic() + linger

    def close(self, linger: float = 0.0) -> None:
        """Let the loudspeaker say what it can, then stop it; blocks until it is silent.

        Args:
            linger: Seconds that what waits may still be said.
        """
        with self._changing():
            ends_at = time.monotonic() + linger
            self._ends_at = ends_at if self._ends_at is None else min(self._ends_at, ends_at)
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(linger + _MARGIN)

    def _start(self) -> None:
        """See to it that the loudspeaker's thread runs."""
        loudspeaker = self._loudspeaker
        if loudspeaker is None:
            return
        with self._lock:
            if not self._users:
                self._ends_at = time.monotonic() + loudspeaker.linger
            if self._thread is not None:
                return
            if not self._watches_exit:
                self._watches_exit = True
                atexit.register(self._at_exit)
            waker = Waker()
            # A daemon, because at exit it is waited for here, where Ctrl-C can cut that short.
            self._thread = threading.Thread(
                target=loudspeaker.run,
                args=(self, waker),
                name="eventbus-tasks voice",
                daemon=True,
            )
            self._consumers.insert(0, waker)
            self._thread.start()

    def _begin_again(self) -> None:
        """Forget everything, in a forked child: there is no thread, and nobody holds the lock."""
        for waker in self._consumers:
            waker.close()
        self._lock = threading.Lock()
        self._queue = AnnouncementQueue(self._queue.limits)
        self._consumers = []
        self._listeners = []
        self._loudspeaker = self._thread = self._ends_at = None
        self._users = 0

    def _at_exit(self) -> None:
        linger = 0.0 if self._loudspeaker is None else self._loudspeaker.linger
        try:
            self.close(linger)
        except KeyboardInterrupt:
            self.stop_speaking()
            self.close()

    # -- for consumers ------------------------------------------------------------------------

    def attach(self, waker: Waker) -> None:
        """Serve this consumer from now on; what another one is saying is cut off."""
        with self._changing():
            self._queue.cut(Delivery.INTERRUPTED)
            self._consumers.append(waker)

    def detach(self, waker: Waker) -> None:
        """Serve the consumer before it again."""
        with self._changing():
            if waker in self._consumers:
                self._consumers.remove(waker)

    def take(self, waker: Waker, lease: float | None = None) -> Utterance | float | None:
        """Return what a consumer shall say now, or how many seconds to wait for a ring at most."""
        with self._changing(ring=False):
            if not self._consumers or self._consumers[-1] is not waker:
                return None
            now = time.monotonic()
            utterance = self._queue.take(now, lease=lease)
            if utterance is not None:
                return utterance
            wake_at = self._queue.wake_at(now)
            return None if wake_at is None else max(0.0, wake_at - now)

    def must_stop(self, utterance: Utterance) -> bool:
        """Whether an utterance has to be broken off at once."""
        with self._lock:
            return self._queue.must_stop(utterance)

    def finish(self, utterance: Utterance, delivery: Delivery, reason: str = "") -> None:
        """Note what became of an utterance; does nothing if that is known already."""
        with self._changing():
            self._queue.finish(utterance, delivery, time.monotonic(), reason)

    def put_back(self, utterance: Utterance) -> None:
        """Undo `take`: nothing of it was said."""
        with self._changing():
            self._queue.put_back(utterance, time.monotonic())

    def time_left(self, waker: Waker) -> float | None:
        """Return how many seconds the loudspeaker has left, or ``None`` while it is needed."""
        with self._lock:
            if self._ends_at is None or waker not in self._consumers:
                return None
            return max(0.0, self._ends_at - time.monotonic())

    def try_leave(self, waker: Waker) -> bool:
        """Let the loudspeaker go, if nobody uses this voice and nothing can be said any more.

        Once it may, it must: for this object it has gone, and another one is started when needed.
        """
        with self._lock:
            if self._ends_at is None:
                return False
            idle = not self._queue.waiting and self._queue.current is None
            if not idle and time.monotonic() < self._ends_at:
                return False
            self._leave(waker)
            return True

    def left(self, waker: Waker) -> None:
        """Note that the loudspeaker has gone, for whatever reason."""
        with self._lock:
            if waker in self._consumers:
                self._leave(waker)

    def _leave(self, waker: Waker) -> None:
        self._consumers.remove(waker)
        self._thread = None

    @contextlib.contextmanager
    def _changing(self, *, ring: bool = True) -> Iterator[None]:
        """Hold the lock; afterwards wake the consumers, and hand out receipts."""
        with self._lock:
            try:
                yield
            finally:
                receipts = tuple(self._queue.receipts)
                self._queue.receipts.clear()
                listeners = tuple(self._listeners)
                if ring:
                    for waker in self._consumers:
                        waker.ring()
        for receipt in receipts:
            for listener in listeners:
                try:
                    listener(receipt)
                except Exception:
                    logger.exception("a listener for receipts failed")


_the_voice: Final = Voice()
os.register_at_fork(after_in_child=_the_voice._begin_again)


def get_voice() -> Voice:
    """Return the voice of this process: one, because people have one pair of ears.

    It speaks aloud while an engine with this plugin runs, and somebody can hear it.
    """
    return _the_voice

"""The announcement queue: a state machine without clock, thread or loop of its own.

Whoever drives it hands in the time with every call and does what it says. At most one utterance
is in progress. What it holds is bounded, however much is offered: above the limit, news about
tasks is counted instead of kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from eventbus_tasks_voice.announcements import (
    Admission,
    Announcement,
    Delivery,
    Kind,
    Receipt,
    Urgency,
    Utterance,
)
from eventbus_tasks_voice.wording import together

__all__ = ["AnnouncementQueue", "QueueLimits"]

_ENDS: Final = frozenset({Kind.COMPLETED, Kind.FAILED, Kind.CANCELLED})
_ENDED: Final = "the task has ended"
_SPOKEN: Final = (Urgency.INTERRUPT, Urgency.WHEN_IDLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How the queue behaves.

    Attributes:
        waiting: Announcements of one urgency that are kept one by one; more are counted.
        keys: Keys that are remembered, so that nothing is announced twice.
        gather: Seconds that the first news waits for others to be told together with it.
        settle: Seconds of silence after the user has spoken before anything is said.
        repeats: How often something that is not urgent is repeated after interruptions.
            What is urgent is repeated until it was heard.
    """

    waiting: int = 64
    keys: int = 16_384
    gather: float = 0.3
    settle: float = 0.5
    repeats: int = 3


@dataclass(slots=True)
class _Waiting:
    announcement: Announcement
    attempts: int = 0


@dataclass(slots=True)
class _Lane:
    """What waits with one urgency."""

    entries: deque[_Waiting] = field(default_factory=deque)
    counted: Counter[Kind] = field(default_factory=Counter)
    counted_attempts: int = 0
    since: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.entries) or bool(self.counted)


@dataclass(slots=True)
class _Current:
    """The utterance in progress."""

    utterance: Utterance
    entries: list[_Waiting]
    counted: Counter[Kind]
    expires: float | None
    cut: Delivery | None = None
    answered: set[str] = field(default_factory=set)  # tasks that ended after they had asked


class AnnouncementQueue:
    """Decides what is said next, and what is cut off, repeated or given up.

    Not safe for threads. Times are seconds of any clock that does not run backwards.

    Attributes:
        receipts: What became of announcements since somebody looked; take them out.
    """

    def __init__(self, limits: QueueLimits | None = None) -> None:
        self.limits: QueueLimits = limits or QueueLimits()
        self.receipts: deque[Receipt] = deque()
        self._lanes = {urgency: _Lane() for urgency in _SPOKEN}
        self._current: _Current | None = None
        self._keys: OrderedDict[bytes, None] = OrderedDict()
        self._questions: Counter[str] = Counter()
        self._numbers = 0
        self._user_speaks = False
        self._silent_since = float("-inf")
        self._urgent_waits = False  # the user has cut off something urgent

    # -- what is known ------------------------------------------------------------------------

    @property
    def current(self) -> Utterance | None:
        """The utterance in progress."""
        return None if self._current is None else self._current.utterance

    @property
    def waiting(self) -> int:
        """How many announcements wait, counted ones included; not those in progress."""
        return sum(len(lane.entries) + lane.counted.total() for lane in self._lanes.values())

    @property
    def kept(self) -> int:
        """How many objects are held: this is what is bounded."""
        current = 0 if self._current is None else len(self._current.entries)
        return current + len(self._keys) + sum(len(lane.entries) for lane in self._lanes.values())

    @property
    def user_speaks(self) -> bool:
        """Whether the user is speaking."""
        return self._user_speaks

    # -- what comes in ------------------------------------------------------------------------

    def offer(self, announcement: Announcement, now: float) -> Admission:
        """Take in an announcement."""
        if announcement.key and self._is_known(announcement.key):
            return Admission.DUPLICATE
        lane = self._lanes.get(announcement.urgency)
        is_full = lane is not None and self._held(announcement.urgency) >= self.limits.waiting
        if is_full and announcement.kind is Kind.SAID:
            return Admission.FULL
        self._remember(announcement.key)
        if announcement.kind in _ENDS:
            self._drop_questions(_uid(announcement))
        if lane is None:
            self._tell(Delivery.SKIPPED, [announcement], reason="silent")
            return Admission.SILENT
        if not lane:
            lane.since = now
        if is_full:
            if not lane.counted:
                lane.counted_attempts = 0
            lane.counted[announcement.kind] += 1
        else:
            self._wait(lane, _Waiting(announcement))
        current = self._current
        if (
            announcement.urgency is Urgency.INTERRUPT
            and current is not None
            and current.utterance.urgency is not Urgency.INTERRUPT
            and self._may_begin(Urgency.INTERRUPT, now)
        ):
            current.cut = current.cut or Delivery.INTERRUPTED
        return Admission.ACCEPTED

    def user_speaking(self) -> None:
        """Note that the user speaks: nothing begins, and what is being said is cut off."""
        if not self._user_speaks:
            self._user_speaks = True
            self.cut(Delivery.INTERRUPTED)

    def user_idle(self, now: float) -> None:
        """Note that the user is silent."""
        if self._user_speaks:
            self._user_speaks = False
            self._silent_since = now
            self._urgent_waits = False

    def cut(self, delivery: Delivery = Delivery.SKIPPED) -> None:
        """Cut off what is being said: for good, or to repeat it later (``interrupted``)."""
        if self._current is not None and self._current.cut is not Delivery.SKIPPED:
            self._current.cut = delivery

    # -- what goes out ------------------------------------------------------------------------

    def take(self, now: float, *, lease: float | None = None) -> Utterance | None:
        """Begin the next utterance, if something may be said now.

        Args:
            now: The time.
            lease: Seconds after which it counts as interrupted if nobody calls `finish`.
        """
        self._expire(now)
        urgency = self._next_urgency(now)
        if urgency is None:
            return None
        lane = self._lanes[urgency]
        entries, counted = self._batch(lane)
        announcements = tuple(entry.announcement for entry in entries)
        for entry in entries:
            self._count_question(entry.announcement, -1)
        self._numbers += 1
        attempts = [entry.attempts for entry in entries]
        if counted:
            attempts.append(lane.counted_attempts)
        utterance = Utterance(
            number=self._numbers,
            text=together(announcements, counted),
            urgency=urgency,
            announcements=announcements,
            count=len(entries) + counted.total(),
            attempt=max(attempts) + 1,
        )
        expires = None if lease is None else now + lease
        self._current = _Current(utterance, entries, counted, expires)
        return utterance

    def must_stop(self, utterance: Utterance) -> bool:
        """Whether an utterance has to be broken off at once."""
        current = self._current
        return current is None or current.utterance is not utterance or current.cut is not None

    def finish(
        self, utterance: Utterance, delivery: Delivery, now: float, reason: str = ""
    ) -> bool:
        """Note what became of an utterance; return whether it was still in progress.

        What was interrupted waits again, before everything that came later, unless it was cut
        off for good or has been repeated often enough.
        """
        current = self._current
        if current is None or current.utterance is not utterance:
            return False
        self._current = None
        if delivery is Delivery.INTERRUPTED and current.cut is Delivery.SKIPPED:
            delivery = Delivery.SKIPPED
        self.receipts.append(
            Receipt(
                delivery=delivery,
                announcements=utterance.announcements,
                count=utterance.count,
                text=utterance.text,
                reason=reason,
            )
        )
        if delivery is Delivery.INTERRUPTED:
            if utterance.urgency is Urgency.INTERRUPT and self._user_speaks:
                self._urgent_waits = True
            self._repeat(current, now)
        return True

    def put_back(self, utterance: Utterance, now: float) -> bool:
        """Undo `take`: nothing of it was said, and it waits again as if nothing had been.

        Returns whether it was still in progress.
        """
        current = self._current
        if current is None or current.utterance is not utterance:
            return False
        self._current = None
        if current.cut is Delivery.SKIPPED:
            self._tell(Delivery.SKIPPED, utterance.announcements, utterance.count, "cut off")
        else:
            self._return(current, now)
        return True

    def wake_at(self, now: float) -> float | None:
        """Return when `take` or `must_stop` may answer differently only because time passes."""
        times = []
        if self._current is not None:
            if self._current.expires is not None:
                times.append(self._current.expires)
        elif not self._user_speaks:
            lane = self._lanes[Urgency.WHEN_IDLE]
            if lane:
                times.append(max(lane.since + self.limits.gather, self._quiet_from()))
            if self._lanes[Urgency.INTERRUPT]:
                times.append(now)
        return min(times) if times else None

    # -- inside -------------------------------------------------------------------------------

    def _quiet_from(self) -> float:
        return self._silent_since + self.limits.settle

    def _may_begin(self, urgency: Urgency, now: float) -> bool:
        if urgency is Urgency.INTERRUPT:
            return not (self._user_speaks and self._urgent_waits)
        lane = self._lanes[urgency]
        return not self._user_speaks and now >= max(
            lane.since + self.limits.gather, self._quiet_from()
        )

    def _next_urgency(self, now: float) -> Urgency | None:
        if self._current is None:
            for urgency in _SPOKEN:
                if self._lanes[urgency] and self._may_begin(urgency, now):
                    return urgency
        return None

    def _batch(self, lane: _Lane) -> tuple[list[_Waiting], Counter[Kind]]:
        """Take out of a lane what is said next: free text alone, news about tasks together."""
        if lane.entries and lane.entries[0].announcement.kind is Kind.SAID:
            return [lane.entries.popleft()], Counter()
        entries = [entry for entry in lane.entries if entry.announcement.kind is not Kind.SAID]
        lane.entries = deque(
            entry for entry in lane.entries if entry.announcement.kind is Kind.SAID
        )
        counted, lane.counted = lane.counted, Counter()
        return entries, counted

    def _wait(self, lane: _Lane, entry: _Waiting) -> None:
        lane.entries.append(entry)
        self._count_question(entry.announcement, 1)

    def _repeat(self, current: _Current, now: float) -> None:
        most = self.limits.repeats
        if current.utterance.urgency is not Urgency.INTERRUPT:
            heard_enough = [entry for entry in current.entries if entry.attempts >= most]
            current.entries = [entry for entry in current.entries if entry.attempts < most]
            count = len(heard_enough)
            if current.counted and current.utterance.attempt > most:
                count += current.counted.total()
                current.counted = Counter()
            if count:
                dropped = [entry.announcement for entry in heard_enough]
                self._tell(Delivery.SKIPPED, dropped, count, "interrupted too often")
        for entry in current.entries:
            entry.attempts += 1
        self._return(current, now, counted_attempts=current.utterance.attempt)

    def _return(self, current: _Current, now: float, counted_attempts: int = 0) -> None:
        lane = self._lanes[current.utterance.urgency]
        obsolete = [
            entry for entry in current.entries if any(_asks(entry, uid) for uid in current.answered)
        ]
        if obsolete:
            current.entries = [entry for entry in current.entries if entry not in obsolete]
            dropped = [entry.announcement for entry in obsolete]
            self._tell(Delivery.SKIPPED, dropped, reason=_ENDED)
        if not lane:
            lane.since = now - self.limits.gather  # it has waited already
        lane.entries.extendleft(reversed(current.entries))
        for entry in current.entries:
            self._count_question(entry.announcement, 1)
        if current.counted:
            lane.counted.update(current.counted)
            lane.counted_attempts = max(lane.counted_attempts, counted_attempts)

    def _expire(self, now: float) -> None:
        current = self._current
        if current is not None and current.expires is not None and now >= current.expires:
            self.finish(current.utterance, Delivery.INTERRUPTED, now, "no acknowledgement")

    def _held(self, urgency: Urgency) -> int:
        held = len(self._lanes[urgency].entries)
        current = self._current
        if current is not None and current.utterance.urgency is urgency:
            held += len(current.entries)  # it may come back
        return held

    def _drop_questions(self, uid: str) -> None:
        """Forget what a task has asked: it has ended, nobody needs to answer any more."""
        current = self._current
        if current is not None and any(_asks(entry, uid) for entry in current.entries):
            current.answered.add(uid)
        if not self._questions.get(uid):
            return
        for lane in self._lanes.values():
            dropped = [entry.announcement for entry in lane.entries if _asks(entry, uid)]
            if dropped:
                lane.entries = deque(entry for entry in lane.entries if not _asks(entry, uid))
                self._tell(Delivery.SKIPPED, dropped, reason=_ENDED)
        del self._questions[uid]

    def _count_question(self, announcement: Announcement, change: int) -> None:
        uid = _uid(announcement)
        if announcement.kind is Kind.INPUT and uid:
            self._questions[uid] += change
            if self._questions[uid] <= 0:
                del self._questions[uid]

    def _is_known(self, key: str) -> bool:
        digest = _digest(key)
        if digest in self._keys:
            self._keys.move_to_end(digest)
            return True
        return False

    def _remember(self, key: str) -> None:
        if key:
            self._keys[_digest(key)] = None
            if len(self._keys) > self.limits.keys:
                self._keys.popitem(last=False)

    def _tell(
        self,
        delivery: Delivery,
        announcements: list[Announcement] | tuple[Announcement, ...],
        count: int | None = None,
        reason: str = "",
    ) -> None:
        self.receipts.append(
            Receipt(
                delivery=delivery,
                announcements=tuple(announcements),
                count=len(announcements) if count is None else count,
                reason=reason,
            )
        )


def _uid(announcement: Announcement) -> str:
    return "" if announcement.task is None else announcement.task.uid


def _asks(entry: _Waiting, uid: str) -> bool:
    return bool(uid) and entry.announcement.kind is Kind.INPUT and _uid(entry.announcement) == uid


def _digest(key: str) -> bytes:
    # Keys come from outside and may be long; sixteen bytes never collide by chance.
    return hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=16).digest()

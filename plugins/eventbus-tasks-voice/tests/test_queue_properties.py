"""The announcement queue under any order of calls: a state machine against a simple model."""

from __future__ import annotations

from collections import Counter

from eventbus_tasks_voice.announcements import (
    Admission,
    Announcement,
    Delivery,
    Kind,
    Receipt,
    Urgency,
    Utterance,
)
from eventbus_tasks_voice.queue import AnnouncementQueue, QueueLimits
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from voice_kit import news

KINDS = st.sampled_from(list(Kind))
SPOKEN = st.sampled_from([Urgency.INTERRUPT, Urgency.WHEN_IDLE])


class Listening(RuleBasedStateMachine):
    """Offers, cuts off, speaks, waits; counts what was accepted and what became of it."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = QueueLimits(waiting=4, keys=50, gather=0.3, settle=0.5, repeats=2)
        self.queue = AnnouncementQueue(self.limits)
        self.now = 0.0
        self.keys: set[str] = set()
        self.accepted: Counter[Urgency] = Counter()
        self.ended: Counter[Urgency] = Counter()
        self.delivered_keys: Counter[str] = Counter()
        self.current: Utterance | None = None
        self.user_speaks = False
        self.was_cut = False  # somebody did not want to hear the current one
        self.silent_since = -1e9

    def account(self) -> list[Receipt]:
        """Take out the receipts, and count them."""
        receipts = list(self.queue.receipts)
        self.queue.receipts.clear()
        for receipt in receipts:
            if receipt.delivery is Delivery.INTERRUPTED:
                continue
            urgencies = {item.urgency for item in receipt.announcements}
            if receipt.reason != "silent" and urgencies != {Urgency.SILENT}:
                assert len(urgencies) <= 1
                (urgency,) = urgencies or {self.last_urgency}
                self.ended[urgency] += receipt.count
                if urgency is Urgency.INTERRUPT and receipt.delivery is Delivery.SKIPPED:
                    assert self.was_cut or receipt.reason in ("the task has ended", "skipped")
            if receipt.delivery is Delivery.DELIVERED:
                self.delivered_keys.update(item.key for item in receipt.announcements if item.key)
        return receipts

    @rule(
        number=st.integers(0, 30), kind=KINDS, urgency=SPOKEN, uid=st.sampled_from(["", "a", "b"])
    )
    def offer(self, number: int, kind: Kind, urgency: Urgency, uid: str) -> None:
        """Offer an announcement, new or not."""
        key = f"{number}"
        admission = self.queue.offer(news(f"T{number}", kind, urgency, uid=uid, key=key), self.now)
        assert (admission is Admission.DUPLICATE) == (key in self.keys)
        if admission is Admission.ACCEPTED:
            self.keys.add(key)
            self.accepted[urgency] += 1
        else:
            assert admission is not Admission.FULL or kind is Kind.SAID

    @rule(kind=KINDS)
    def offer_silent(self, kind: Kind) -> None:
        """Offer something that is not to be said."""
        silent = Announcement(text="never", kind=kind, urgency=Urgency.SILENT)
        assert self.queue.offer(silent, self.now) is Admission.SILENT

    @rule(lease=st.none() | st.just(5.0))
    def take(self, lease: float | None) -> None:
        """Begin something, if it may begin."""
        before = self.queue.current
        if before is not None:
            self.last_urgency = before.urgency
        utterance = self.queue.take(self.now, lease=lease)
        self.account()
        if utterance is None:
            return
        assert self.current is None or self.queue.current is not self.current, "two at a time"
        self.current = utterance
        self.was_cut = False
        self.last_urgency = utterance.urgency
        assert utterance.text
        assert "never" not in utterance.text
        assert utterance.count >= len(utterance.announcements)
        if utterance.urgency is Urgency.WHEN_IDLE:
            assert not self.user_speaks
            assert self.now >= self.silent_since + self.limits.settle
            assert utterance.attempt <= self.limits.repeats + 1

    @precondition(lambda self: self.current is not None)
    @rule(delivery=st.sampled_from(list(Delivery)))
    def finish(self, delivery: Delivery) -> None:
        """Say what became of it; the second time it does not matter."""
        assert self.current is not None
        self.last_urgency = self.current.urgency
        was = self.queue.finish(self.current, delivery, self.now, "skipped")
        assert not was or self.queue.current is None
        self.account()
        if delivery is Delivery.DELIVERED:
            self.current = None

    @precondition(lambda self: self.current is not None)
    @rule()
    def put_back(self) -> None:
        """Find that it cannot begin."""
        assert self.current is not None
        self.last_urgency = self.current.urgency
        self.queue.put_back(self.current, self.now)
        self.account()

    @rule()
    def speak(self) -> None:
        """Let the user speak."""
        self.queue.user_speaking()
        if self.queue.current is not None and not self.user_speaks:
            assert self.queue.must_stop(self.queue.current)
        self.user_speaks = True

    @rule()
    def fall_silent(self) -> None:
        """Let the user be silent."""
        self.queue.user_idle(self.now)
        if self.user_speaks:
            self.silent_since = self.now
        self.user_speaks = False

    @rule()
    def cut_off(self) -> None:
        """Let somebody say that this is enough."""
        self.was_cut = self.was_cut or self.queue.current is not None
        self.queue.cut()

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @invariant()
    def nothing_is_lost(self) -> None:
        """Everything accepted is waiting, being said, or accounted for; urgent or not."""
        self.last_urgency = Urgency.WHEN_IDLE
        self.account()
        current = self.queue.current
        held = self.queue.waiting + (0 if current is None else current.count)
        assert self.accepted.total() == self.ended.total() + held

    @invariant()
    def memory_is_bounded(self) -> None:
        """What is kept does not depend on what was offered."""
        assert self.queue.kept <= 2 * self.limits.waiting + len(self.keys)

    @invariant()
    def nothing_is_said_twice(self) -> None:
        """Nothing is heard to its end twice."""
        assert all(times == 1 for times in self.delivered_keys.values())

    def teardown(self) -> None:
        """In the end, when nobody interrupts, everything that is left is said."""
        self.queue.user_idle(self.now)
        self.now += 100
        current = self.queue.current
        if current is not None:
            self.last_urgency = current.urgency
            self.queue.finish(current, Delivery.DELIVERED, self.now)
            self.account()
        while (utterance := self.queue.take(self.now)) is not None:
            self.last_urgency = utterance.urgency
            assert self.queue.finish(utterance, Delivery.DELIVERED, self.now)
            self.account()
            self.now += 1
        assert self.queue.waiting == 0
        assert self.accepted.total() == self.ended.total()


TestListening = Listening.TestCase
TestListening.__doc__ = (
    "Nothing is lost, said twice, or said at the same time, in any order of calls."
)

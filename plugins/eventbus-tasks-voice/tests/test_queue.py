"""The announcement queue, step by step, with a clock of the test."""

from __future__ import annotations

import tracemalloc

from eventbus_tasks_voice.announcements import (
    Admission,
    Announcement,
    Delivery,
    Kind,
    Urgency,
    Utterance,
)
from eventbus_tasks_voice.queue import AnnouncementQueue, QueueLimits
from voice_kit import news

LIMITS = QueueLimits(gather=0, settle=0)
URGENT = Urgency.INTERRUPT


def taken(queue: AnnouncementQueue, now: float = 0) -> Utterance:
    """Take what is to be said."""
    utterance = queue.take(now)
    assert utterance is not None
    return utterance


def test_one_at_a_time() -> None:
    """Nothing begins before what is being said has ended."""
    queue = AnnouncementQueue(LIMITS)
    queue.offer(news("A"), 0)
    first = taken(queue)
    queue.offer(news("B"), 0)
    assert queue.take(0) is None
    assert queue.finish(first, Delivery.DELIVERED, 0)
    assert taken(queue).text == "B completed"


def test_what_comes_meanwhile_is_told_together() -> None:
    """News that came while something was said is one sentence afterwards."""
    queue = AnnouncementQueue(LIMITS)
    queue.offer(news("A"), 0)
    first = taken(queue)
    for name in "BCD":
        queue.offer(news(name), 0)
    queue.finish(first, Delivery.DELIVERED, 0)
    assert taken(queue).text == "three tasks finished: B, C and D"


def test_first_news_waits_for_more() -> None:
    """News waits a moment, so that a burst is one sentence from its beginning."""
    queue = AnnouncementQueue(QueueLimits(gather=1))
    queue.offer(news("A"), 10)
    assert queue.take(10) is None
    assert queue.wake_at(10) == 11
    queue.offer(news("B"), 10.5)
    assert taken(queue, 11).count == 2


def test_same_key_is_announced_once() -> None:
    """What has been announced is not announced again, whenever it comes."""
    queue = AnnouncementQueue(LIMITS)
    assert queue.offer(news("A", key="k"), 0) is Admission.ACCEPTED
    assert queue.offer(news("A", key="k"), 0) is Admission.DUPLICATE
    queue.finish(taken(queue), Delivery.DELIVERED, 0)
    assert queue.offer(news("A", key="k"), 0) is Admission.DUPLICATE
    assert queue.take(0) is None


def test_urgent_cuts_off_and_goes_first() -> None:
    """What is urgent cuts off what is not, which is repeated afterwards."""
    queue = AnnouncementQueue(LIMITS)
    queue.offer(news("A"), 0)
    first = taken(queue)
    queue.offer(news("Q", Kind.INPUT, URGENT), 0)
    assert queue.must_stop(first)
    queue.finish(first, Delivery.INTERRUPTED, 0)
    urgent = taken(queue)
    assert urgent.text == "Q input_required"
    queue.finish(urgent, Delivery.DELIVERED, 0)
    again = taken(queue)
    assert (again.text, again.attempt) == ("A completed", 2)


def test_urgent_does_not_cut_off_urgent() -> None:
    """Two urgent ones are said one after the other."""
    queue = AnnouncementQueue(LIMITS)
    queue.offer(news("A", Kind.FAILED, URGENT), 0)
    first = taken(queue)
    queue.offer(news("B", Kind.FAILED, URGENT), 0)
    assert not queue.must_stop(first)


def test_user_is_not_interrupted() -> None:
    """While the user speaks nothing begins; what was being said is repeated afterwards."""
    queue = AnnouncementQueue(QueueLimits(gather=0, settle=0.5))
    queue.offer(news("A"), 0)
    first = taken(queue)
    queue.user_speaking()
    assert queue.must_stop(first)
    queue.finish(first, Delivery.INTERRUPTED, 1)
    assert queue.take(100) is None
    assert queue.wake_at(100) is None
    queue.user_idle(100)
    assert queue.take(100.4) is None
    assert queue.wake_at(100.4) == 100.5
    assert taken(queue, 100.5).announcements == first.announcements


def test_urgent_is_said_while_the_user_speaks_until_cut_off() -> None:
    """Urgent news begins over the user's voice; cut off by the user, it waits for silence."""
    queue = AnnouncementQueue(LIMITS)
    queue.user_speaking()
    queue.offer(news("Q", Kind.INPUT, URGENT), 0)
    first = taken(queue)
    queue.user_idle(1)
    queue.user_speaking()
    assert queue.must_stop(first)
    queue.finish(first, Delivery.INTERRUPTED, 1)
    assert queue.take(2) is None
    queue.user_idle(3)
    assert taken(queue, 3).attempt == 2


def test_repetition_ends() -> None:
    """What is not urgent is given up after so many interruptions; what is urgent never is."""
    queue = AnnouncementQueue(QueueLimits(gather=0, settle=0, repeats=2))
    queue.offer(news("A"), 0)
    queue.offer(news("Q", Kind.INPUT, URGENT), 0)
    for _ in range(10):
        utterance = taken(queue)
        assert utterance.urgency is URGENT
        queue.finish(utterance, Delivery.INTERRUPTED, 0)
    queue.finish(taken(queue), Delivery.DELIVERED, 0)
    for _ in range(3):
        queue.finish(taken(queue), Delivery.INTERRUPTED, 0)
    assert queue.take(0) is None
    assert queue.receipts[-1].delivery is Delivery.SKIPPED
    assert queue.receipts[-1].count == 1


def test_cut_for_good_is_not_repeated() -> None:
    """What somebody does not want to hear is not said again."""
    queue = AnnouncementQueue(LIMITS)
    queue.offer(news("A"), 0)
    first = taken(queue)
    queue.cut()
    queue.finish(first, Delivery.INTERRUPTED, 0)
    assert queue.take(0) is None
    assert queue.receipts[-1].delivery is Delivery.SKIPPED


def test_silent_is_not_said() -> None:
    """What is silent is accounted for, remembered, and not said."""
    queue = AnnouncementQueue(LIMITS)
    assert queue.offer(news("A", urgency=Urgency.SILENT, key="k"), 0) is Admission.SILENT
    assert queue.offer(news("A", key="k"), 0) is Admission.DUPLICATE
    assert queue.take(0) is None
    assert queue.receipts[0].delivery is Delivery.SKIPPED


def test_question_of_an_ended_task_is_dropped() -> None:
    """Nobody is asked what does not matter any more, also not after an interruption."""
    queue = AnnouncementQueue(LIMITS)
    queue.offer(news("A", Kind.INPUT, URGENT, uid="a"), 0)
    queue.offer(news("A", Kind.CANCELLED, uid="a"), 0)
    assert taken(queue).text == "A cancelled"
    queue = AnnouncementQueue(LIMITS)
    queue.offer(news("A", Kind.INPUT, URGENT, uid="a"), 0)
    asked = taken(queue)
    queue.offer(news("A", Kind.CANCELLED, uid="a"), 0)
    queue.finish(asked, Delivery.INTERRUPTED, 0)
    assert taken(queue).text == "A cancelled"


def test_free_text_is_said_alone_and_in_order() -> None:
    """A sentence of the program's own is never mixed with others."""
    queue = AnnouncementQueue(LIMITS)
    queue.offer(Announcement(text="one"), 0)
    queue.offer(news("A"), 0)
    queue.offer(Announcement(text="two"), 0)
    heard = []
    while (utterance := queue.take(0)) is not None:
        heard.append(utterance.text)
        queue.finish(utterance, Delivery.DELIVERED, 0)
    assert heard == ["one", "A completed", "two"]


def test_too_much_free_text_is_refused() -> None:
    """Text that cannot be counted is refused when there is too much, and may be offered again."""
    queue = AnnouncementQueue(QueueLimits(waiting=2, gather=0))
    assert queue.offer(Announcement(text="1"), 0) is Admission.ACCEPTED
    assert queue.offer(Announcement(text="2"), 0) is Admission.ACCEPTED
    assert queue.offer(Announcement(text="3", key="3"), 0) is Admission.FULL
    queue.finish(taken(queue), Delivery.DELIVERED, 0)
    assert queue.offer(Announcement(text="3", key="3"), 0) is Admission.ACCEPTED


def test_missing_acknowledgement_is_an_interruption() -> None:
    """Who took something and never says what became of it holds up nobody for ever."""
    queue = AnnouncementQueue(LIMITS)
    queue.offer(news("A"), 0)
    first = queue.take(0, lease=5)
    assert first is not None
    assert queue.take(4.9) is None
    assert queue.wake_at(4.9) == 5
    assert taken(queue, 5).attempt == 2
    assert not queue.finish(first, Delivery.DELIVERED, 6)


def test_put_back_leaves_no_trace() -> None:
    """What could not begin is told together with what has come since, at its first attempt."""
    queue = AnnouncementQueue(LIMITS)
    queue.offer(news("A"), 0)
    assert queue.put_back(taken(queue), 0)
    queue.offer(news("B"), 0)
    utterance = taken(queue)
    assert (utterance.text, utterance.attempt) == ("two tasks finished: A and B", 1)
    assert not queue.receipts


def test_memory_is_bounded_with_ten_thousand_tasks() -> None:
    """Ten thousand ends are one sentence, and cost no more than a few hundred."""
    queue = AnnouncementQueue(QueueLimits(gather=1, keys=500))
    for number in range(1000):
        queue.offer(news("A", key=f"{number}"), 0)
    tracemalloc.start()
    for number in range(1000, 10_000):
        queue.offer(news("A", key=f"{number}"), 0)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100_000
    assert queue.kept <= 500 + queue.limits.waiting
    assert taken(queue, 1).text == "ten thousand tasks finished"
    assert queue.take(1) is None

"""The voice with its loudspeaker: queue, thread and real synthesizers together."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest
from eventbus_tasks_voice.announcements import Admission, Delivery, Kind, Urgency
from eventbus_tasks_voice.loudspeaker import drive
from eventbus_tasks_voice.queue import QueueLimits
from eventbus_tasks_voice.speaker import Spoken, open_speaker
from eventbus_tasks_voice.voice import Voice
from eventbus_tasks_voice.waking import Waker
from voice_kit import Mouth, Receipts, news, speaking, until

from eventbus_tasks import Settings
from eventbus_tasks.testing import Identity, living

pytestmark = pytest.mark.anyio

URGENT = Urgency.INTERRUPT


async def test_news_is_said(mouth: Mouth) -> None:
    """What is announced is said, and what comes meanwhile is told together."""
    with speaking(mouth.settings("hold")) as (voice, receipts):
        voice.announce(news("A"))
        await mouth.begun(1)
        for name in "BCD":
            voice.announce(news(name))
        await mouth.open_gate()
        await mouth.begun(2)
        await mouth.open_gate()
        await receipts.total(4)
    assert mouth.said == ["A completed", "three tasks finished: B, C and D"]
    assert {receipt.delivery for receipt in receipts} == {Delivery.DELIVERED}


async def test_own_text_is_cleaned_and_said_once(mouth: Mouth) -> None:
    """A program's own sentence is cleaned like all others, and with a key it is said once."""
    with speaking(mouth.settings()) as (voice, receipts):
        assert voice.say("**hello** from `/srv/x.py`", key="k") is Admission.ACCEPTED
        assert voice.say("hello", key="k") is Admission.DUPLICATE
        await receipts.total(1)
    assert mouth.said == ["hello from x.py"]


async def test_user_who_speaks_is_not_interrupted(mouth: Mouth) -> None:
    """What the user talks over is cut off at once, and repeated when the user is silent."""
    with speaking(mouth.settings("hold")) as (voice, receipts):
        voice.announce(news("A"))
        begin = await mouth.begun(1)
        who = Identity.of(begin["pid"])
        voice.user_speaking()
        await until(lambda: not living([who]))
        voice.user_idle()
        await mouth.begun(2)
        await mouth.open_gate()
        await receipts.total(1)
    assert mouth.said == ["A completed"]
    assert [receipt.delivery for receipt in receipts] == ["interrupted", "delivered"]


async def test_urgent_news_cuts_off_other_news(mouth: Mouth) -> None:
    """Urgent news is said at once; what it cut off is said again afterwards."""
    with speaking(mouth.settings("hold")) as (voice, receipts):
        voice.announce(news("A"))
        await mouth.begun(1)
        voice.announce(news("Q", Kind.INPUT, URGENT))
        for number in (2, 3):
            await mouth.begun(number)
            await mouth.open_gate()
        await receipts.total(2)
    assert mouth.did("begin") == ["A completed", "Q input_required", "A completed"]
    assert mouth.said == ["Q input_required", "A completed"]


async def test_stopped_speaking_is_not_repeated(mouth: Mouth) -> None:
    """Somebody who has heard enough does not hear it again."""
    with speaking(mouth.settings("hold")) as (voice, receipts):
        voice.announce(news("A"))
        await mouth.begun(1)
        voice.stop_speaking()
        await receipts.total(1)
    assert [receipt.delivery for receipt in receipts] == ["skipped"]
    assert mouth.said == []


async def test_hanging_synthesizer_delays_nobody_beyond_its_deadline(mouth: Mouth) -> None:
    """What hangs is given up at its deadline, and everything after it is still tried."""
    with speaking(mouth.settings("hang", deadline=0.3)) as (voice, receipts):
        voice.say("one")
        voice.say("two", urgency=URGENT)
        await receipts.total(2)
    ends = [receipt for receipt in receipts if receipt.delivery == "skipped"]
    assert len(ends) == 2
    assert all("did not end within 0.3 seconds" in receipt.reason for receipt in ends)


async def test_failure_is_logged_once(mouth: Mouth, caplog: pytest.LogCaptureFixture) -> None:
    """A synthesizer that cannot speak is one line in the log, however often it is asked."""
    with caplog.at_level(logging.INFO), speaking(mouth.settings("fail")) as (voice, receipts):
        for text in ("one", "two", "three"):
            voice.say(text)
        await receipts.total(3)
    lines = [record for record in caplog.records if record.name == "eventbus_tasks.voice"]
    assert len(lines) == 1
    assert "exit status 3" in lines[0].getMessage()


async def test_voices_of_one_process_never_speak_at_once(mouth: Mouth) -> None:
    """Even two voices in one process do not speak at the same time."""
    with (
        speaking(mouth.settings(gather=0.0)) as (one, heard_of_one),
        speaking(mouth.settings(gather=0.0)) as (two, heard_of_two),
    ):
        for number in range(5):
            one.say(f"one {number}")
            two.say(f"two {number}")
        await heard_of_one.total(5)
        await heard_of_two.total(5)
    assert len(mouth.said) == 10
    assert not mouth.did("overlap")


async def test_what_waits_is_said_before_the_end(mouth: Mouth) -> None:
    """Closing says what it can in the time that it is given; nothing is left running."""
    with speaking(mouth.settings()) as (voice, receipts):
        for number in range(3):
            voice.say(f"{number}")
        await anyio.to_thread.run_sync(voice.close, 30.0)
        assert receipts.ended == 3
        voice.say("and again")  # another thread is started for it
        await receipts.total(4)
    assert mouth.said == ["0", "1", "2", "and again"]


async def test_closing_cuts_off(mouth: Mouth) -> None:
    """Closing without time cuts off what is being said and accounts for it."""
    with speaking(mouth.settings("hang")) as (voice, receipts):
        voice.say("endless")
        begin = await mouth.begun(1)
        family = [Identity.of(begin["pid"]), Identity.of(begin["child"])]
        await anyio.to_thread.run_sync(voice.close)
        assert not living(family)
        assert receipts.ended == 1


async def test_listener_that_raises_harms_nobody(mouth: Mouth) -> None:
    """A listener for receipts may fail; the others are told, and speech goes on."""

    def broken(receipt: object) -> None:
        raise RuntimeError("no")

    with speaking(mouth.settings()) as (voice, receipts):
        forget = voice.on_receipt(broken)
        voice.say("one")
        await receipts.total(1)
        forget()
        forget()
        voice.say("two")
        await receipts.total(2)


async def test_voice_without_loudspeaker_keeps_what_counts() -> None:
    """Where nobody can speak, news waits in bounded memory, without thread or process."""
    voice = Voice(QueueLimits(gather=0))
    for number in range(10_000):
        voice.announce(news("A", key=f"{number}"))
    assert voice.waiting == 10_000


async def test_driver_runs_on_every_loop(mouth: Mouth) -> None:
    """The loudspeaker's driver needs no thread of its own, and no particular event loop."""
    voice, waker, receipts = Voice(QueueLimits(gather=0)), Waker(), Receipts()
    voice.on_receipt(receipts.append)
    voice.attach(waker)
    try:
        async with (
            open_speaker(mouth.synthesizer("hold"), settings=Settings.load()) as speaker,
            anyio.create_task_group() as group,
        ):
            group.start_soon(_drive, voice, waker, speaker.speak)
            voice.announce(news("A"))
            await mouth.begun(1)
            voice.announce(news("Q", Kind.INPUT, URGENT))
            for number in (2, 3):
                await mouth.begun(number)
                await mouth.open_gate()
            await receipts.total(2)
            group.cancel_scope.cancel()
    finally:
        waker.close()
    assert mouth.said == ["Q input_required", "A completed"]


async def _drive(voice: Voice, waker: Waker, speak: Callable[[str], Awaitable[Spoken]]) -> None:
    await drive(voice, waker, speak)

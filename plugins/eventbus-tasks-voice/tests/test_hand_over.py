"""A live session that says things in its own voice."""

from __future__ import annotations

import anyio
import pytest
from eventbus_tasks_voice.announcements import Kind, Urgency
from eventbus_tasks_voice.hand_over import Cue
from eventbus_tasks_voice.queue import QueueLimits
from eventbus_tasks_voice.voice import Voice
from voice_kit import Mouth, Receipts, news, speaking

pytestmark = pytest.mark.anyio

LIMITS = QueueLimits(gather=0, settle=0)


@pytest.fixture
def receipts() -> Receipts:
    """Make an empty list of receipts."""
    return Receipts()


@pytest.fixture
def voice(receipts: Receipts) -> Voice:
    """Make a voice without loudspeaker."""
    voice = Voice(LIMITS)
    voice.on_receipt(receipts.append)
    return voice


async def test_session_gets_the_text(voice: Voice, receipts: Receipts) -> None:
    """A session gets each text when it may be said; asking for the next one acknowledges it."""
    heard = []
    async with voice.hand_over() as cues:
        voice.say("one")
        voice.say("two")
        async for cue in cues:
            heard.append(cue.text)
            if cue.text == "two":
                cue.delivered()
                break
    assert heard == ["one", "two"]
    assert [receipt.delivery for receipt in receipts] == ["delivered", "delivered"]


async def test_session_is_woken(voice: Voice) -> None:
    """A session that waits is woken by news, from whatever thread."""
    async with voice.hand_over() as cues, anyio.create_task_group() as group:
        found: list[str] = []

        async def listen() -> None:
            found.append((await anext(cues)).text)

        group.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(voice.say, "hello")
    assert found == ["hello"]


async def test_session_waits_for_the_user(voice: Voice) -> None:
    """While the user speaks a session gets nothing; afterwards it gets everything at once."""
    async with voice.hand_over() as cues:
        voice.user_speaking()
        voice.announce(news("A"))
        voice.announce(news("B"))
        with anyio.move_on_after(0.05):
            await anext(cues)
            pytest.fail("the user was interrupted")
        voice.user_idle()
        assert (await anext(cues)).text == "two tasks finished: A and B"


async def test_interrupted_cue_comes_again(voice: Voice, receipts: Receipts) -> None:
    """A cue that the user talked over comes again; the session is told to stop at once."""
    async with voice.hand_over() as cues:
        voice.announce(news("A"))
        cue = await anext(cues)
        assert not cue.must_stop
        async with anyio.create_task_group() as group:
            group.start_soon(cue.wait_must_stop)
            await anyio.wait_all_tasks_blocked()
            voice.user_speaking()
        cue.interrupted()
        voice.user_idle()
        again = await anext(cues)
        assert again.announcements == cue.announcements
        assert again.utterance.attempt == 2
        again.skipped()
    assert [receipt.delivery for receipt in receipts] == ["interrupted", "skipped"]


async def test_urgent_cue_stops_another(voice: Voice) -> None:
    """Urgent news stops a cue that is not urgent."""
    async with voice.hand_over() as cues:
        voice.announce(news("A"))
        cue = await anext(cues)
        voice.announce(news("Q", Kind.INPUT, Urgency.INTERRUPT))
        assert cue.must_stop
        cue.interrupted()
        assert (await anext(cues)).urgency is Urgency.INTERRUPT


async def test_cue_of_a_broken_session_is_not_lost(voice: Voice) -> None:
    """What a session had not said when it broke is said by the next one."""

    async def break_down() -> Cue:
        async with voice.hand_over() as cues:
            cue = await anext(cues)
            raise ConnectionError(cue.text)

    voice.announce(news("A", urgency=Urgency.INTERRUPT))
    with pytest.raises(ConnectionError, match="A completed"):
        await break_down()
    async with voice.hand_over() as cues:
        assert (await anext(cues)).text == "A completed"


async def test_forgotten_cue_is_repeated(voice: Voice) -> None:
    """A session that never says what became of a cue holds up nobody for ever."""
    async with voice.hand_over(lease=0.05) as cues:
        voice.announce(news("A"))
        cue = await anext(cues)
        cue._voice = Voice()  # its acknowledgement gets lost
        assert (await anext(cues)).utterance.attempt == 2


async def test_loudspeaker_is_silent_during_a_session(mouth: Mouth) -> None:
    """A session takes over what the loudspeaker is saying, and gives back when it ends."""
    with speaking(mouth.settings("hold")) as (voice, receipts):
        voice.announce(news("A"))
        await mouth.begun(1)
        async with voice.hand_over() as cues:
            cue = await anext(cues)
            assert cue.text == "A completed"
            cue.delivered()
        voice.announce(news("B"))
        await mouth.begun(2)
        await mouth.open_gate()
        await receipts.total(2)
    assert mouth.did("begin") == ["A completed", "B completed"]
    assert mouth.said == ["B completed"]

"""The speaker, with real processes as synthesizers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest
from eventbus_tasks_voice.speaker import Speaker, Spoken, TurnTakenError, open_speaker
from eventbus_tasks_voice.turns import Turns
from voice_kit import Mouth

from eventbus_tasks import Settings
from eventbus_tasks.testing import Identity, living

pytestmark = pytest.mark.anyio


async def test_text_goes_to_standard_input_only(mouth: Mouth) -> None:
    """The text is read from standard input and is in no argument, where others could see it."""
    async with open_speaker(mouth.synthesizer(), settings=Settings.load()) as speaker:
        assert await speaker.speak("--version") == Spoken(ok=True)
    (begin, _) = mouth.records
    assert begin["text"] == "--version\n"
    assert begin["argv"] == []


async def test_wav_file_appears_complete(mouth: Mouth, tmp_path: Path) -> None:
    """A WAV file replaces an old one when it is complete, and nothing else is left beside it."""
    place = tmp_path / "wavs"
    place.mkdir()
    (place / "x.wav").write_text("old")
    async with open_speaker(mouth.synthesizer(wav=True), settings=Settings.load()) as speaker:
        assert (await speaker.write("hello", place / "x.wav")).ok
    assert (place / "x.wav").read_bytes()[:4] == b"RIFF"
    assert os.listdir(place) == ["x.wav"]


async def test_missing_wav_file_is_a_problem(mouth: Mouth, tmp_path: Path) -> None:
    """A synthesizer that ends well without having written anything has failed."""
    from eventbus_tasks_voice.synthesizers import Synthesizer

    liar = Synthesizer(name="liar", wav=("true", "{wav}"))
    async with open_speaker(liar, settings=Settings.load()) as speaker:
        spoken = await speaker.write("hello", tmp_path / "x.wav")
    assert not spoken.ok
    assert "no WAV file" in spoken.problem


async def test_failure_is_told(mouth: Mouth) -> None:
    """What a failing synthesizer says is there, without control sequences."""
    async with open_speaker(mouth.synthesizer("fail"), settings=Settings.load()) as speaker:
        spoken = await speaker.speak("hello")
    assert not spoken.ok
    assert "exit status 3" in spoken.problem
    assert spoken.output == "no such voice"


async def test_missing_program_is_told(mouth: Mouth) -> None:
    """A synthesizer that is not there is a problem, not an exception."""
    from eventbus_tasks_voice.synthesizers import Synthesizer

    missing = Synthesizer(name="gone", aloud=("/no/such/program",))
    async with open_speaker(missing, settings=Settings.load()) as speaker:
        assert not (await speaker.speak("hello")).ok


async def test_hanging_synthesizer_ends_at_its_deadline(mouth: Mouth) -> None:
    """One that hangs and ignores signals is killed with its children; the next text is said."""
    hang, brief = mouth.synthesizer("hang"), mouth.synthesizer()
    async with open_speaker(hang, settings=Settings.load(), deadline=0.5) as speaker:
        spoken = await speaker.speak("hello")
        assert not spoken.ok
        assert "did not end within 0.5 seconds" in spoken.problem
        assert not _alive(await mouth.begun(1))
        async with open_speaker(brief, settings=Settings.load()) as other:
            assert (await other.speak("hello")).ok


async def test_cut_off_leaves_nothing(mouth: Mouth) -> None:
    """Cancelling returns when the synthesizer is gone with its children, however stubborn."""
    async with open_speaker(mouth.synthesizer("hang"), settings=Settings.load()) as speaker:
        async with anyio.create_task_group() as group:
            group.start_soon(speaker.speak, "hello")
            begin = await mouth.begun(1)
            group.cancel_scope.cancel()
        assert not _alive(begin)


async def test_speakers_take_turns(mouth: Mouth) -> None:
    """While one speaks, another one of the machine does not begin."""
    settings = Settings.load()
    async with (
        open_speaker(mouth.synthesizer("hold"), settings=settings) as first,
        open_speaker(mouth.synthesizer(), settings=settings) as second,
        anyio.create_task_group() as group,
    ):
        group.start_soon(first.speak, "first")
        await mouth.begun(1)
        with pytest.raises(TurnTakenError):
            await second.speak("second")
        await mouth.open_gate()
        await _insist(second, "second")
    assert mouth.said == ["first", "second"]


@pytest.mark.slow
async def test_two_processes_never_speak_at_once(mouth: Mouth) -> None:
    """Processes that all want to speak do so one after the other."""
    program = (
        "import anyio, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from eventbus_tasks import Settings\n"
        "from eventbus_tasks_voice.speaker import open_speaker, TurnTakenError\n"
        "from eventbus_tasks_voice.synthesizers import Synthesizer\n"
        "async def main():\n"
        f"    synthesizer = Synthesizer(name='fake', aloud={mouth.command()!r})\n"
        "    async with open_speaker(synthesizer, settings=Settings.load()) as speaker:\n"
        "        for number in range(4):\n"
        "            while True:\n"
        "                try:\n"
        "                    assert (await speaker.speak(f'{sys.argv[1]}{number}')).ok\n"
        "                    break\n"
        "                except TurnTakenError:\n"
        "                    await anyio.sleep(0.01)\n"
        "anyio.run(main)\n"
    )
    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(anyio.run_process, [sys.executable, "-c", program, name])
    assert sorted(mouth.said) == [f"{name}{number}" for name in "abc" for number in range(4)]
    assert not mouth.did("overlap")


async def test_killed_program_gives_its_turn_with_its_voice(mouth: Mouth) -> None:
    """When a program is killed while it speaks, the next one begins after its voice has gone."""
    program = (
        "import anyio, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from eventbus_tasks import Settings\n"
        "from eventbus_tasks_voice.speaker import open_speaker\n"
        "from eventbus_tasks_voice.synthesizers import Synthesizer\n"
        "async def main():\n"
        f"    synthesizer = Synthesizer(name='fake', aloud={mouth.command('hang')!r})\n"
        "    async with open_speaker(synthesizer, settings=Settings.load()) as speaker:\n"
        "        await speaker.speak('killed')\n"
        "anyio.run(main)\n"
    )
    async with await anyio.open_process([sys.executable, "-c", program]) as process:
        begin = await mouth.begun(1)
        async with open_speaker(mouth.synthesizer(), settings=Settings.load()) as speaker:
            with pytest.raises(TurnTakenError):
                await speaker.speak("next")
            process.kill()
            await _insist(speaker, "next")
        assert not _alive(begin)
    assert mouth.said == ["next"]
    assert not mouth.did("overlap")


async def test_nothing_is_kept_of_what_was_said(mouth: Mouth) -> None:
    """A speaker that has said much holds no more than one that has said nothing."""
    async with open_speaker(mouth.synthesizer(), settings=Settings.load()) as speaker:
        for number in range(5):
            await speaker.speak(f"{number}")
        assert not speaker._engine.tasks


async def test_turn_of_a_hung_holder_expires(tmp_path: Path) -> None:
    """Everybody who has waited too long for the same holder goes on to the same next turn."""
    first, second = Turns(tmp_path / "t", 10), Turns(tmp_path / "t", 10)
    old = first.current()
    assert second.current() == old
    second.taken_by(old, "another", 0)
    for now in (1, 5, 11):
        first.taken_by(old, "hung", now)
        second.taken_by(old, "hung", now)
    assert first.current() == second.current() == old
    first.taken_by(old, "hung", 12)
    new = first.current()
    assert new != old
    second.taken_by(old, "hung", 16)  # decided late
    assert first.current() == second.current() == new


def _alive(record: dict[str, object]) -> bool:
    """Whether a scripted synthesizer or its child still runs."""
    found = []
    for key in ("pid", "child"):
        try:
            found.append(Identity.of(int(str(record[key]))))
        except ProcessLookupError:
            continue
    return bool(living(found))


async def _insist(speaker: Speaker, text: str) -> None:
    while True:
        try:
            await speaker.speak(text)
        except TurnTakenError:
            await anyio.sleep(0.01)
        else:
            return

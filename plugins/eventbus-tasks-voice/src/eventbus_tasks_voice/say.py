"""``ebt say``: tries out the voice."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventbus_tasks import EventbusTasksError, Settings

if TYPE_CHECKING:
    from eventbus_tasks_voice.settings import VoiceSettings
    from eventbus_tasks_voice.speaker import Speaker, Spoken
    from eventbus_tasks_voice.synthesizers import Synthesizer

__all__ = ["configure"]

_LONGEST: Final = 2000
_CHARACTERS_PER_SECOND: Final = 8.0  # slower than any synthesizer speaks by default
_TURN_POLL: Final = 0.05


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ebt say``."""
    parser.add_argument("text", nargs="?", help="what to say; standard input when left out")
    parser.add_argument("--wav", type=Path, metavar="FILE", help="write a WAV file, say nothing")
    parser.add_argument("--synthesizer", metavar="NAME", help="which one, instead of the usual")
    parser.add_argument("--voice", help="the synthesizer's own name for a voice")
    parser.add_argument("--rate", type=int, help="words per minute")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Say a text, and return the exit code: 0 when the synthesizer has ended well, else 1."""
    import anyio

    try:
        return anyio.run(_say, arguments)
    except (EventbusTasksError, OSError) as error:
        return _complain(str(error))


async def _say(arguments: argparse.Namespace) -> int:
    from eventbus_tasks_voice.cleaning import speakable
    from eventbus_tasks_voice.speaker import open_speaker
    from eventbus_tasks_voice.synthesizers import choose_synthesizer

    settings = _settings(arguments)
    wav: Path | None = arguments.wav
    synthesizer: Synthesizer = choose_synthesizer(settings, wav=wav is not None)
    text = sys.stdin.read(_LONGEST * 4) if arguments.text is None else arguments.text
    clean = speakable(text, _LONGEST)
    if not clean:
        return _complain("there is nothing in it that could be said")
    async with open_speaker(
        synthesizer,
        settings=Settings.load(),
        voice=settings.voice,
        rate=settings.rate,
        deadline=settings.deadline + len(clean) / _CHARACTERS_PER_SECOND,
    ) as speaker:
        spoken = await (_aloud(speaker, clean) if wav is None else speaker.write(clean, wav))
    return _report(spoken)


def _settings(arguments: argparse.Namespace) -> VoiceSettings:
    from eventbus_tasks_voice.settings import TABLE, VoiceSettings

    settings = Settings.load(tables={TABLE: VoiceSettings}).table(VoiceSettings)
    if arguments.synthesizer is not None:
        # Its voices and commands are not those that are set for another one.
        settings = dataclasses.replace(
            settings, synthesizer=(arguments.synthesizer,), wav_synthesizer=(), voice=""
        )
    if arguments.voice is not None:
        settings = dataclasses.replace(settings, voice=arguments.voice)
    if arguments.rate is not None:
        settings = dataclasses.replace(settings, rate=arguments.rate)
    return settings


async def _aloud(speaker: Speaker, text: str) -> Spoken:
    """Say it as soon as nobody else on this machine speaks."""
    import anyio

    from eventbus_tasks_voice.speaker import TurnTakenError

    while True:
        try:
            return await speaker.speak(text)
        except TurnTakenError:
            await anyio.sleep(_TURN_POLL)


def _report(spoken: Spoken) -> int:
    # Several synthesizers end well where there is no sound device: only what they write tells.
    if spoken.output:
        sys.stderr.write(f"{spoken.output}\n")
    return 0 if spoken.ok else _complain(spoken.problem)


def _complain(problem: str) -> int:
    sys.stderr.write(f"ebt say: {problem}\n")
    return 1

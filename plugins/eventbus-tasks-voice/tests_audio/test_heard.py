"""Announcements are really heard: synthesised by espeak-ng, recognised by pocketsphinx.

The recogniser must choose one sentence of a grammar in which each name, outcome, number and
duration has alternatives. It would force anything of the same shape onto something, so what is
asserted is *which* sentence was heard. With this voice every word of the grammar is told apart;
with others it is not, which says nothing about them for people.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import anyio
import eventbus_tasks_voice
import pytest
from eventbus_tasks_voice.announcements import Announcement, Kind
from eventbus_tasks_voice.say import configure, run
from eventbus_tasks_voice.settings import TABLE, VoiceSettings
from eventbus_tasks_voice.speaker import open_speaker
from eventbus_tasks_voice.synthesizers import choose_synthesizer
from eventbus_tasks_voice.wording import describe, together

from eventbus_tasks import (
    AgentInputRequired,
    Outcome,
    Reason,
    Settings,
    TaskCancelled,
    TaskCompleted,
    TaskEngine,
    TaskEvent,
    TaskFailed,
    TaskRef,
)

# Test folders have no __init__.py, so they import what stands beside them by its plain name.
sys.path.insert(0, str(Path(__file__).parent))

from hearing import duration, hear

pytestmark = [
    pytest.mark.skipif(
        shutil.which("espeak-ng") is None, reason="espeak-ng is not installed (Debian: espeak-ng)"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("pocketsphinx") is None, reason="pocketsphinx is not installed"
    ),
]

VOICE: Final = VoiceSettings(synthesizer=("espeak-ng",), voice="en-us+f2", rate=140)

GRAMMAR: Final = """#JSGF V1.0;
grammar announcements;
public <sentence> = <one> | <many> | <mixed>;
<one> = <name> (is done | failed | was cancelled) after <time>
      | <name> was stopped after <time> because it (took too long | went quiet | wrote too much)
      | <name> ended after <time> without an answer
      | <name> could not be started
      | <name> needs your permission
      | <name> has a question for you;
<many> = <number> tasks <did> [<name> [<name>] and <name>];
<mixed> = <name> <has> and <name> <has>
        | <name> <has> and <number> others <did>;
<has> = finished | failed | was cancelled | needs you;
<did> = finished | failed | were cancelled | need you;
<name> = login | parser | website | search index | payment | backup | garden;
<time> = less than a second | one second | <number> seconds | one minute | <number> minutes
       | one hour | one hour and <number> minutes;
<number> = two | three | four | five | six | seven | eight | nine | ten | twelve | twenty;
"""

AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


def ref(name: str) -> TaskRef:
    """Return who a task is; its number and paths must not be heard."""
    return TaskRef(id=8, uid="uid", name=name, agent="claude", project_dir="/srv/garden")


def ended(cls: type[TaskEvent], name: str, reason: Reason, took: float) -> str:
    """Return the sentence about the end of a task."""
    outcome = Outcome(reason=reason, message="exit status 5 in /srv/parser")
    event = cls(task=ref(name), at=AT, outcome=outcome)  # type: ignore[call-arg]
    return describe(event, took) or ""


def asks(name: str, kind: str) -> str:
    """Return the sentence about an agent that needs somebody."""
    return describe(AgentInputRequired(task=ref(name), kind=kind, prompt="rm"), None) or ""


def several(*parts: tuple[str, Kind]) -> str:
    """Return the sentence about several tasks."""
    news = [Announcement(text=name, name=name, kind=kind) for name, kind in parts]
    return together(news, {})


DONE, FAILED, CANCELLED = Kind.COMPLETED, Kind.FAILED, Kind.CANCELLED

ANNOUNCEMENTS: Final = [
    ended(TaskCompleted, "login", Reason.EXITED, 120),
    ended(TaskCompleted, "payment", Reason.EXITED, 3600),
    ended(TaskCompleted, "garden", Reason.EXITED, 0.4),
    ended(TaskFailed, "parser", Reason.EXIT_CODE, 20),
    ended(TaskFailed, "search-index", Reason.TIMED_OUT, 600),
    ended(TaskFailed, "payment", Reason.SPAWN_FAILED, 0),
    ended(TaskFailed, "backup", Reason.NO_RESULT, 240),
    ended(TaskCancelled, "website", Reason.CANCELLED, 3900),
    ended(TaskCancelled, "garden", Reason.CANCELLED, 180),
    asks("backup", "permission"),
    asks("garden", "question"),
    several(("login", DONE), ("parser", DONE), ("website", DONE)),
    several(("payment", FAILED), ("backup", FAILED)),
    several(*[("login", DONE)] * 12),
    several(("parser", FAILED), ("website", DONE)),
    several(("login", FAILED), ("garden", DONE), ("payment", DONE)),
    several(("website", FAILED), *[("garden", CANCELLED)] * 4),
    several(("login", Kind.INPUT), ("garden", Kind.INPUT)),
]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make the recogniser."""
    pocketsphinx: Any = importlib.import_module("pocketsphinx")
    grammar = tmp_path_factory.mktemp("grammar") / "announcements.jsgf"
    grammar.write_text(GRAMMAR)
    return pocketsphinx.Decoder(lm=None, jsgf=str(grammar), loglevel="FATAL")


def words(text: str) -> str:
    """Return a sentence as the recogniser writes it."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


async def synthesise(text: str, wav: Path) -> None:
    """Have a text said as the plugin says it, into a file."""
    async with open_speaker(
        choose_synthesizer(VOICE, wav=True),
        settings=Settings.load(),
        voice=VOICE.voice,
        rate=VOICE.rate,
    ) as speaker:
        spoken = await speaker.write(text, wav)
    assert spoken.ok, spoken.problem


def test_there_are_enough() -> None:
    """A dozen different announcements and more are heard below."""
    assert len(set(ANNOUNCEMENTS)) >= 12


@pytest.mark.parametrize("text", ANNOUNCEMENTS)
def test_announcement_is_heard(text: str, decoder: Any, tmp_path: Path) -> None:
    """Of all the sentences that it could be, exactly the right one is heard."""
    wav = tmp_path / "said.wav"
    anyio.run(synthesise, text, wav)
    assert hear(decoder, wav) == words(text)
    # Nothing is said besides: trailing speech would not disturb the recogniser.
    assert 0.2 < duration(wav) / len(words(text).split()) < 0.7


@pytest.mark.parametrize(
    "text", ["the weather will be fine tomorrow", "please open the second window"]
)
def test_something_else_is_not_heard_as_news(text: str, decoder: Any, tmp_path: Path) -> None:
    """Speech that is no announcement is not taken for one of those that were announced."""
    wav = tmp_path / "said.wav"
    anyio.run(synthesise, text, wav)
    assert hear(decoder, wav) not in [words(known) for known in ANNOUNCEMENTS]


def test_task_of_an_engine_is_heard(decoder: Any, tmp_path: Path) -> None:
    """A real task that ends is heard, from the engine's event to the sound."""

    async def main() -> None:
        own = {"synthesizer": ["espeak-ng"], "voice": VOICE.voice, "rate": VOICE.rate}
        settings = Settings.load(
            tables={TABLE: VoiceSettings},
            overrides={TABLE: {**own, "wav_dir": str(tmp_path / "wavs")}},
        )
        plugins = {"voice": eventbus_tasks_voice}
        async with TaskEngine(settings, plugins=plugins, load_installed=False) as engine:
            task = await engine.spawn_task("website", argv=["false"], project_dir=tmp_path)
            await task.wait()

    anyio.run(main)
    eventbus_tasks_voice.get_voice().close(30)
    (wav,) = (tmp_path / "wavs").iterdir()
    assert hear(decoder, wav) == "website failed after less than a second"


def test_say_is_heard(decoder: Any, tmp_path: Path) -> None:
    """What `ebt say` writes is heard."""
    import argparse

    parser = argparse.ArgumentParser()
    configure(parser)
    wav = tmp_path / "said.wav"
    options = ["--synthesizer", "espeak-ng", "--voice", VOICE.voice, "--rate", "140"]
    text = "**login** failed after `two` minutes"
    assert run(parser.parse_args([text, "--wav", str(wav), *options])) == 0
    assert hear(decoder, wav) == "login failed after two minutes"


def test_option_in_a_text_is_spoken(tmp_path: Path) -> None:
    """A text that looks like an option of the synthesizer is said, not obeyed."""
    wav, evil = tmp_path / "said.wav", tmp_path / "evil.wav"
    anyio.run(synthesise, f"-w{evil}", wav)
    assert duration(wav) > 0.2
    assert not evil.exists()

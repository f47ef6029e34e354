"""The synthesizers that are known, which of them is used, and whether anybody can hear it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventbus_tasks import EventbusTasksError

if TYPE_CHECKING:
    from eventbus_tasks_voice.settings import VoiceSettings

__all__ = ["KNOWN", "NoSynthesizerError", "Synthesizer", "choose_synthesizer", "has_sound"]


class NoSynthesizerError(EventbusTasksError):
    """There is no program that could speak.

    Attributes:
        problem: What is missing, readable.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesizer:
    """A program that speaks what it reads from standard input.

    Arguments with a placeholder whose value is empty are left out, together with the option
    before them when they stand in a pair: ``("-v", "{voice}")``.

    Attributes:
        name: For people.
        aloud: Command that speaks; tuples are pairs of option and value. Empty if it cannot.
        wav: Command that writes a WAV file to ``{wav}``. Empty if it cannot.
        rate: Turns words per minute into what its own option expects.
    """

    name: str
    aloud: tuple[str | tuple[str, str], ...] = ()
    wav: tuple[str | tuple[str, str], ...] = ()
    rate: Callable[[int], str] = str

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs that it consists of."""
        first = (command[0] for command in (self.aloud, self.wav) if command)
        return tuple(word for word in dict.fromkeys(first) if isinstance(word, str))

    def command(self, *, voice: str = "", rate: int = 0, wav: Path | None = None) -> list[str]:
        """Return program and arguments. The text is never among them.

        Args:
            voice: Its own name for a voice, or ``""``.
            rate: Words per minute, or 0.
            wav: Where to write instead of speaking.

        Raises:
            NoSynthesizerError: It can do only the other of the two.
        """
        template = self.aloud if wav is None else self.wav
        if not template:
            what = "speak aloud" if wav is None else "write a WAV file"
            raise NoSynthesizerError(f"the synthesizer {self.name!r} cannot {what}")
        values = {
            "{voice}": voice,
            "{rate}": self.rate(rate) if rate else "",
            "{wav}": "" if wav is None else os.path.abspath(wav),
        }
        argv: list[str] = []
        for word in template:
            words = (word,) if isinstance(word, str) else word
            used = [key for key in values if any(key in part for part in words)]
            if any(not values[key] for key in used):
                continue
            for part in words:
                filled = part
                for key in used:
                    filled = filled.replace(key, values[key])
                argv.append(filled)
        return argv


def _percent(words_per_minute: int) -> str:
    """Turn words per minute into speech-dispatcher's -100 to 100, around its 180."""
    return str(max(-100, min(100, round((words_per_minute - 180) * 100 / 270))))


def _stretch(words_per_minute: int) -> str:
    return f"duration_stretch={170 / words_per_minute:.3f}"


# In the order in which they are looked for. speech-dispatcher comes after those that speak
# directly: without a sound device it never returns, and with one it starts a daemon first.
KNOWN: Final[tuple[Synthesizer, ...]] = (
    Synthesizer(
        name="espeak-ng",
        aloud=("espeak-ng", ("-v", "{voice}"), ("-s", "{rate}"), "--stdin"),
        wav=("espeak-ng", ("-v", "{voice}"), ("-s", "{rate}"), "--stdin", ("-w", "{wav}")),
    ),
    Synthesizer(
        name="flite",
        aloud=("flite", ("-voice", "{voice}"), ("--setf", "{rate}"), "-o", "play"),
        wav=("flite", ("-voice", "{voice}"), ("--setf", "{rate}"), ("-o", "{wav}")),
        rate=_stretch,
    ),
    Synthesizer(
        name="speech-dispatcher",
        aloud=("spd-say", ("-y", "{voice}"), ("-r", "{rate}"), "--wait", "--pipe-mode"),
        rate=_percent,
    ),
    Synthesizer(
        name="festival",
        aloud=("festival", "--tts"),
        wav=("text2wave", ("-o", "{wav}")),
    ),
    Synthesizer(
        name="say",
        aloud=("say", ("-v", "{voice}"), ("-r", "{rate}"), "-f", "-"),
        wav=(
            "say",
            ("-v", "{voice}"),
            ("-r", "{rate}"),
            "--data-format=LEI16@22050",
            ("-o", "{wav}"),
            "-f",
            "-",
        ),
    ),
)


def choose_synthesizer(
    settings: VoiceSettings, *, wav: bool = False, path: str | None = None
) -> Synthesizer:
    """Return the synthesizer to use: the one of the settings, else the first that is installed.

    Args:
        settings: Which one is wanted.
        wav: It is to write WAV files, not to speak.
        path: Where programs are searched; ``PATH`` when left out.

    Raises:
        NoSynthesizerError: None is installed, or not the one that is wanted.
    """
    wanted = settings.synthesizer
    by_name = {item.name: item for item in KNOWN}
    if len(wanted) == 1 and wanted[0] in by_name:
        found = by_name[wanted[0]]
        program = _program(found, wav=wav)
        if program is None or shutil.which(program, path=path) is None:
            raise NoSynthesizerError(f"{program or found.name} is not installed, or cannot do this")
        return found
    if wanted or settings.wav_synthesizer:
        own = _own(wanted, settings.wav_synthesizer)
        program = _program(own, wav=wav)
        if program is None:
            key = "wav_synthesizer" if wav else "synthesizer"
            raise NoSynthesizerError(f"the setting voice.{key} has no command for this")
        if shutil.which(program, path=path) is None:
            raise NoSynthesizerError(f"{program} is not installed")
        return own
    for item in KNOWN:
        program = _program(item, wav=wav)
        if program is not None and shutil.which(program, path=path) is not None:
            return item
    names = ", ".join(item.name for item in KNOWN if _program(item, wav=wav))
    raise NoSynthesizerError(f"no speech synthesizer is installed (looked for {names})")


def _program(synthesizer: Synthesizer, *, wav: bool) -> str | None:
    command = synthesizer.wav if wav else synthesizer.aloud
    return command[0] if command and isinstance(command[0], str) else None


def _own(aloud: Sequence[str], wav: Sequence[str]) -> Synthesizer:
    """Make a synthesizer of commands from the settings."""
    if not wav and any("{wav}" in word for word in aloud):
        aloud, wav = (), aloud
    name = Path((aloud or wav)[0]).name
    return Synthesizer(name=name, aloud=_pairs(aloud), wav=_pairs(wav))


def _pairs(words: Sequence[str]) -> tuple[str | tuple[str, str], ...]:
    """Put options together with the placeholders behind them, so that both can be left out."""
    found: list[str | tuple[str, str]] = []
    for word in words:
        previous = found[-1] if found else None
        is_value = word in ("{voice}", "{rate}") and len(found) > 1
        if is_value and isinstance(previous, str) and previous.startswith("-"):
            found[-1] = (previous, word)
        else:
            found.append(word)
    return tuple(found)


def has_sound(environ: Mapping[str, str] | None = None) -> bool:
    """Whether there seems to be somebody to hear: a sound device or server, and no build machine.

    No synthesizer's exit code tells: several end with 0 where there is no sound device.
    """
    environ = os.environ if environ is None else environ
    if environ.get("CI"):
        return False
    if environ.get("PULSE_SERVER") or environ.get("PIPEWIRE_REMOTE"):
        return True
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    if any(Path(runtime, name).exists() for name in ("pulse/native", "pipewire-0")):
        return True
    # Playback devices of ALSA end in "p": pcmC0D0p.
    return any(path.name.endswith("p") for path in Path("/dev/snd").glob("pcm*"))

"""Which synthesizer is used, and how it is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from eventbus_tasks_voice.settings import VoiceSettings
from eventbus_tasks_voice.synthesizers import (
    KNOWN,
    NoSynthesizerError,
    choose_synthesizer,
    has_sound,
)

from eventbus_tasks import SettingsError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make an empty directory for programs."""
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def install(path: Path, *names: str) -> str:
    """Put programs into a directory; return it as a search path."""
    for name in names:
        (path / name).touch(mode=0o755)
    return str(path)


def test_first_installed_one_is_used(path: Path) -> None:
    """Without a setting, the first known synthesizer that is installed speaks."""
    found = choose_synthesizer(VoiceSettings(), path=install(path, "flite", "festival"))
    assert found.name == "flite"


def test_one_that_can_write_is_chosen_for_files(path: Path) -> None:
    """For a WAV file, one that can write is chosen before one that can only speak."""
    search = install(path, "spd-say", "text2wave")
    assert choose_synthesizer(VoiceSettings(), path=search).name == "speech-dispatcher"
    assert choose_synthesizer(VoiceSettings(), path=search, wav=True).name == "festival"


def test_none_installed_is_said_clearly(path: Path) -> None:
    """Where there is none, the error names what was looked for."""
    with pytest.raises(NoSynthesizerError, match="espeak-ng, flite"):
        choose_synthesizer(VoiceSettings(), path=str(path))
    with pytest.raises(NoSynthesizerError, match="flite is not installed"):
        choose_synthesizer(VoiceSettings(synthesizer=("flite",)), path=str(path))
    with pytest.raises(NoSynthesizerError, match="my-voice is not installed"):
        choose_synthesizer(VoiceSettings(synthesizer=("my-voice",)), path=str(path))


def test_own_command_is_filled_in(path: Path) -> None:
    """A command of the user's own gets voice and rate, or neither option nor value."""
    search = install(path, "mine")
    settings = VoiceSettings(synthesizer=("mine", "-q", "-v", "{voice}", "--rate={rate}"))
    own = choose_synthesizer(settings, path=search)
    assert own.command() == ["mine", "-q"]
    assert own.command(voice="ann", rate=150) == ["mine", "-q", "-v", "ann", "--rate=150"]
    with pytest.raises(NoSynthesizerError, match="wav_synthesizer"):
        choose_synthesizer(settings, path=search, wav=True)


def test_own_command_that_writes(path: Path) -> None:
    """A command with a place for a file is one that writes, with an absolute path."""
    settings = VoiceSettings(synthesizer=("mine", "-o", "{wav}"))
    own = choose_synthesizer(settings, path=install(path, "mine"), wav=True)
    command = own.command(wav=Path("-x.wav"))
    assert command[:2] == ["mine", "-o"]
    assert command[2].startswith("/")
    with pytest.raises(NoSynthesizerError, match="speak aloud"):
        own.command()


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_known_commands_are_complete(known: object) -> None:
    """Every known synthesizer is called without leftovers of placeholders."""
    synthesizer = next(item for item in KNOWN if item is known)
    for voice in ("", "v"):
        for rate in (0, 200):
            commands = [synthesizer.command(voice=voice, rate=rate)] if synthesizer.aloud else []
            if synthesizer.wav:
                wav = synthesizer.command(voice=voice, rate=rate, wav=Path("/x.wav"))
                assert "/x.wav" in wav
                commands.append(wav)
            assert commands
            assert not [word for command in commands for word in command if "{" in word]


def test_build_machine_is_silent(tmp_path: Path) -> None:
    """Where nobody can hear it, nothing is said unless somebody wants it."""
    assert not has_sound({"CI": "true", "PULSE_SERVER": "unix:/x"})
    assert has_sound({"PULSE_SERVER": "unix:/x"})
    (tmp_path / "pipewire-0").touch()
    assert has_sound({"XDG_RUNTIME_DIR": str(tmp_path)})


@pytest.mark.parametrize("values", [{"deadline": 0}, {"linger": -1}, {"gather": -1}, {"rate": 5}])
def test_senseless_settings_are_refused(values: dict[str, float]) -> None:
    """A number that makes no sense is an error that names its key."""
    with pytest.raises(SettingsError, match=f"voice.{next(iter(values))}"):
        VoiceSettings(**values)  # type: ignore[arg-type]

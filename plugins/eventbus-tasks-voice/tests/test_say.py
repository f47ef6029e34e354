"""``ebt say``."""

from __future__ import annotations

import argparse
import io
import wave
from pathlib import Path

import eventbus_tasks_voice
import pytest
from eventbus_tasks_voice.say import configure, run
from voice_kit import Mouth

from eventbus_tasks import PluginHost, Settings


def say(*arguments: str) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser()
    configure(parser)
    return run(parser.parse_args(arguments))


@pytest.fixture
def spoken(mouth: Mouth, monkeypatch: pytest.MonkeyPatch) -> Mouth:
    """Set the scripted synthesizer as the user's."""
    monkeypatch.setenv("EBT_VOICE_SYNTHESIZER", ",".join(mouth.command()))
    writing = (*mouth.command(), "--wav", "{wav}")
    monkeypatch.setenv("EBT_VOICE_WAV_SYNTHESIZER", ",".join(writing))
    return mouth


def test_plugin_adds_the_command() -> None:
    """The plugin is accepted as it is, and adds `say` to the command line."""
    host = PluginHost(Settings.load())
    report = host.register(eventbus_tasks_voice, "voice")
    assert report.state == "active"
    assert set(host.commands) == {"say"}
    parser = argparse.ArgumentParser()
    host.commands["say"].configure(parser)
    assert callable(parser.parse_args(["hello"]).run)


def test_text_is_said(spoken: Mouth) -> None:
    """A text is cleaned and said."""
    assert say("**hello** world") == 0
    assert spoken.said == ["hello world"]


def test_standard_input_is_said(spoken: Mouth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a text, standard input is said."""
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    assert say() == 0
    assert spoken.said == ["from a pipe"]


def test_wav_file_is_written(spoken: Mouth, tmp_path: Path) -> None:
    """With `--wav` a file is written and nothing is said."""
    file = tmp_path / "x.wav"
    assert say("hello", "--wav", str(file)) == 0
    with wave.open(str(file)) as sound:
        assert sound.getnframes() > 0
    assert spoken.said == []


def test_nothing_to_say(spoken: Mouth, capsys: pytest.CaptureFixture[str]) -> None:
    """A text of which nothing can be said is an error."""
    assert say("***") == 1
    assert "nothing" in capsys.readouterr().err


def test_missing_synthesizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where none is installed, the error names what could be."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert say("hello") == 1
    assert "espeak-ng" in capsys.readouterr().err
    assert say("hello", "--synthesizer", "flite") == 1
    assert "flite" in capsys.readouterr().err


def test_failing_synthesizer(
    mouth: Mouth, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a failing synthesizer says is shown, and the exit code tells."""
    monkeypatch.setenv("EBT_VOICE_SYNTHESIZER", ",".join(mouth.command("fail")))
    assert say("hello") == 1
    assert "no such voice" in capsys.readouterr().err


def test_senseless_rate(spoken: Mouth, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that makes no sense is an error that says what is possible."""
    assert say("hello", "--rate", "5") == 1
    assert "voice.rate" in capsys.readouterr().err

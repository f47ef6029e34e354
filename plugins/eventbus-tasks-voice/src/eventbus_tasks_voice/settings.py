"""The settings table ``[voice]``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from eventbus_tasks import Settings, SettingsError

__all__ = ["TABLE", "VoiceSettings", "voice_settings"]

TABLE: Final = "voice"

# A cloned repository must not choose what is executed or written, or unmute the loudspeaker.
_USER_ONLY: Final[dict[str, Any]] = {"user_only": True}

How = Literal["interrupt", "when_idle", "silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceSettings:
    """What is said, how, and by whom. A project's own file may set only what is said of it.

    Attributes:
        enabled: ``False`` mutes everything. ``None``: speak if a synthesizer is installed and
            there is somebody to hear it: a sound device or server, and no ``CI`` variable.
        synthesizer: The name of a known one (``"flite"``), or program and arguments of a
            command that reads the text from standard input and speaks it. ``{voice}``,
            ``{rate}`` and ``{wav}`` are filled in. Empty: the first one that is installed.
        wav_synthesizer: The same for writing a WAV file, when a command of your own is used:
            ``{wav}`` is where to.
        voice: The synthesizer's own name for a voice; empty for its default.
        rate: Words per minute; 0 for the synthesizer's default.
        wav_dir: Write each announcement to a WAV file in this directory instead of saying it.
        deadline: Seconds that one announcement may take; then it is killed.
        linger: Seconds that announcements may still be said after the last engine has stopped.
        gather: Seconds that news waits for more, to be told together.
        quiet: Say only what is urgent (``interrupt``).
        completed: When a completed task is announced.
        failed: When a failed one is.
        cancelled: When a cancelled one is.
        input_required: When an agent that needs a person is.

    Raises:
        SettingsError: A number makes no sense.
    """

    enabled: bool | None = field(default=None, metadata=_USER_ONLY)
    synthesizer: tuple[str, ...] = field(default=(), metadata=_USER_ONLY)
    wav_synthesizer: tuple[str, ...] = field(default=(), metadata=_USER_ONLY)
    voice: str = field(default="", metadata=_USER_ONLY)
    rate: int = field(default=0, metadata=_USER_ONLY)
    wav_dir: Path | None = field(default=None, metadata=_USER_ONLY)
    deadline: float = field(default=30.0, metadata=_USER_ONLY)
    linger: float = field(default=10.0, metadata=_USER_ONLY)
    gather: float = field(default=0.3, metadata=_USER_ONLY)
    quiet: bool = False
    completed: How = "when_idle"
    failed: How = "when_idle"
    cancelled: How = "when_idle"
    input_required: How = "interrupt"

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        if not self.deadline > 0:
            raise _refused("deadline", "must be more than 0 seconds")
        if self.linger < 0 or self.gather < 0:
            raise _refused("linger" if self.linger < 0 else "gather", "must be 0 seconds or more")
        if self.rate and not 40 <= self.rate <= 600:
            raise _refused("rate", "must be 40 to 600 words per minute, or 0 for the default")


def voice_settings(settings: Settings) -> VoiceSettings:
    """Return the table that applies to an engine with these settings.

    What the program itself has set comes first; an engine that reads its own settings does so
    before any plugin has declared a table, so then the sources are read here.

    Raises:
        SettingsError: A source is wrong; names file and key.
    """
    given = settings.table(VoiceSettings)
    if given != VoiceSettings():
        return given
    return Settings.load(tables={TABLE: VoiceSettings}).table(VoiceSettings)


def _refused(key: str, problem: str) -> SettingsError:
    return SettingsError("settings", f"{TABLE}.{key}", problem)

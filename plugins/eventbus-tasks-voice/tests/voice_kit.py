"""What the tests of this plugin share: a synthesizer that writes down what it is told."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from eventbus_tasks_voice.announcements import Announcement, Kind, Receipt, Urgency
from eventbus_tasks_voice.loudspeaker import Loudspeaker
from eventbus_tasks_voice.settings import VoiceSettings
from eventbus_tasks_voice.synthesizers import Synthesizer, choose_synthesizer
from eventbus_tasks_voice.voice import Voice

from eventbus_tasks import Settings, TaskRef

PROGRAM = Path(__file__).with_name("fake_synthesizer.py")


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while True:
        if condition():
            return
        await anyio.sleep(0.005)


@dataclass(frozen=True)
class Mouth:
    """What the scripted synthesizers of a test do, and what they have done."""

    directory: Path

    def command(self, mode: str = "brief", *arguments: str) -> tuple[str, ...]:
        """Return the command of a synthesizer."""
        own = (sys.executable, "-I", "-S", str(PROGRAM), str(self.directory), mode)
        return (*own, *arguments)

    def settings(self, mode: str = "brief", **more: Any) -> VoiceSettings:
        """Return settings that choose a synthesizer."""
        wav = self.command(mode, "--wav", "{wav}")
        return VoiceSettings(synthesizer=self.command(mode), wav_synthesizer=wav, **more)

    def synthesizer(self, mode: str = "brief", *, wav: bool = False) -> Synthesizer:
        """Return a synthesizer."""
        return choose_synthesizer(self.settings(mode), wav=wav)

    @property
    def records(self) -> list[dict[str, Any]]:
        """Everything that was written down."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.directory / "record").read_text()
            return [json.loads(line) for line in text.splitlines()]
        return []

    def did(self, what: str) -> list[str]:
        """Return the texts of the records of one kind."""
        return [str(record["text"]).strip() for record in self.records if record["what"] == what]

    @property
    def said(self) -> list[str]:
        """The texts that were said to their end."""
        return self.did("end")

    async def begun(self, number: int) -> dict[str, Any]:
        """Wait until so many texts have been begun, and return the record of the last one."""
        while True:
            found = [record for record in self.records if record["what"] == "begin"]
            if len(found) >= number:
                return found[number - 1]
            await anyio.sleep(0.005)

    async def open_gate(self) -> None:
        """Let the one that is speaking come to its end."""
        while True:
            with contextlib.suppress(OSError):  # nobody stands at the gate yet
                os.close(os.open(self.directory / "gate", os.O_WRONLY | os.O_NONBLOCK))
                return
            await anyio.sleep(0.005)


class Receipts(list[Receipt]):
    """The receipts of a voice."""

    async def total(self, number: int) -> None:
        """Wait until so many announcements have come to an end."""
        await until(lambda: self.ended >= number)

    @property
    def ended(self) -> int:
        """How many announcements were delivered or given up."""
        return sum(receipt.count for receipt in tuple(self) if receipt.delivery != "interrupted")


@contextlib.contextmanager
def speaking(settings: VoiceSettings) -> Iterator[tuple[Voice, Receipts]]:
    """Return a voice with a loudspeaker in its thread, and its receipts."""
    loudspeaker = Loudspeaker(choose_synthesizer(settings), settings, Settings.load())
    voice = Voice(loudspeaker=loudspeaker)
    receipts = Receipts()
    voice.on_receipt(receipts.append)
    voice.retain(loudspeaker)
    try:
        yield voice, receipts
    finally:
        voice.close()


def news(
    name: str,
    kind: Kind = Kind.COMPLETED,
    urgency: Urgency = Urgency.WHEN_IDLE,
    *,
    uid: str = "",
    key: str = "",
) -> Announcement:
    """Return an announcement about a task."""
    task = TaskRef(id=1, uid=uid, name=name, agent="command", project_dir="/p") if uid else None
    return Announcement(
        text=f"{name} {kind}", kind=kind, urgency=urgency, name=name, key=key, task=task
    )

"""`Speaker`: runs a synthesizer as a guarded task of an engine of its own."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from eventbus_tasks import (
    EventbusTasksError,
    ProjectBusyError,
    Reason,
    Settings,
    Step,
    TaskEngine,
    TaskStatus,
    TerminationPolicy,
    terminal_safe,
)
from eventbus_tasks_voice.turns import Turns

if TYPE_CHECKING:
    from eventbus_tasks import Outcome
    from eventbus_tasks_voice.synthesizers import Synthesizer

__all__ = ["Speaker", "Spoken", "TurnTakenError", "open_speaker"]

logger: Final = logging.getLogger("eventbus_tasks.voice")

# A synthesizer has nothing to save: measured, espeak-ng ends 1 ms after SIGTERM.
_GRACE: Final = 0.3
_KILL_WAIT: Final = 2.0

# Seconds beyond the deadline after which the holder of the turn is taken for hung: far more
# than ending it can take.
_EXPIRY_MARGIN: Final = 15.0

_WAV_HEADER: Final = 44


class TurnTakenError(EventbusTasksError):
    """Somebody else on this machine is speaking; nothing was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What became of an attempt to speak.

    Attributes:
        ok: The synthesizer has read the text and ended well. It cannot tell whether there was
            anybody to hear it, nor a loudspeaker.
        problem: Why not, readable.
        output: What it has written, its last lines.
    """

    ok: bool
    problem: str = ""
    output: str = ""


class Speaker:
    """Speaks one text at a time. Made by `open_speaker`."""

    def __init__(
        self,
        engine: TaskEngine,
        synthesizer: Synthesizer,
        *,
        voice: str,
        rate: int,
        deadline: float,
    ) -> None:
        self._engine = engine
        self._synthesizer = synthesizer
        self._voice = voice
        self._rate = rate
        self._deadline = deadline
        self._turns = Turns(engine.settings.state_dir / "voice", deadline + _EXPIRY_MARGIN)

    async def speak(self, text: str) -> Spoken:
        """Say a text aloud, and return when it has been said.

        Raises:
            TurnTakenError: Somebody else on this machine is speaking.
            NoSynthesizerError: The synthesizer can only write files.

        Cancellation: cuts it off; returns when the synthesizer and all of its children are gone.
        """
        argv = self._synthesizer.command(voice=self._voice, rate=self._rate)
        turn = self._turns.current()
        try:
            return await self._run(argv, text, turn)
        except ProjectBusyError as error:
            self._turns.taken_by(turn, str(error.holder.get("uid", "")), time.monotonic())
            raise TurnTakenError from error

    async def write(self, text: str, wav: Path) -> Spoken:
        """Write a text as a WAV file; it appears when it is complete, and replaces another one.

        Raises:
            NoSynthesizerError: The synthesizer can only speak aloud.
            OSError: The file cannot be written there.

        Cancellation: leaves no file behind, like `speak` no process.
        """
        wav, part = _absolute(wav)
        argv = self._synthesizer.command(voice=self._voice, rate=self._rate, wav=part)
        with tempfile.TemporaryDirectory(prefix="ebt-voice-", ignore_cleanup_errors=True) as place:
            try:
                spoken = await self._run(argv, text, Path(place))
                if spoken.ok and not _is_wav(part):
                    problem = f"{self._synthesizer.name} has written no WAV file"
                    return Spoken(ok=False, problem=problem, output=spoken.output)
                if spoken.ok:
                    part.replace(wav)
                return spoken
            finally:
                part.unlink(missing_ok=True)

    async def _run(self, argv: list[str], text: str, directory: Path) -> Spoken:
        engine = self._engine
        policy = TerminationPolicy(
            steps=(Step(signal=signal.SIGTERM, grace=_GRACE),),
            kill_wait=_KILL_WAIT,
            exit_grace=0.0,
            timeout=self._deadline,
            max_output=1 << 20,
            keep="tail",
        )
        try:
            task = await engine.spawn_task(
                "announcement",
                argv=argv,
                project_dir=directory,
                stdin=f"{text}\n".encode(),
                policy=policy,
            )
            try:
                outcome = await task.wait()
            except BaseException:
                task.cancel_nowait()
                with anyio.CancelScope(shield=True):
                    await task.wait()
                raise
            output = terminal_safe("\n".join(task.output.tail(5)))
            return Spoken(
                ok=outcome.status is TaskStatus.COMPLETED,
                problem=self._problem(outcome),
                output=output,
            )
        finally:
            for ended in engine.tasks:
                if ended.outcome is not None:
                    engine.remove_task(ended.ref)

    def _problem(self, outcome: Outcome) -> str:
        if outcome.status is TaskStatus.COMPLETED:
            return ""
        name = self._synthesizer.name
        if outcome.reason is Reason.TIMED_OUT:
            return f"{name} did not end within {self._deadline:g} seconds and was killed"
        return f"{name} failed: {outcome.message}"


def _absolute(wav: Path) -> tuple[Path, Path]:
    """Return the file, and the one beside it that becomes it when it is complete."""
    wav = Path(os.path.abspath(wav))
    return wav, wav.with_name(f".{wav.name}.{uuid.uuid4().hex[:8]}.wav")


def _is_wav(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_WAV_HEADER)
    except OSError:
        return False
    return len(head) == _WAV_HEADER and head[:4] == b"RIFF" and head[8:12] == b"WAVE"


@asynccontextmanager
async def open_speaker(
    synthesizer: Synthesizer,
    *,
    settings: Settings,
    voice: str = "",
    rate: int = 0,
    deadline: float = 30.0,
) -> AsyncIterator[Speaker]:
    """Open a speaker with an engine of its own, which knows no plugin.

    So its tasks have no journal, are listed nowhere, and are never announced themselves; but
    they have a guardian like any task.

    Args:
        synthesizer: Who speaks.
        settings: Of the engine; its state directory is where speakers take turns.
        voice: The synthesizer's own name for a voice.
        rate: Words per minute.
        deadline: Seconds that one text may take.
    """
    async with TaskEngine(settings, load_installed=False) as engine:
        yield Speaker(engine, synthesizer, voice=voice, rate=rate, deadline=deadline)

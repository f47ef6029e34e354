"""Hearing what was said: a WAV file, a grammar, and a recogniser that must choose."""

from __future__ import annotations

import array
import functools
import math
import sys
import wave
from pathlib import Path
from typing import Any, Final

__all__ = ["duration", "hear", "samples_for_recognition"]

RATE: Final = 16_000
"""Samples per second that the recogniser expects."""

_HALF_WIDTH: Final = 12


@functools.cache
def _kernel(source: int) -> tuple[int, int, tuple[tuple[float, ...], ...]]:
    """Return step, number of phases and the filter of each, from `source` to our rate."""
    divisor = math.gcd(source, RATE)
    up, down = RATE // divisor, source // divisor
    cutoff = min(1.0, RATE / source) * 0.95  # nothing above half of the lower rate
    phases = []
    for phase in range(up):
        offset = phase / up
        weights = []
        for tap in range(-_HALF_WIDTH + 1, _HALF_WIDTH + 1):
            distance = tap - offset
            window = 0.5 + 0.5 * math.cos(math.pi * distance / (_HALF_WIDTH + 1))
            angle = math.pi * distance * cutoff
            weights.append(cutoff * window * (math.sin(angle) / angle if angle else 1.0))
        phases.append(tuple(weights))
    return down, up, tuple(phases)


def samples_for_recognition(path: Path) -> bytes:
    """Return a WAV file of 16-bit mono sound as raw samples of the recogniser's rate."""
    with wave.open(str(path)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
        source = sound.getframerate()
        samples = array.array("h", sound.readframes(sound.getnframes()))
    if sys.byteorder == "big":
        samples.byteswap()
    if source == RATE:
        return samples.tobytes()
    step, phases, filters = _kernel(source)
    padding = [0] * _HALF_WIDTH
    padded = [*padding, *samples, *padding]
    found = array.array("h")
    for number in range(len(samples) * phases // step):
        position, phase = divmod(number * step, phases)
        part = padded[position + 1 : position + 1 + 2 * _HALF_WIDTH]
        value = sum(map(float.__mul__, filters[phase], map(float, part)))
        found.append(max(-32768, min(32767, round(value))))
    return found.tobytes()


def duration(path: Path) -> float:
    """Return how many seconds a WAV file plays."""
    with wave.open(str(path)) as sound:
        return float(sound.getnframes() / sound.getframerate())


def hear(decoder: Any, path: Path) -> str | None:
    """Return the sentence of the grammar that was heard, or ``None`` if it was none."""
    decoder.start_utt()
    decoder.process_raw(samples_for_recognition(path), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return None if found is None else str(found.hypstr)

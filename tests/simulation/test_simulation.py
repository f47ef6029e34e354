"""Thousands of whole lives in a simulated kernel: every invariant holds, and planted faults show.

The real guardian, warden, ladder, life cycle and judgement live here, on processes, signals, pipes,
disks and deaths that are drawn from a seed. A seed that fails is run again by itself with
``Life(seed, Parts()).live()``, inside ``installed()``.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from typing import Final

import pytest

from .invariants import Wrong
from .mutants import MUTANTS
from .standins import installed
from .world import Life, Parts

NIGHTLY: Final = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
BATCHES: Final = 50 if NIGHTLY else 2
BATCH: Final = 2000
"""Lives of one test: 100,000 in the nightly profile, 4,000 otherwise."""

MOST: Final = 5000
"""Lives within which every planted fault has to be found."""


@pytest.fixture(scope="module", autouse=True)
def machine() -> Iterator[None]:
    """Guardian and warden stand on the simulated kernel; its garbage is collected by the batch."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with installed():
            yield
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_lives(batch: int) -> None:
    """Whatever happens to a task, its guardian, its warden and its host, the invariants hold."""
    parts = Parts()
    begun = time.process_time()
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        try:
            Life(seed, parts).live()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    gc.collect()
    print(f"{BATCH / (time.process_time() - begun):.0f} lives per second of processor time")


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_faults_are_found(name: str) -> None:
    """Each planted fault breaks an invariant in one of the first lives."""
    with MUTANTS[name].planted() as parts:
        for seed in range(MOST):
            try:
                Life(seed, parts).live()
            except Wrong as error:
                print(f"{name}: seed {seed}: {error}")
                gc.collect()
                return
    pytest.fail(f"{MOST} lives, and nobody has noticed: {name}")


def test_same_seed_same_life() -> None:
    """A life depends on nothing but its seed."""
    for seed in (3, 14, 159):
        lives = []
        for _ in range(2):
            life = Life(seed, Parts())
            life.live()
            lives.append((life.kernel.now, life.outcome, [e.name for e in life.run_.events]))
        assert lives[0] == lives[1]

"""Tests of the rests that a loop takes when floods leave it no processor."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import anyio
import pytest

from eventbus_tasks import _pump
from eventbus_tasks._pump import OutputPump, Turn
from eventbus_tasks._restraint import (
    LONGEST_REST,
    SHORTEST_REST,
    WAITED,
    ProcessorWait,
    Restraint,
)


def test_no_rest_with_processors_enough() -> None:
    """A loop that never waits for a processor never rests."""
    restraint = Restraint(lambda: 1.0)
    assert [restraint.next_rest() for _ in range(5)] == [0.0] * 5


def test_rests_grow_while_waiting() -> None:
    """Each round before which the loop had to wait doubles the rest, up to the longest."""
    waited = 0.0

    def count() -> float:
        nonlocal waited
        waited += 2 * max(WAITED, LONGEST_REST / 20)
        return waited

    restraint = Restraint(count)
    rests = [restraint.next_rest() for _ in range(12)]
    assert rests[:3] == [0.0, SHORTEST_REST, 2 * SHORTEST_REST]
    assert rests == sorted(rests)
    assert rests[-1] == LONGEST_REST


def test_rests_end_when_nobody_else_wants_the_processor() -> None:
    """Rests become shorter once the loop does not wait any more, and then there are none."""
    counts = iter([0.0, 1.0] + [1.0] * 100)
    restraint = Restraint(lambda: next(counts))
    rests = [restraint.next_rest() for _ in range(100)]
    assert rests[1] == SHORTEST_REST
    assert rests[1:] == sorted(rests[1:], reverse=True)
    assert rests[-1] == 0.0


def test_waiting_is_forgotten_when_the_floods_are_over() -> None:
    """What the loop waited for between two crowds does not make the second one rest."""
    counts = iter([0.0, 1.0, 9.0, 9.0])
    restraint = Restraint(lambda: next(counts))
    assert [restraint.next_rest(), restraint.next_rest()] == [0.0, SHORTEST_REST]
    restraint.end()
    assert [restraint.next_rest(), restraint.next_rest()] == [0.0, 0.0]


def test_waiting_is_what_the_kernel_counts() -> None:
    """A thread that shares a processor with a busy process has waited for it."""
    found: list[float] = []

    def share() -> None:
        processor = {min(os.sched_getaffinity(0))}
        os.sched_setaffinity(0, processor)  # of this thread, and of what it starts
        waited = ProcessorWait()
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) as busy:
            try:
                before, until = waited(), time.monotonic() + 30.0
                while waited() < before + 0.01 and time.monotonic() < until:
                    pass
                found.append(waited() - before)
            finally:
                busy.kill()
        waited.close()
        found.append(waited())

    if not os.path.exists("/proc/self/schedstat"):
        pytest.skip("a kernel without CONFIG_SCHED_INFO counts nothing")
    thread = threading.Thread(target=share)
    thread.start()
    thread.join()
    assert found[0] >= 0.01
    assert found[1] == 0.0  # once it is closed, nobody knows


async def _rounds_of_floods(floods: int, seconds: float) -> int:
    """Return how often the turns of endless floods were called."""
    pump = OutputPump()
    turns = 0

    def turn() -> Turn:
        nonlocal turns
        turns += 1
        time.sleep(_pump.BUDGET_OF_FLOODS / 4)  # what handing out a piece takes
        return Turn.MORE

    bells = [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(floods)]
    async with anyio.create_task_group() as group:
        group.start_soon(pump.run)
        for bell in bells:
            group.start_soon(pump.follow, bell, turn)
        await anyio.sleep(seconds)
        pump.close()
        group.cancel_scope.cancel()
    for bell in bells:
        os.close(bell)
    return turns


@pytest.mark.anyio
async def test_a_crowd_of_floods_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floods on every processor make a loop that has to wait rest; a single one does not."""
    monkeypatch.setattr(ProcessorWait, "__call__", lambda _: time.monotonic())
    crowd = len(os.sched_getaffinity(0)) + 1
    many, one = await _rounds_of_floods(crowd, 0.3), await _rounds_of_floods(1, 0.3)
    assert many < one / 2

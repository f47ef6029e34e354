"""Programs that race for one project: one winner each time, and none outlives its family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from eventbus_tasks.testing import Identity

ROUNDS: Final = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 15
CRASHES: Final = 20 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 2
PATIENCE: Final = 60.0
"""Seconds after which a test gives up: guards against a hang."""

RACER: Final = """\
import json, signal, sys
import anyio, anyio.to_thread
from eventbus_tasks import ProjectBusyError, Step, TaskEngine, TaskStarted, TerminationPolicy

POLICY = TerminationPolicy(steps=(Step(signal=signal.SIGTERM, grace=0.1),), drain=0.1)

def say(**facts):
    print(json.dumps(facts), flush=True)

async def main(project):
    task = None
    async with TaskEngine(load_installed=False) as engine:
        say(ready=True)
        while word := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
            if word == "end":
                await task.cancel(now=True)
                say(ended=True)
                continue
            with engine.subscribe(TaskStarted) as stream:
                try:
                    task = await engine.spawn_task(
                        "race", argv=["sleep", "100000"], project_dir=project, policy=POLICY
                    )
                except ProjectBusyError as error:
                    say(won=False, holder=error.holder)
                else:
                    started = await anext(stream)
                    say(won=True, pid=started.pid)

anyio.run(main, sys.argv[1], backend=sys.argv[2])
"""


class Racer:
    """A program with an engine that is told when to go for the project."""

    def __init__(self, project: Path, backend: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RACER, str(project), backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.hear() == {"ready": True}

    def tell(self, word: str) -> None:
        """Say what to do."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Return its answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the racer has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it, and wait for that."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


@pytest.fixture(params=["asyncio", "trio"])
def racers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Racer]]:
    """Two programs, and more when a test has killed one."""
    made = [Racer(tmp_path, request.param) for _ in range(2)]
    yield made
    for racer in made:
        racer.close()


@pytest.mark.slow
def test_one_winner(racers: list[Racer]) -> None:
    """Of two programs that go for a project at the same instant exactly one gets it."""
    pids = {racer.process.pid for racer in racers}
    wins = dict.fromkeys(pids, 0)
    for number in range(ROUNDS):
        for racer in racers if number % 2 else reversed(racers):
            racer.tell("go")
        answers = [(racer, racer.hear()) for racer in racers]
        winners = [racer for racer, answer in answers if answer["won"]]
        assert len(winners) == 1, answers
        wins[winners[0].process.pid] += 1
        (holder,) = [answer["holder"] for _, answer in answers if not answer["won"]]
        # A loser of the first round may be quicker than what the winner writes about itself.
        assert holder.get("host_pid") in (pids if number else {*pids, None})
        winners[0].tell("end")
        assert winners[0].hear() == {"ended": True}
    print(f"{ROUNDS} races, wins: {sorted(wins.values())}")


@pytest.mark.slow
def test_killed_winner_frees_the_project(
    racers: list[Racer], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The project of a killed host is free as soon as, and not before, its family is gone."""
    backend = request.node.callspec.params["racers"]
    slowest = 0.0
    for _ in range(CRASHES):
        holder, other = racers
        holder.tell("go")
        leader = Identity.of(holder.hear()["pid"])
        other.tell("go")
        assert other.hear()["holder"]["host_pid"] == holder.process.pid
        begun = time.monotonic()
        holder.process.kill()
        while True:
            other.tell("go")
            if other.hear()["won"]:
                break
            assert time.monotonic() < begun + PATIENCE, "the project does not become free"
        slowest = max(slowest, time.monotonic() - begun)
        assert not leader.is_alive
        other.tell("end")
        assert other.hear() == {"ended": True}
        holder.close()
        racers[:] = [other, Racer(tmp_path, backend)]
    print(f"{CRASHES} crashes, free after {slowest:.3f} s at most")

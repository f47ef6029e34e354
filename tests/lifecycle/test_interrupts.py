"""Ctrl-C, wherever it arrives: the program gets it, and the engine ends in the regular way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

GUARD: Final = 60.0
"""Seconds after which a program is taken for stuck; nothing is ever measured by it."""

PROGRAM: Final = """
import json, signal, sys
from pathlib import Path
import anyio
from eventbus_tasks import Settings, Step, TaskEngine, TerminationPolicy

moment, backend, times, directory = sys.argv[1:]
told = []
policy = TerminationPolicy(steps=(Step(signal=signal.SIGTERM, grace=0.5),))

def interrupt(event):
    told.append(event.name)
    if len(told) <= int(times):
        signal.raise_signal(signal.SIGINT)

async def main():
    async with TaskEngine(Settings.load(), load_installed=False) as engine:
        getattr(engine.signals, moment).connect(interrupt)
        getattr(engine.signals, "task_stopping").connect(interrupt)
        argv = ["sh", "-c", "trap '' TERM; while :; do echo line; sleep 0.01; done"]
        task = await engine.spawn_task("t", argv=argv, project_dir=directory, policy=policy)
        ends.append(task)
        await anyio.sleep_forever()

ends = []
try:
    anyio.run(main, backend=backend)
except BaseException as error:
    # Trio wraps what leaves a block with tasks of its own.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    interrupted = type(error).__name__
(task,) = ends
outcome = task.outcome
print(json.dumps([interrupted, outcome and outcome.reason.value, len(told), task.pid]))
"""


@pytest.mark.parametrize("moment", ["output_received", "output_line", "task_started"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_the_tasks_of_the_engine(tmp_path: Path, backend: str, moment: str) -> None:
    """One that arrives while the engine hands out an event hangs nothing, nor do more of them."""
    # The second one breaks the loop of asyncio itself, whatever runs in it.
    times = {"asyncio": "1", "trio": "3"}[backend]
    run = [sys.executable, "-c", PROGRAM, moment, backend, times, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(run, env=env, stdout=subprocess.PIPE, timeout=GUARD, check=True)
    interrupted, reason, told, pid = json.loads(done.stdout)
    assert interrupted == "KeyboardInterrupt"
    assert reason == "engine_closed"
    assert told >= 2
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)

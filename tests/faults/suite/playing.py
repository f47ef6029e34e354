"""The main function of a host process: plays one scenario and says how it went."""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import sys
import traceback
from pathlib import Path

import anyio

from eventbus_tasks.testing import leak_guard
from tests.faults.suite.registry import Scenario, find
from tests.faults.suite.scene import Scene

__all__ = ["main"]


def main(number: str, backend: str, directory: str) -> None:
    """Play, and leave ``result.json`` in the directory."""
    scenario = find(number)
    place = Path(directory)
    result: dict[str, str] = {}
    try:
        result["seen"] = _play(scenario, Scene(place, backend, survivors=scenario.survivors))
    except BaseException:
        result["error"] = traceback.format_exc()
        raise
    finally:
        (place / "result.json").write_text(json.dumps(result))


def _play(scenario: Scenario, scene: Scene) -> str:
    play = scenario.play
    assert play is not None
    guard = contextlib.nullcontext if scenario.leaky else leak_guard
    if not inspect.iscoroutinefunction(play):
        with guard():
            seen = play(scene)
            assert isinstance(seen, str)
            scene.close()
        return seen

    async def run() -> str:
        with guard():
            answer = await play(scene)
            scene.close()
            gc.collect()
        return str(answer)

    options = {"debug": True} if scene.backend == "asyncio" else {}
    return anyio.run(run, backend=scene.backend, backend_options=options)


if __name__ == "__main__":
    main(*sys.argv[1:])

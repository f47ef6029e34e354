"""What the tests of this plugin share: a scripted opencode, and a run of it in a real engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import eventbus_tasks_opencode
import pytest

from eventbus_tasks.testing.agents import AgentRun, ScriptedCli, ScriptStep, play_agent

# Test folders have no __init__.py, so they import what stands beside them by its plain name.
sys.path.insert(0, str(Path(__file__).parent))

PLUGINS = {"opencode": eventbus_tasks_opencode}


@pytest.fixture
def fake(tmp_path: Path) -> ScriptedCli:
    """Install the scripted opencode."""
    return ScriptedCli(tmp_path / "bin", "opencode")


@pytest.fixture
def play(fake: ScriptedCli, tmp_path: Path) -> Any:
    """Run the scripted opencode in a real engine, to its end."""
    project = tmp_path / "project"
    project.mkdir()

    async def play(*steps: ScriptStep, **request: Any) -> AgentRun:
        return await play_agent(fake, steps, project, agent="opencode", plugins=PLUGINS, **request)

    return play

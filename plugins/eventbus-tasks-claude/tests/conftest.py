"""What the tests of this plugin share: a scripted Claude, and a run of it in a real engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import eventbus_tasks_claude
import pytest

from eventbus_tasks.testing.agents import AgentRun, ScriptedCli, ScriptStep, play_agent

# Test folders have no __init__.py, so they import what stands beside them by its plain name.
sys.path.insert(0, str(Path(__file__).parent))

PLUGINS = {"claude": eventbus_tasks_claude}


@pytest.fixture
def fake(tmp_path: Path) -> ScriptedCli:
    """Install the scripted Claude."""
    return ScriptedCli(tmp_path / "bin", "claude")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make an empty project directory."""
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


@pytest.fixture
def play(fake: ScriptedCli, project: Path) -> Any:
    """Run the scripted Claude in a real engine, to its end."""

    async def play(*steps: ScriptStep, **request: Any) -> AgentRun:
        request.setdefault("plugins", PLUGINS)
        return await play_agent(fake, steps, project, agent="claude", **request)

    return play

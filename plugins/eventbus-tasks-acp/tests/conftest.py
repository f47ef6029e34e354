"""What the tests of this plugin share: a scripted agent, and a run of it in a real engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

# Test folders have no __init__.py, so they import what stands beside them by its plain name.
sys.path.insert(0, str(Path(__file__).parent))

from talking import Talk


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    """Return the scripted agent, and what is needed to talk to it."""
    return Talk(tmp_path)


@pytest.fixture
def play(talk: Talk) -> Any:
    """Run the scripted agent in a real engine, to its end."""
    return talk.play

"""Fixtures of the tests of this plugin."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Test folders have no __init__.py, so they import what stands beside them by its plain name.
sys.path.insert(0, str(Path(__file__).parent))

from voice_kit import Mouth


@pytest.fixture
def mouth(tmp_path: Path) -> Mouth:
    """Make the place where scripted synthesizers write."""
    directory = tmp_path / "mouth"
    directory.mkdir()
    os.mkfifo(directory / "gate")
    return Mouth(directory)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make an empty project directory."""
    directory = tmp_path / "project"
    directory.mkdir()
    return directory

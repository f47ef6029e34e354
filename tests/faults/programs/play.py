"""Starts a host: ``play.py NUMBER BACKEND DIRECTORY``. Never shows the checkout to the imports."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

# The repository is not on the path, so that what is installed is what is tested.
HERE = Path(__file__).resolve().parents[1]
for name, place in (
    ("tests", HERE.parent),
    ("tests.faults", HERE),
    ("tests.faults.suite", HERE / "suite"),
):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [str(place)]

importlib.import_module("tests.faults.suite.playing").main(*sys.argv[1:])

"""The numbered scenarios of the fault suite, each in a host process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.suite.outside import missing_need, run_scenario
from tests.faults.suite.registry import BOTH, Scenario, everything

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
"""By night every scenario runs on both kinds of event loops."""


def cases() -> list[Any]:
    """Return every scenario with every event loop that it runs on."""
    found = []
    for one in everything():
        marks = [pytest.mark.slow]
        if one.bug:
            marks.append(pytest.mark.xfail(reason=one.bug, strict=True))
        if "root" in one.needs:
            marks.append(pytest.mark.root)
        if one.reason:
            continue
        backends = BOTH if NIGHTLY and not one.fixed else one.backends
        found += [pytest.param(one, b, id=f"{one.number}-{b}", marks=marks) for b in backends]
    return found


@pytest.mark.parametrize(("scenario", "backend"), cases())
def test_scenario(
    scenario: Scenario,
    backend: str,
    tmp_path: Path,
    private_state: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """What the scenario requires holds, and nothing of it is left, whatever happens."""
    if missing := missing_need(scenario):
        pytest.skip(missing)
    record_property("seen", run_scenario(scenario, backend, tmp_path, private_state))


def test_suite_is_complete() -> None:
    """Every number of the plan is there, and at least 95 of them are automated."""
    counts = {"S": 16, "T": 15, "K": 26, "P": 14, "B": 12, "H": 15, "I": 9, "C": 9}
    planned = [f"{area}{n:02}" for area, count in counts.items() for n in range(1, count + 1)]
    assert [one.number for one in everything()] == planned
    assert sum(not one.reason for one in everything()) >= 95
    assert all(one.play is None for one in everything() if one.reason)

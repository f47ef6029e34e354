"""The example of a plugin for an agent: its wheel is installed, used, and keeps the contracts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "ebt_echo_agent"


@pytest.fixture(scope="module")
def site(make_site: Any) -> Any:
    """Return an environment with the core and the example."""
    return make_site(EXAMPLE)


def test_agent_of_a_stranger_is_driven(site: Any, work: Path) -> None:
    """`ebt run --agent` uses it: typed events, the answer, and a success that it has judged."""
    done = site.ebt("run", "--agent", "echo", "--json", "--help me", cwd=work)
    if done.returncode == 2:  # a prompt that looks like a flag stands behind --
        done = site.ebt("run", "--agent", "echo", "--json", "--", "--help me", cwd=work)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    names = [event["event"] for event in events if event["event"].startswith("agent.")]
    assert names == ["agent.message", "agent.result"]
    assert events[-1]["outcome"]["result"] == "--HELP ME"
    assert site.ebt("run", "--agent", "echo", "hello", cwd=work).stdout == "hello\nHELLO\n"


def test_agent_of_a_stranger_is_listed(site: Any, work: Path) -> None:
    """`ebt agents` has it, with the version of its program."""
    done = site.ebt("agents", "--json", cwd=work)
    (item,) = json.loads(done.stdout)
    assert (item["agent"], item["ok"]) == ("echo", True)


def test_example_keeps_the_contracts(site: Any, work: Path) -> None:
    """The conformance classes for builders and interpreters pass for the installed wheel."""
    site.pip("install", "--quiet", "pytest", "trio")
    shutil.copy(EXAMPLE / "tests" / "test_echo.py", work)
    done = site.run("-m", "pytest", "-q", "-W", "error", "test_echo.py", cwd=work)
    assert done.returncode == 0, done.stdout


def test_example_is_short() -> None:
    """A plugin for an agent takes 40 lines, imports and the stand-in for an agent included."""
    lines = [line for line in (EXAMPLE / "ebt_echo_agent.py").read_text().splitlines() if line]
    assert len(lines) <= 40, len(lines)

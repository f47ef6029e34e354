"""The same program, with each agent in turn, prints the same kinds of events."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from eventbus_tasks.testing.agents import ScriptedCli, ScriptStep

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "agents" / "README.md"
PATIENCE: Final = 120

NEEDED: Final = {"acp", "claude", "codex", "gemini", "opencode"}

pytestmark = pytest.mark.skipif(
    not {entry.name for entry in metadata.entry_points(group="eventbus_tasks")} >= NEEDED,
    reason="needs the plugins installed: tox run -e integration",
)

Scenario = Callable[[ModuleType], list[ScriptStep]]

# Each looks at the files with a tool, and answers.
SCENARIOS: Final[dict[str, Scenario]] = {
    "claude": lambda fake: [
        fake.init(),
        fake.tool_use("t1", "Bash", command="ls"),
        fake.tool_result("t1", "a file"),
        fake.text("A file."),
        fake.result("A file."),
    ],
    "codex": lambda fake: [
        fake.thread(),
        fake.turn(),
        fake.command("started", "ls", status="in_progress"),
        fake.command("completed", "ls", status="completed", code=0, output="a file"),
        fake.message("A file."),
        fake.done(),
    ],
    "gemini": lambda fake: [
        fake.init(),
        fake.echo(),
        fake.tool_use("t1", "run_shell_command", command="ls"),
        fake.tool_result("t1", "a file"),
        fake.piece("A "),
        fake.piece("file."),
        fake.result(),
    ],
    "opencode": lambda fake: [
        fake.start(),
        fake.tool("bash", {"command": "ls"}, output="a file"),
        fake.finish("tool-calls"),
        fake.start(),
        fake.text("A file."),
        fake.finish(),
    ],
}


def load_fake(agent: str) -> Any:
    """Import what the plugin of an agent has for its own tests: the shapes of its events."""
    path = ROOT / "plugins" / f"eventbus-tasks-{agent}" / "tests" / f"fake_{agent}.py"
    spec = importlib.util.spec_from_file_location(f"shapes_of_{agent}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def program() -> str:
    """Return the program of the page, which has five lines within its function."""
    (text,) = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    body = text.partition("async def main():\n")[2].partition("\n\n")[0]
    assert len(body.splitlines()) == 5
    return str(text)


def install(agent: str, directory: Path) -> dict[str, str]:
    """Put a scripted agent in the place of the real one; return the variables to reach it."""
    fake = load_fake(agent)
    if agent != "acp":
        return ScriptedCli(directory / "bin", agent).environment(*SCENARIOS[agent](fake))
    scripted = fake.FakeAgent(directory / "bin")
    config = directory / "config.toml"
    config.write_text(f"[acp.agents.acp-fake]\ncommand = ['{scripted.executable}']\n")
    return {"EBT_CONFIG": str(config), "AGENT": "acp-fake", **scripted.environment()}


@pytest.mark.parametrize("agent", sorted(NEEDED))
def test_same_events(agent: str, tmp_path: Path) -> None:
    """Session, tool, message and result come in the same order, whichever agent it is."""
    project = tmp_path / "project"
    project.mkdir()
    text = program()
    if agent == "acp":  # the scripted one does what its prompt says, step by step
        text = text.replace("List the files.", r"tool t1 ls\nsay A file.")
    environ = {**os.environ, "AGENT": agent, **install(agent, tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=project,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # What it costs is told at different times, and a message may come in pieces.
    kinds = [kind for kind, _ in groupby(done.stdout.split()) if kind != "AgentUsage"]
    assert kinds == [
        "AgentSession",
        "AgentToolStarted",
        "AgentToolFinished",
        "AgentMessage",
        "AgentResult",
    ]

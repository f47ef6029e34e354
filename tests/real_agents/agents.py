"""Which real agents are driven by the same tests, and where each of them works."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pytest

from eventbus_tasks import Task, TaskEngine
from eventbus_tasks.testing.agents import (
    CLAUDE,
    CLAUDE_ACP,
    CODEX,
    CODEX_ACP,
    COPILOT,
    GEMINI,
    OPENCODE,
    CliPackage,
    CliUnavailableError,
    FakeModelAPI,
    find_cli,
    isolated_environment,
)

from .conftest import INSTALLED, Stage

__all__ = ["AGENTS", "Agent", "AgentStage", "open_stage"]


@dataclass(frozen=True, kw_only=True)
class Agent:
    """One agent.

    Attributes:
        cli: Its program.
        plugin: The plugin that drives it; its own name by default.
        known_as: What it is called there, if not by its key here.
        rights: Options with which it may do everything.
        shell: What its shell tool is called in events.
        knows_status: It tells the exit status of a command.
        hides_401: It replaces the API's words by its own, where they mean that nobody is logged in.
        forgets: It loses a session that is resumed in the minute in which it began.
    """

    cli: CliPackage
    plugin: str = ""
    known_as: str = ""
    rights: Mapping[str, Any] = field(default_factory=dict)
    shell: str
    knows_status: bool = True
    hides_401: bool = False
    forgets: bool = False


AGENTS: Final = {
    "codex": Agent(cli=CODEX, rights={"full_access": True}, shell="shell"),
    "gemini": Agent(cli=GEMINI, rights={"approval_mode": "yolo"}, shell="run_shell_command"),
    "opencode": Agent(cli=OPENCODE, rights={"auto": True}, shell="bash"),
    "claude-acp": Agent(
        cli=CLAUDE_ACP,
        plugin="acp",
        rights={"mode": "bypassPermissions"},
        shell="Bash",
        hides_401=True,
    ),
    "codex-acp": Agent(
        cli=CODEX_ACP,
        plugin="acp",
        rights={"mode": "agent-full-access"},
        shell="exec_command",
        hides_401=True,
    ),
    "gemini-acp": Agent(
        cli=GEMINI,
        plugin="acp",
        rights={"mode": "yolo"},
        shell="execute",
        knows_status=False,
        forgets=True,
    ),
    "opencode-acp": Agent(cli=OPENCODE, plugin="acp", shell="execute"),
}

# Those that are not in every test: Claude has its own, and nothing of Copilot is known to a plugin.
OTHERS: Final = {
    "claude": Agent(cli=CLAUDE, rights={"allowed_tools": ["Bash", "Write"]}, shell="Bash"),
    "copilot": Agent(
        cli=COPILOT,
        plugin="acp",
        known_as="acp",
        rights={"command": ["copilot", "--acp", "--allow-all-tools"]},
        shell="execute",
    ),
}


def _known(name: str) -> Agent:
    return {**AGENTS, **OTHERS}[name]


@dataclass
class AgentStage(Stage):
    """Where one of these agents works.

    Attributes:
        name: The agent.
    """

    name: str = ""

    @property
    def agent(self) -> Agent:
        """What is known about it."""
        return _known(self.name)

    async def spawn(
        self, engine: TaskEngine, prompt: str, *, project: str = "project", **request: Any
    ) -> Task:
        """Start a task for the agent, which may do everything, unless the request has options."""
        options = {**self.agent.rights, **request.pop("options", {})}
        return await engine.spawn_task(
            "work",
            prompt,
            self.project(project),
            agent=self.agent.known_as or self.name,
            options=options,
            **request,
        )


@contextlib.contextmanager
def open_stage(
    name: str, api: FakeModelAPI, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AgentStage]:
    """Make this process's environment one in which an agent knows nobody but our model."""
    if INSTALLED is None:
        pytest.skip("drives the real agents: tox run -e real-agents")
    agent = _known(name)
    plugin = agent.plugin or name
    if plugin not in {entry.name for entry in metadata.entry_points(group="eventbus_tasks")}:
        pytest.skip(f"needs the plugin {plugin} installed")
    try:
        program = find_cli(agent.cli, Path(INSTALLED))
    except CliUnavailableError as error:
        pytest.skip(str(error))
    environment = isolated_environment(directory / "user", api.url)
    if os.geteuid() == 0:
        environment["IS_SANDBOX"] = "1"  # or Claude's adapter opens no session for root
    for variable in set(os.environ) - set(environment):
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert shutil.which(agent.cli.program) == str(program)
    opened = AgentStage(api, directory, name=name)
    try:
        yield opened
    finally:
        opened.close()

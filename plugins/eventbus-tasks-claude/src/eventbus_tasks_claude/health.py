"""Whether Claude Code can work on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from eventbus_tasks.agents import AgentHealth, KnownBug, check_program
from eventbus_tasks_claude.options import ClaudeSettings

__all__ = ["check"]

# From the changelog of Claude Code, and measured.
_BUGS: Final = (
    KnownBug(what="loses the end of its output on a slow pipe; it gets a file", fixed="2.1.214"),
    KnownBug(what="leaves its tools running on SIGTERM; they are swept", fixed="2.1.212"),
)

_VARIABLES: Final = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
)


def check(settings: ClaudeSettings) -> AgentHealth:
    """Look for the program, ask for its version, and look for a login; asks no model."""
    home = Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")
    return check_program(
        "claude",
        "claude",
        wanted=settings.executable,
        known_bugs=_BUGS,
        variables=_VARIABLES,
        files=(home / ".credentials.json",),
    )

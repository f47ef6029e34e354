"""Whether Codex can work on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from eventbus_tasks.agents import AgentHealth, KnownBug, check_program
from eventbus_tasks_codex.command import CodexSettings

__all__ = ["check"]

# Measured with 0.169.0.
_BUGS: Final = (
    KnownBug(what="leaves grandchildren of its tools running on SIGTERM; they are swept"),
)


def check(settings: CodexSettings) -> AgentHealth:
    """Look for the program, ask for its version, and look for a login; asks no model."""
    home = Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex")
    return check_program(
        "codex",
        "codex",
        wanted=settings.executable,
        known_bugs=_BUGS,
        variables=("CODEX_API_KEY", "OPENAI_API_KEY", "CODEX_ACCESS_TOKEN"),
        files=(home / "auth.json",),
    )

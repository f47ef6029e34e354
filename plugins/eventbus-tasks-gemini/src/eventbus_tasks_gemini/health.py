"""Whether Gemini CLI can work on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from eventbus_tasks.agents import AgentHealth, KnownBug, check_program
from eventbus_tasks_gemini.command import GeminiSettings

__all__ = ["check"]

# Measured with 0.61.0.
_BUGS: Final = (
    KnownBug(what="loses the end of its output on a slow pipe; it gets a file"),
    KnownBug(what="leaves its tools running on any signal; they are swept"),
    KnownBug(what="exits with 0 after a signal; its result decides"),
)


def check(settings: GeminiSettings) -> AgentHealth:
    """Look for the program, ask for its version, and look for a login; asks no model."""
    home = Path(os.environ.get("GEMINI_CLI_HOME") or Path.home()) / ".gemini"
    return check_program(
        "gemini",
        "gemini",
        wanted=settings.executable,
        known_bugs=_BUGS,
        variables=("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"),
        files=(home / "oauth_creds.json",),
    )

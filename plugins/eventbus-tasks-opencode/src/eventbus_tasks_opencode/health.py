"""Whether opencode can work on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from eventbus_tasks.agents import AgentHealth, KnownBug, check_program
from eventbus_tasks_opencode.command import OpencodeSettings

__all__ = ["check"]

# Measured with 1.18.33.
_BUGS: Final = (
    KnownBug(what="loses the end of its output on a slow pipe; it gets a file"),
    KnownBug(what="leaves its tools running on any signal; they are swept"),
)


def check(settings: OpencodeSettings) -> AgentHealth:
    """Look for the program, ask for its version, and look for a login; asks no model.

    opencode takes keys for dozens of providers, and has models that need none: where no login is
    found, nothing is known.
    """
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return check_program(
        "opencode",
        "opencode",
        wanted=settings.executable,
        known_bugs=_BUGS,
        variables=("OPENCODE_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"),
        files=(data / "opencode" / "auth.json",),
    )

"""The stop ladders of known agents, as data: what was measured with the real programs.

Every one of these agents starts the shell of its tools in a session of its own, so a signal to
the agent's process group does not reach them; and which signal makes the agent itself end them
differs. The rungs below begin with the signal that the agent tidies up for, and go on to the
whole tree. ``SIGKILL`` to everything that is left follows by itself, always.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["AGENT_LADDERS", "DEFAULT_GRACE", "DEFAULT_LADDER"]

DEFAULT_GRACE: Final = 5.0
"""Seconds of a rung that names none. Agents needed up to 1.9 s to end their tools; 2 s is tight."""

DEFAULT_LADDER: Final = ("TERM:tree",)
"""For plain commands, and for agents that are not in the table."""

# A ladder comes to SIGKILL within 8 s, so that nothing is left 10 s after the death of a host.
AGENT_LADDERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # SIGINT to the leader: it ends its tools and still writes its final event. On SIGTERM
        # older versions leave the tools running, and no version writes that event.
        "claude": ("INT:leader", "TERM:tree:3"),
        # SIGINT cleans up; SIGTERM leaves the grandchildren of a tool. Its node launcher passes
        # SIGINT on. Repeated, because one that comes before the handlers are up is lost. Servers of
        # its own are in groups of their own: the last rung is for them.
        "codex": ("INT:leader:2.5", "INT:group:2.5", "TERM:tree:2"),
        # The launcher swallows what is sent to the leader alone. A SIGTERM that comes 0.75 to
        # 1.3 s after the start is ignored for ever; the second one works. It never ends its
        # tools, so they get the signal, too.
        "gemini": ("TERM:tree:2", "TERM:tree"),
        # Ends at once on any signal, and leaves its tools running after each of them.
        "opencode": ("TERM:tree",),
        # SIGTERM to the leader alone ends only the launcher. To the group: the program itself
        # tidies up, which takes its time.
        "copilot": ("TERM:group", "TERM:tree"),
        # Ends in an orderly way on SIGINT (0.6 to 1.2 s); SIGTERM kills it in mid-edit.
        "aider": ("INT:leader", "TERM:tree:3"),
    }
)

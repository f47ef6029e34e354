"""What the core itself answers to its hooks, written as plugins.

Installed plugins are asked before these, so each of them can be replaced.
"""

from __future__ import annotations

from eventbus_tasks.builtin import command, describe, permissions, termination, unnamed_log

__all__ = ["plugins"]


def plugins() -> tuple[tuple[str, object], ...]:
    """Return ``(name, plugin)``; the last one is asked first."""
    return (
        ("core-describe", describe),
        ("core-permissions", permissions),
        ("core-termination", termination),
        ("core-log", unnamed_log),
        ("core-command", command),
    )

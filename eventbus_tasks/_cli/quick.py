"""Commands of plugins that can be found without loading every plugin.

Loading all of them takes longer than most such commands take. So a distribution may name its
commands a second time, as entry points of the group ``eventbus_tasks.commands``: name of the
command, and the ``configure(parser)`` that it gives to ``ebt_register_commands`` as well. Where
anything about such a command is not plain, everything is loaded, and the reason is said then.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from eventbus_tasks import Settings

if TYPE_CHECKING:
    import argparse

__all__ = ["COMMANDS", "find_configure"]

PLUGINS: Final = "eventbus_tasks"
COMMANDS: Final = "eventbus_tasks.commands"


def find_configure(command: str) -> tuple[Callable[[argparse.ArgumentParser], Any], str] | None:
    """Return what adds the arguments of a command, and whose it is, if that is plain to see.

    Raises:
        SettingsError: The user's settings are wrong.
    """
    found = list(metadata.entry_points(group=COMMANDS, name=command))
    if len(found) != 1 or found[0].dist is None:
        return None
    owners = [entry.name for entry in found[0].dist.entry_points if entry.group == PLUGINS]
    settings = Settings.load()
    for owner in owners:
        allowed = settings.plugins is None or owner in settings.plugins
        if not allowed or owner in settings.disable_plugins:
            return None
    if not owners:
        return None
    try:
        return found[0].load(), owners[0]
    except Exception:  # noqa: BLE001 - it is loaded once more, and reported as what it is
        return None

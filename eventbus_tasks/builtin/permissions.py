"""Permissions by the names of tools: the settings ``allow_tools`` and ``deny_tools``."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from eventbus_tasks.conversation import AgentAnswer, Allow, Deny
from eventbus_tasks.hookspecs import hookimpl

if TYPE_CHECKING:
    from eventbus_tasks.events import AgentInputRequired
    from eventbus_tasks.task import Task


@hookimpl(trylast=True)
def ebt_answer_agent(task: Task, request: AgentInputRequired) -> AgentAnswer | None:
    """Answer for tools that the user has named, once for each use; leave others to people."""
    if request.kind != "permission" or not request.tool:
        return None
    settings = task.settings
    if any(fnmatchcase(request.tool, pattern) for pattern in settings.deny_tools):
        return Deny("It is forbidden by the setting deny_tools.")
    if any(fnmatchcase(request.tool, pattern) for pattern in settings.allow_tools):
        return Allow()
    return None

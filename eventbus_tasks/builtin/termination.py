"""The default policy: SIGTERM to the whole tree, five seconds, SIGKILL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus_tasks.hookspecs import hookimpl
from eventbus_tasks.policies import TerminationPolicy

if TYPE_CHECKING:
    from eventbus_tasks.task import Task


@hookimpl(trylast=True)
def ebt_termination_policy(task: Task) -> TerminationPolicy:
    """Answer for every task that no plugin has a policy for."""
    return TerminationPolicy()

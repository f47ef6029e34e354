"""The agent `claude`, played by a shell: it does what the prompt says, as a script.

An installed plugin as far as the core can see: this folder is put on the path, and the folder
beside this file is what an installer leaves.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from eventbus_tasks import Command, Step, Task, TerminationPolicy, hookimpl


@hookimpl
def ebt_register_agents(register: Callable[[str, str], None]) -> None:
    """Name the agent that is meant when nobody names one."""
    register("claude", "a shell that does what the prompt says")


@hookimpl
def ebt_build_command(task: Task) -> Command | None:
    """Make a script of the prompt; not before the file `hold` has gone from the project."""
    if task.agent != "claude":
        return None
    while (task.project_dir / "hold").exists():
        time.sleep(0.005)  # in a worker thread, under the deadline of hooks
    return Command(argv=("/bin/sh", "-c", task.prompt))


@hookimpl
def ebt_termination_policy(task: Task) -> TerminationPolicy:
    """Have the shortest patience that still shows both rungs."""
    return TerminationPolicy(steps=(Step(signal=signal.SIGTERM, grace=0.5),))

"""What a guardian is told, which is prepared while the log of its task is being opened."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from eventbus_tasks._answers import about, current_umask, portable
from eventbus_tasks._process import wire
from eventbus_tasks._process.launch import image_of

if TYPE_CHECKING:
    from eventbus_tasks._process.visit import Place
    from eventbus_tasks.policies import TerminationPolicy
    from eventbus_tasks.request import Command
    from eventbus_tasks.task import Task

__all__ = ["Preparation"]

_TERM: Final = "xterm-256color"
"""What most programs know best, for a terminal whose kind nobody has named."""


class Preparation:
    """What a guardian is told, but for the descriptors.

    Args:
        task: Whose guardian it is.
        command: What to run.
        policy: How to end it.
    """

    def __init__(self, task: Task, command: Command, policy: TerminationPolicy) -> None:
        self._task = task
        self._command = command
        self._policy = policy
        self._made: tuple[wire.LaunchSpec, bytes] | None = None

    def make(self) -> None:
        """Prepare what can be. Whatever is in the way shows when it is needed."""
        if self._made is None:
            with contextlib.suppress(Exception):
                self._made = self._make()

    def complete(self, place: Place | None) -> wire.LaunchSpec:
        """Return the specification of a task that will be found at a place, if anywhere.

        Raises:
            OSError: There is no descriptor to be had.
        """
        self._made = self._made or self._make()
        path = None if place is None else place.path
        return replace(self._made[0], about=about(self._task), rendezvous=path)

    @property
    def image(self) -> bytes:
        """The program as it will be executed, of what is complete."""
        assert self._made is not None
        return self._made[1]

    def _make(self) -> tuple[wire.LaunchSpec, bytes]:
        command, task = self._command, self._task
        environ = dict(command.env if command.env is not None else os.environ)
        if command.capture == "pty":
            environ.setdefault("TERM", _TERM)
        spec = wire.LaunchSpec(
            uid=task.uid,
            argv=list(command.argv),
            cwd=str(command.cwd or task.project_dir),
            env=environ,
            umask=current_umask(),
            capture=command.capture,
            pty_size=command.pty_size,
            policy=self._policy.to_dict(),
            request=portable(task.request, command),
        )
        return spec, image_of(spec)

"""The agent sessions of one task: claimed before it works in them, given up at its end."""

from __future__ import annotations

import functools
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio

from eventbus_tasks._answers import my_identity
from eventbus_tasks._process.sessions import claim_session, release_session
from eventbus_tasks._threads import DeadlineExceededError
from eventbus_tasks.errors import SessionBusyError

if TYPE_CHECKING:
    from eventbus_tasks._services import Services
    from eventbus_tasks.task import Task

__all__ = ["SessionKeeper"]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")


class SessionKeeper:
    """Keeps other tasks out of the sessions of one task. Belongs to the loop of its engine.

    Args:
        task: The task.
        services: What the tasks of its engine share.
    """

    def __init__(self, task: Task, services: Services) -> None:
        self._task = task
        self._services = services
        self._claimed: list[str] = []
        self._guarded = False  # there is a guardian, and others can find it
        self._told: deque[str] = deque()
        self._news = anyio.Event()
        self._ended = False

    async def claim(self, session_id: str) -> None:
        """Claim a session, unless it is claimed already.

        Raises:
            SessionBusyError: Another task works in it.
        """
        if session_id and session_id not in self._claimed:
            await self._claim(session_id)
            self._claimed.append(session_id)

    async def guard(self) -> None:
        """Let the claims hold for as long as the guardian lives: there is one now."""
        self._guarded = True
        for session_id in self._claimed:
            await self._claim(session_id)

    async def _claim(self, session_id: str) -> None:
        ref = self._task.ref
        about = {
            "uid": ref.uid,
            "task": ref.id,
            "name": ref.name,
            "project_dir": ref.project_dir,
            "host_pid": os.getpid(),
        }
        if not self._guarded:
            about["host"] = my_identity()
        settings = self._services.settings
        try:
            holder = await self._services.plugins.run(
                functools.partial(claim_session, settings.state_dir, ref.agent, session_id, about),
                deadline=settings.hook_deadline,
                undo=lambda _: self._give_up(session_id),
                brief=True,
            )
        except (OSError, DeadlineExceededError) as error:
            # A disk that is full or stuck keeps nobody from working.
            logger.warning("the session %s of %r cannot be claimed: %s", session_id, ref, error)
            return
        if holder is not None:
            raise SessionBusyError(ref.agent, session_id, dict(holder))

    def note(self, session_id: str) -> None:
        """Take note of a session that the agent has told: `serve` claims it."""
        if session_id and session_id not in self._claimed and session_id not in self._told:
            self._told.append(session_id)
            self._news.set()

    async def serve(self) -> None:
        """Claim what the agent tells, until `end`."""
        while not self._ended:
            while self._told:
                try:
                    await self.claim(self._told[0])
                except SessionBusyError as error:
                    # It runs already: only its own arguments can have led it there.
                    where = f"session of {self._task.agent}"
                    self._services.bus.report(where, str(error), self._task.ref, overran=False)
                self._told.popleft()
            self._news = anyio.Event()
            if not self._ended:
                await self._news.wait()

    def end(self) -> None:
        """Have `serve` return."""
        self._ended = True
        self._news.set()

    async def release(self) -> None:
        """Give up everything: the task has ended."""
        if not self._claimed:
            return
        try:
            await self._services.plugins.run(
                self.abandon, deadline=self._services.settings.hook_deadline, endures=True
            )
        except DeadlineExceededError as error:
            logger.warning("sessions of %r cannot be given up: %s", self._task, error)

    def abandon(self) -> None:
        """Do what `release` does, from any thread; blocks for a moment."""
        while self._claimed:
            self._give_up(self._claimed.pop())

    def _give_up(self, session_id: str) -> None:
        ref = self._task.ref
        try:
            release_session(self._services.settings.state_dir, ref.agent, session_id, ref.uid)
        except OSError as error:
            logger.warning("the session %s of %r is not given up: %s", session_id, ref, error)

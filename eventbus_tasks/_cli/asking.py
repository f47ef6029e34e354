"""Asking the person at the terminal what an agent wants to know, and telling the agent."""

from __future__ import annotations

import os
import termios
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio

from eventbus_tasks import (
    AgentAnswer,
    AgentInputAnswered,
    AgentInputRequired,
    AgentResult,
    Allow,
    Answer,
    Deny,
    InputClosedError,
    RequestClosedError,
    TaskEvent,
    decode_line,
)
from eventbus_tasks._cli.messages import say

if TYPE_CHECKING:
    from eventbus_tasks import Task, TaskEngine
    from eventbus_tasks._cli.status import StatusLine

__all__ = ["Asker", "can_ask", "end_after_answer"]

_TERMINAL: Final = 0

_LOOK: Final = 0.5
"""Seconds between two looks whether we are in the foreground again."""


def can_ask() -> bool:
    """Whether somebody at our terminal can answer."""
    try:
        os.tcgetpgrp(_TERMINAL)
    except OSError:  # it is none, or another session's
        return False
    return True


def end_after_answer(engine: TaskEngine) -> None:
    """Have an agent that stays end after its answer: here it has one prompt, and no next one.

    Args:
        engine: Whose tasks are meant.
    """

    async def close(event: AgentResult) -> None:
        if not event.parent:
            await engine.get_task(event.task).close_input()

    engine.signals.agent_result.connect(close)


class Asker:
    """Asks one question after the other.

    Args:
        task: The task whose agent asks.
        status: Where questions are shown.
    """

    def __init__(self, task: Task, status: StatusLine) -> None:
        self._task = task
        self._status = status
        self._open: deque[AgentInputRequired] = deque()
        self._news = anyio.Event()
        self._asking: anyio.CancelScope | None = None
        self._asked = ""  # the request that a person is asked about

    def take(self, event: TaskEvent) -> None:
        """Take note of what is asked, and of what needs no answer any more."""
        if isinstance(event, AgentInputRequired) and event.deadline is not None:
            self._open.append(event)
            self._news.set()
        elif isinstance(event, AgentInputAnswered):
            if self._asking is not None and self._asked == event.request_id:
                self._asking.cancel()
            kept = (one for one in self._open if one.request_id != event.request_id)
            self._open = deque(kept)

    async def serve(self) -> None:
        """Ask, for as long as the task runs."""
        while True:
            while self._open:
                request = self._open.popleft()
                self._asked = request.request_id
                with anyio.CancelScope() as self._asking:
                    await self._put(request)
                self._asking = None
                await self._status.ask("")
            self._news = anyio.Event()
            await self._news.wait()

    async def _put(self, request: AgentInputRequired) -> None:
        try:
            answer = await self._read_answer(request)
        except (OSError, termios.error):
            # It has been hung up: nobody answers, and the signal for that ends the task.
            answer = Deny("Nobody is there to answer.")
        self._asking = None  # our own answer must not end the telling of it
        try:
            await self._task.answer(request, answer)
        except (RequestClosedError, InputClosedError) as error:
            say(str(error))

    async def _read_answer(self, request: AgentInputRequired) -> AgentAnswer:
        # Reading now would stop us, and no event tells when that has changed.
        while os.tcgetpgrp(_TERMINAL) != os.getpgrp():  # noqa: ASYNC110
            await anyio.sleep(_LOOK)
        # What was typed before the question is no answer to it.
        termios.tcflush(_TERMINAL, termios.TCIFLUSH)
        while True:
            await self._status.ask(_question(request))
            await anyio.wait_readable(_TERMINAL)
            line = os.read(_TERMINAL, 4096)
            answer = _understood(request, decode_line(line).strip()) if line else Deny()
            if answer is not None:
                return answer


def _question(request: AgentInputRequired) -> str:
    if request.kind == "permission":
        return f"{request.prompt}? [y/n]"
    choices = " / ".join(option.label or option.id for option in request.options)
    return f"{request.prompt} [{choices}]" if choices else f"{request.prompt} >"


def _understood(request: AgentInputRequired, words: str) -> AgentAnswer | None:
    """Return the answer, or ``None`` where it is to be asked once more."""
    if request.kind != "permission":
        return Answer(words) if words else None
    match words.casefold():
        case "y" | "yes":
            return Allow()
        case "n" | "no":
            return Deny("The user has said no.")
    return None

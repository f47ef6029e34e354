"""Talking to a Claude that stays: more prompts, interrupts, and answers to its questions."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakKeyDictionary

import anyio

from eventbus_tasks import InputClosedError, TaskNotFoundError
from eventbus_tasks.agents import object_in, parse_object

if TYPE_CHECKING:
    from eventbus_tasks import AgentInputRequired, Task, TaskEngine, TaskStarted
    from eventbus_tasks_claude.options import ClaudeSettings

__all__ = ["Decision", "Permissions", "answer", "interrupt", "say"]

Decision = Literal["allow", "deny"]
"""What a permission request can be answered with."""

_numbers = itertools.count(1)


async def say(task: Task, prompt: str) -> None:
    """Give a running Claude its next prompt; it works on it when the turn at hand has ended.

    Args:
        task: A task of the agent ``claude`` with the option ``interactive``.
        prompt: What it is told.

    Raises:
        InputClosedError: It is not interactive, or has ended.

    Cancellation: ends the waiting; a part may have been written.
    """
    content = [{"type": "text", "text": prompt}]
    await _send(task, {"type": "user", "message": {"role": "user", "content": content}})


async def interrupt(task: Task) -> None:
    """End the turn at hand and its tools; the session goes on with the next prompt.

    Returns when Claude was told. That it has ended its turn is told by an `AgentResult`.

    Args:
        task: A task of the agent ``claude`` with the option ``interactive``.

    Raises:
        InputClosedError: It is not interactive, or has ended.
    """
    request = {"subtype": "interrupt"}
    number = f"ebt-{next(_numbers)}"
    await _send(task, {"type": "control_request", "request_id": number, "request": request})


async def answer(
    task: Task, request: AgentInputRequired, decision: Decision, message: str = ""
) -> bool:
    """Answer a permission request; the first answer counts.

    Args:
        task: The task that asks.
        request: What it asked, as it came from the engine.
        decision: ``"allow"`` or ``"deny"``.
        message: With a denial, why, for the model.

    Returns:
        Whether this was the first answer: ``False`` if somebody, or the deadline, was faster.

    Raises:
        ValueError: The decision is neither of the two.
        InputClosedError: It is not interactive, or has ended.
    """
    if decision not in ("allow", "deny"):
        raise ValueError(f"the decision must be 'allow' or 'deny', not {decision!r}")
    pending = _request(task, request)
    if pending.is_set():
        return False
    pending.set()
    response: dict[str, Any] = {"behavior": "deny", "message": message or "It was not allowed."}
    if decision == "allow":
        asked = object_in(parse_object(request.raw) or {}, "request")
        response = {"behavior": "allow", "updatedInput": dict(object_in(asked, "input"))}
    outer = {"subtype": "success", "request_id": request.request_id, "response": response}
    await _send(task, {"type": "control_response", "response": outer})
    return True


# Whether each request of a task has been answered; nothing of it outlives the task.
_requests: Final[WeakKeyDictionary[Task, dict[str, anyio.Event]]] = WeakKeyDictionary()


def _request(task: Task, request: AgentInputRequired) -> anyio.Event:
    return _requests.setdefault(task, {}).setdefault(request.request_id, anyio.Event())


class Permissions:
    """Gives interactive tasks of one engine their first prompt, and denies what nobody answers.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: TaskEngine) -> None:
        self._engine = engine

    def connect(self) -> None:
        """Begin to look after the engine's tasks; ends with the engine."""
        self._engine.signals.task_started.connect(self._start)
        self._engine.signals.agent_input_required.connect(self._deny_late)

    async def _start(self, event: TaskStarted) -> None:
        task = self._interactive(event)
        if task is not None:
            await _quietly(say(task, task.prompt))

    async def _deny_late(self, event: AgentInputRequired) -> None:
        task = self._interactive(event)
        if task is None or event.kind != "permission":
            return
        from eventbus_tasks_claude.options import ClaudeSettings

        settings: ClaudeSettings = task.settings.table(ClaudeSettings)
        pending = _request(task, event)
        # Requests come one after the other, so waiting for them in order makes none late.
        with anyio.move_on_after(settings.permission_deadline):
            await pending.wait()
        if not pending.is_set():
            await _quietly(answer(task, event, "deny", "Nobody has answered in time."))

    def _interactive(self, event: TaskStarted | AgentInputRequired) -> Task | None:
        try:
            task = self._engine.get_task(event.task)
        except TaskNotFoundError:
            return None
        wanted = task.request.options.get("interactive") is True
        return task if task.agent == "claude" and wanted else None


async def _quietly(sending: Any) -> None:
    """Send something to a task that may have ended meanwhile."""
    try:
        await sending
    except InputClosedError:
        pass


async def _send(task: Task, data: dict[str, Any]) -> None:
    await task.send(json.dumps(data).encode() + b"\n")

"""What can be said about one task: how it is going, how it ended, what came out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import anyio.to_thread

from eventbus_tasks import (
    AgentActivity,
    AgentInputRequired,
    AgentMessage,
    AgentToolFinished,
    AgentToolStarted,
    OutputUnavailableError,
    Task,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskStatus,
    terminal_safe,
)
from eventbus_tasks_voice.assistant.phrases import limit_words, one_line, sentence
from eventbus_tasks_voice.wording import spoken_duration

__all__ = ["Activity", "age", "ended_sentence", "progress", "result", "running_sentence"]

_RESULT_LENGTH: Final = 4000
_LINES: Final = 20
_LINE_LENGTH: Final = 200

_ENDS: Final = {
    TaskStatus.COMPLETED: (TaskCompleted, "is done"),
    TaskStatus.FAILED: (TaskFailed, "failed"),
    TaskStatus.CANCELLED: (TaskCancelled, "was cancelled"),
}


@dataclass(slots=True)
class Activity:
    """What an agent did last.

    Attributes:
        tool: The tool it is using, or empty.
        summary: What it does with it.
        message: What it said last.
        question: What it needs the user for, or empty.
    """

    tool: str = ""
    summary: str = ""
    message: str = ""
    question: str = ""

    def note(self, event: AgentActivity) -> None:
        """Take note of what it did."""
        match event:
            case AgentInputRequired():
                self.question = one_line(event.prompt, _LINE_LENGTH) or "something"
                return
            case AgentToolStarted():
                self.tool = one_line(event.tool, _LINE_LENGTH)
                self.summary = one_line(event.summary, _LINE_LENGTH)
            case AgentToolFinished():
                self.tool = self.summary = ""
            case AgentMessage(kind="text", delta=False):
                self.message = one_line(event.text, _LINE_LENGTH)
            case _:
                return
        self.question = ""


def age(task: Task) -> float:
    """Return the seconds since a task has started, or how long it took."""
    begin = task.started_at or task.created_at
    return ((task.completed_at or datetime.now(UTC)) - begin).total_seconds()


def running_sentence(task: Task, name: str, activity: Activity | None) -> str:
    """Say how a task that has not ended is going."""
    if task.status is TaskStatus.STOPPING:
        return f"{name} is being stopped."
    if task.status is not TaskStatus.RUNNING:
        return f"{name} is about to start."
    if activity is not None and activity.question:
        return f"{name} is waiting for you: {activity.question}"
    text = f"{name} has been running for {spoken_duration(age(task))}"
    if activity is not None and activity.tool:
        text += f", now using {limit_words(activity.tool, 3)}"
    return text + "."


async def progress(task: Task, activity: Activity | None) -> dict[str, Any]:
    """Return facts about how a task is going: the agent's activity, or the last lines."""
    if activity is None:
        return {"last_lines": await _last_lines(task, 3)}
    return {
        "activity": {key: value for key, value in dataclasses.asdict(activity).items() if value}
    }


async def result(
    task: Task, name: str, describe: Callable[[TaskEvent], str]
) -> tuple[str, dict[str, Any]]:
    """Return what to say about the result of an ended task, and facts about it."""
    outcome = task.outcome
    assert outcome is not None
    facts: dict[str, Any] = {}
    if outcome.message:
        facts["message"] = terminal_safe(outcome.message)
    if outcome.result is not None:
        text = terminal_safe(outcome.result)
        facts["result"] = text[:_RESULT_LENGTH]
        facts["truncated"] = len(text) > _RESULT_LENGTH
    else:
        facts["last_lines"] = await _last_lines(task, _LINES)
    if outcome.status is TaskStatus.COMPLETED and outcome.result and sentence(outcome.result):
        return f"{name}: {outcome.result}", facts
    if outcome.status is TaskStatus.COMPLETED and facts.get("last_lines"):
        return f"{name} is done; its last line: {facts['last_lines'][-1]}", facts
    return ended_sentence(task, name, describe), facts


def ended_sentence(task: Task, name: str, describe: Callable[[TaskEvent], str]) -> str:
    """Say how a task that has ended did so, as it is said everywhere."""
    outcome = task.outcome
    assert outcome is not None
    event_type, words = _ENDS[outcome.status]
    ref = dataclasses.replace(task.ref, name=name)
    at = task.completed_at or datetime.now(UTC)
    return describe(event_type(task=ref, at=at, outcome=outcome)) or f"{name} {words}"


async def _last_lines(task: Task, count: int) -> list[str]:
    # A log may be on a slow disk, and its last line may be long.
    try:
        lines = await anyio.to_thread.run_sync(task.output.tail, count)
    except (OutputUnavailableError, OSError):
        return []
    return [one_line(line, _LINE_LENGTH) for line in lines if line.strip()]

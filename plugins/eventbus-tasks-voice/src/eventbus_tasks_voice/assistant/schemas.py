"""The declarations of the assistant's tools: names, descriptions, parameters.

The parameters are JSON Schema (2020-12), of which only what every vendor accepts is used: one flat
object, ``type``, ``description``, ``enum``, ``required``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Answer", "Handler", "Tool", "declarations"]

Answer = dict[str, Any]
"""What a tool answers: JSON data with ``say``, a sentence to speak, and facts beside it."""

Handler = Callable[[Mapping[str, Any]], Awaitable[Answer]]
"""Carries out a tool: takes its arguments and returns its answer; never raises for bad input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool of an assistant.

    Attributes:
        name: Its name, in snake case.
        description: When to use it, for the model.
        parameters: JSON Schema of its arguments.
        handler: Carries it out.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    handler: Handler

    def to_dict(self) -> dict[str, Any]:
        """Return name, description and parameters as plain JSON data."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }


_SPAWN: Final = (
    "Start a coding agent on a longer piece of work in the background. Answers at once; the user "
    "is told when it ends. Call it once for each piece of work."
)


def declarations(
    projects: Sequence[str], agents: Sequence[str]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return description and parameters of every tool, by name.

    Args:
        projects: The projects in which tasks may be started.
        agents: The agents among which the model may choose; one or none: there is no choice.
    """
    task = _text(
        "Which task, in the user's own words, such as 'the auth one', 'task 3', 'the last one' "
        "or 'the one in shop'. Leave it out when only one can be meant."
    )
    spawn = {
        "name": _text("A name of two to four words by which the user will speak of the task."),
        "prompt": _text("The whole assignment, complete in itself: the agent hears nothing else."),
        "project": _text("In which project the work is done.", projects),
    }
    if len(agents) > 1:
        spawn["agent"] = _text("Which agent does it; leave it out unless asked for.", agents)
    which = _text("Which tasks; the running ones when left out.", ("running", "finished", "all"))
    return {
        "spawn_task": (
            _SPAWN,
            _object(spawn, "name", "prompt"),
        ),
        "list_tasks": ("List the background tasks.", _object({"which": which})),
        "get_task_status": (
            "Tell how a background task is going. Only when the user asks.",
            _object({"task": task}),
        ),
        "get_task_result": (
            "Tell what came out of a background task that has ended.",
            _object({"task": task}),
        ),
        "cancel_task": (
            "Stop a background task and everything it has started. Only when the user wants it.",
            _object({"task": task}),
        ),
        "rename_task": (
            "Give a background task another name, by which the user speaks of it from now on.",
            _object(
                {"task": task, "new_name": _text("The new name, two to four words.")}, "new_name"
            ),
        ),
    }


def _text(description: str, choices: Sequence[str] = ()) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "description": description}
    if choices:
        schema["enum"] = list(choices)
    return schema


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required)}

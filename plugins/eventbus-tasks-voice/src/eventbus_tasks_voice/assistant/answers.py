"""The shape of answers: ``say``, facts, and ``error`` or ``question`` where something is amiss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventbus_tasks_voice.assistant.phrases import sentence
from eventbus_tasks_voice.assistant.schemas import Answer

__all__ = ["error", "question", "text_in"]


def error(say: str, **facts: Any) -> Answer:
    """Return an answer that says why nothing was done."""
    say = sentence(say)
    return {"say": say, "error": say, **facts}


def question(say: str, **facts: Any) -> Answer:
    """Return an answer that leaves a decision to the user; nothing was done."""
    say = sentence(say)
    return {"say": say, "question": say, **facts}


def text_in(arguments: Mapping[str, Any], key: str, limit: int = 200) -> str:
    """Return an argument as text that can be encoded; what is no text counts as left out.

    Args:
        arguments: Those of a tool, from a model.
        key: The argument's name.
        limit: Characters to take, at most.
    """
    value = arguments.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has no whole numbers
    return str(value)[:limit].encode("utf-8", "replace").decode()

"""Reading values of foreign JSON without trusting anything: a wrong type is an absent value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from eventbus_tasks.text import terminal_safe

__all__ = [
    "count_in",
    "input_summary",
    "list_in",
    "object_in",
    "one_line",
    "parse_object",
    "price_in",
    "text_in",
]

_LARGEST: Final = 2**53  # beyond it, JSON numbers are not exact everywhere
_NOTHING: Final[Mapping[str, Any]] = {}

_SUMMARY: Final = 200
"""Characters of a summary, at most."""

# What says best what a tool does, in this order, whichever agent's tool it is.
_TELLING: Final = (
    "command",
    "file_path",
    "filePath",
    "notebook_path",
    "dir_path",
    "path",
    "pattern",
    "url",
    "query",
    "skill",
    "description",
    "prompt",
)


def parse_object(line: bytes) -> Mapping[str, Any] | None:
    """Return the JSON object in a line, or ``None`` if it is none. Never raises."""
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def text_in(data: Mapping[str, Any], key: str) -> str:
    """Return a string that can be encoded, or ``""``."""
    value = data.get(key)
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    # JSON can escape half of a surrogate pair, which no encoder takes.
    return value.encode("utf-8", "replace").decode("utf-8")


def object_in(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object, or an empty one."""
    value = data.get(key)
    return value if isinstance(value, dict) else _NOTHING


def list_in(data: Mapping[str, Any], key: str) -> Sequence[Any]:
    """Return a list, or an empty sequence."""
    value = data.get(key)
    return value if isinstance(value, list) else ()


def count_in(data: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number >= 0, or ``None``."""
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST:
        return None
    return value


def price_in(data: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number >= 0, or ``None``."""
    value = data.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    # NaN compares as false, and infinity is too large.
    return float(value) if 0 <= value < _LARGEST else None


def one_line(text: str, limit: int = _SUMMARY) -> str:
    """Return the beginning of a text as one line that is safe to show.

    Args:
        text: Any text.
        limit: Characters at most.
    """
    # Runs of white space count once, so more than the limit is needed; far more is not.
    line = " ".join(terminal_safe(text[: limit * 8]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def input_summary(arguments: Mapping[str, Any], *, telling: Sequence[str] = _TELLING) -> str:
    """Return what a tool is used for, in one line, from its arguments.

    Args:
        arguments: As the model gave them.
        telling: Names of arguments that say it best, in this order; where none of them is there,
            the first one that is text.
    """
    for key in (*telling, *arguments):
        line = one_line(text_in(arguments, key))
        if line:
            return line
    return ""

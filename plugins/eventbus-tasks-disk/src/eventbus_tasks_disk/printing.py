"""How the commands print what others have written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from eventbus_tasks import terminal_safe

__all__ = [
    "one_line",
    "parse_time",
    "print_json",
    "print_text",
    "say_duration",
    "shorten",
    "with_home",
]


def print_text(text: str, *, to: Any = None) -> None:
    """Print, whatever the terminal can encode."""
    stream = sys.stdout if to is None else to
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def print_json(data: Any) -> None:
    """Print JSON in ASCII, which no terminal acts on."""
    text = json.dumps(data, indent=2).replace("\x7f", "\\u007f")
    print_text(text + "\n")


def one_line(text: str) -> str:
    """Return foreign text on one line, without control characters."""
    return " ".join(terminal_safe(text).split())


def shorten(text: str, most: int) -> str:
    """Return text with at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def with_home(path: str) -> str:
    """Return a path in the way people write it."""
    home = os.path.expanduser("~")  # itself where there is none
    return "~" + path[len(home) :] if path == home or path.startswith(home + "/") else path


def parse_time(text: Any) -> datetime | None:
    """Return a time that was written as ISO 8601, or ``None`` if it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


def say_duration(span: timedelta) -> str:
    """Return a span of time as people say it: ``4.2s``, ``3m07s``, ``2d05h``."""
    seconds = max(0.0, span.total_seconds())
    if seconds < 10:
        return f"{seconds:.1f}s"
    parts: Sequence[tuple[int, str]] = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
    for index, (length, unit) in enumerate(parts):
        if seconds >= length:
            count, rest = divmod(int(seconds), length)
            if index + 1 == len(parts):
                return f"{count}{unit}"
            smaller, name = parts[index + 1]
            return f"{count}{unit}{rest // smaller:02}{name}"
    return "0s"

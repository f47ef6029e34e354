"""Making foreign text fit to be heard: no control sequences, markup, paths, links or hashes."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Final

from eventbus_tasks import terminal_safe

__all__ = ["LONGEST_NAME", "LONGEST_SENTENCE", "speakable", "spoken_name"]

LONGEST_SENTENCE: Final = 240
"""Characters of one announcement: about fifteen seconds of speech."""

LONGEST_NAME: Final = 60
"""Characters of a task's name."""

# Cleaning must not take long, whatever an agent wrote.
_LONGEST_INPUT: Final = 8000

_MARKDOWN_LINK: Final = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://\S*|\bwww\.\S+", re.IGNORECASE)
# Absolute, home, dotted and Windows paths; relative ones if they have two slashes or a suffix.
_PATH: Final = re.compile(
    r"(?<!\S)[\"'(`]*(?:[A-Za-z]:|~|\.{1,2})?(?:[/\\][^\s/\\]+)+[/\\]*"
    r"|(?<!\S)[^\s/\\]+(?:[/\\][^\s/\\]+){2,}[/\\]*"
    r"|(?<!\S)[^\s/\\]+[/\\][^\s/\\]+\.\w{1,5}\b"
)
_BETWEEN_WORDS: Final = re.compile(r"[_-]+")
# Commit hashes, UUIDs (whose hyphens are gone by now) and other numbers that nobody listens to:
# seven or more hexadecimal digits, a figure among them.
_HASH: Final = re.compile(r"\b(?:0x[0-9a-f]+|(?=[a-f]*[0-9])[0-9a-f]{7,})\b", re.IGNORECASE)
_UUID: Final = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_KEPT: Final = frozenset(" .,:;!?'’%&+")
# A mark that belongs to the word before it, and was parted from it by what has been removed.
_PARTED: Final = re.compile(r"(?<=\w)\s+(?=[.,:;!?]+(?:\s|$))")
_STRAY: Final = re.compile(r"(?<!\S)[.,:;'’&+%]+(?!\S)")
_REPEATED: Final = re.compile(r"([.,:;!?'’%&+])[.,:;!?'’%&+]+")
_FIRST: Final = re.compile(r"^[\W_]+")


def speakable(text: str, limit: int = LONGEST_SENTENCE) -> str:
    """Return text as it can be said; ``""`` if nothing of it can.

    Only letters, digits, spaces and plain punctuation are left, and it begins with a letter or a
    digit: whatever an agent wrote, it is no option, markup or command to any synthesizer.

    Args:
        text: Anything, also untrusted.
        limit: Most characters; cut between words.
    """
    text = terminal_safe(text[:_LONGEST_INPUT])
    text = _MARKDOWN_LINK.sub(r"\1", text)
    text = _URL.sub(" ", text)
    text = _PATH.sub(_last_part, text)
    text = _UUID.sub(" ", text)
    text = _BETWEEN_WORDS.sub(" ", text)
    if text.isascii():
        text = text.translate(_ASCII)
    else:
        text = "".join(char if _is_sayable(char) else " " for char in text)
    text = _HASH.sub(" ", text)
    text = " ".join(text.split())
    text = _PARTED.sub("", text)
    text = _STRAY.sub("", text)
    text = _REPEATED.sub(r"\1", text)
    text = _FIRST.sub("", " ".join(text.split()))
    return _shorten(text, limit)


@functools.lru_cache(maxsize=256)
def spoken_name(name: str) -> str:
    """Return the name of a task as it can be said; ``"a task"`` if nothing of it can."""
    return speakable(name, LONGEST_NAME).rstrip(".!?'’&+% ") or "a task"


def _last_part(match: re.Match[str]) -> str:
    parts = [part for part in re.split(r"[/\\]", match[0]) if part.strip("\"'()`.~")]
    return f" {parts[-1]} " if parts else " "


def _is_sayable(char: str) -> bool:
    return char in _KEPT or unicodedata.category(char)[0] in "LMN"


# Most texts are ASCII, and this is twenty times as quick.
_ASCII: Final = {code: " " for code in range(128) if not _is_sayable(chr(code))}


def _shorten(text: str, limit: int) -> str:
    if len(text) > limit:
        head = text[: limit + 1].rpartition(" ")[0]
        text = head or text[:limit]
    return text.rstrip(" ,:;&+'’")

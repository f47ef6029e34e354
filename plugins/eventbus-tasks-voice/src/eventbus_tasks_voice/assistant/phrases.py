"""The pieces of answers: names, lists and sentences, short enough to be listened to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from eventbus_tasks import terminal_safe
from eventbus_tasks_voice.cleaning import speakable
from eventbus_tasks_voice.wording import spoken_number

__all__ = [
    "MAX_WORDS",
    "clean_name",
    "count_of",
    "limit_words",
    "listing",
    "one_line",
    "sentence",
    "short_name",
]

MAX_WORDS: Final = 20
"""Words of an answer that is spoken, at most: about seven seconds."""

_NAME_WORDS: Final = 6
_NAME_LENGTH: Final = 80
# Nobody listens to an encoded block to its end.
_WORD_LENGTH: Final = 30
_SPOKEN_LENGTH: Final = 1000

_FENCE: Final = re.compile(r"^[ \t]*(```|~~~).*?(^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)


def one_line(text: str, length: int) -> str:
    """Return text in one line of at most `length` characters, without control sequences."""
    text = " ".join(terminal_safe(text.replace("\r", " ")).split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def limit_words(text: str, count: int = MAX_WORDS) -> str:
    """Return the first words of a text, with an ellipsis where something was cut off.

    Args:
        text: Any text; blanks are collapsed.
        count: Words to keep, at most.
    """
    words = text.split()
    kept = [
        word if len(word) <= _WORD_LENGTH else word[: _WORD_LENGTH - 1] + "…"
        for word in words[:count]
    ]
    if len(words) > count:
        kept[-1] = kept[-1].rstrip(".,;:…") + "…"
    return " ".join(kept)


def sentence(text: str) -> str:
    """Return text as something to say: plain, at most `MAX_WORDS` words, with a full stop.

    Markup goes, and blocks of code, which cannot be listened to.
    """
    text = limit_words(speakable(_FENCE.sub(" ", text), _SPOKEN_LENGTH))
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "…")) else text + "."


def clean_name(name: str) -> str:
    """Return a name as it is kept: one line, at most 80 characters, nothing invisible."""
    return one_line(name, _NAME_LENGTH)


def short_name(name: str) -> str:
    """Return a name as it is spoken: at most six words."""
    return limit_words(clean_name(name), _NAME_WORDS)


def listing(items: Sequence[str], *, last: str = "and", limit: int = 3) -> str:
    """Return ``a, b and c``; of more than `limit` items only the number of the others is said."""
    shown = list(items[:limit])
    if len(items) > limit:
        shown.append(f"{spoken_number(len(items) - limit)} more")
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} {last} {shown[-1]}"


def count_of(number: int, noun: str) -> str:
    """Return ``one task``, ``two tasks`` and so on."""
    return f"{spoken_number(number)} {noun}" + ("" if number == 1 else "s")

"""Making foreign text safe to show to a person."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["terminal_safe"]

# Whole control sequences go (ECMA-48: CSI, OSC and the other strings, two-character escapes), so
# that no remains of them are shown; then every control character that is left, and the marks
# that reorder or hide text (Unicode Bidi_Control, zero width, line and paragraph separators).
_SEQUENCES: Final = re.compile(
    r"(?=[\x1b\x90\x98\x9b\x9d-\x9f])(?:"
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?)"
)
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def terminal_safe(text: str) -> str:
    """Return text without terminal control sequences and control characters.

    Line feeds and tabs stay. Everything that a terminal would act on is removed: colours, cursor
    movements, clipboard and title commands, and characters that reorder or hide what follows.
    """
    if _CONTROLS.search(text) is None:  # every sequence begins with one
        return text
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))

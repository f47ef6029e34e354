"""What a person at a terminal sees: foreign text made safe, our own made readable."""

from __future__ import annotations

import codecs
import os
import re
import sys
from typing import Final

from eventbus_tasks import terminal_safe

__all__ = ["ERASE", "SafeText", "dim", "is_styled", "render_markdown"]

ERASE: Final = "\r\x1b[2K"
"""Takes away the line in which the cursor is."""

# A control sequence, or a carriage return, of which the end has not come yet.
_UNFINISHED: Final = re.compile(
    r"(?:\r+"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*\x1b?"
    r"|\x1b[ -/]*)\Z"
)
_LONGEST: Final = 4096
_LINE_ENDS: Final = re.compile(r"\r*\n|\r+")


class SafeText:
    """Makes a stream of bytes safe to show, piece by piece.

    Characters and control sequences that are cut between two pieces are held back until they
    are complete. A carriage return begins a new line: overwriting would hide what was there.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """Return what can be shown after some more bytes."""
        text = self._held + self._decoder.decode(data, last)
        self._held = ""
        if not last:
            found = _UNFINISHED.search(text)
            if found is not None and len(text) - found.start() <= _LONGEST:
                self._held = text[found.start() :]
                text = text[: found.start()]
        return terminal_safe(_LINE_ENDS.sub("\n", text))


def is_styled() -> bool:
    """Whether standard output is a terminal that may be styled (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return os.isatty(1) and not plain


def dim(text: str) -> str:
    """Return the text for what matters less."""
    return f"\x1b[2m{text}\x1b[0m" if is_styled() else text


def render_markdown(text: str) -> str:
    """Return Markdown the way a terminal shows it best: by `rich`, where that is installed.

    Args:
        text: Safe text.
    """
    if not is_styled():
        return text
    try:
        from rich.console import Console
        from rich.markdown import Markdown
    except ImportError:
        return text
    console = Console(file=sys.stdout)
    with console.capture() as capture:
        # Links would be control sequences with a foreign text in them.
        console.print(Markdown(text, hyperlinks=False))
    return capture.get().rstrip("\n")

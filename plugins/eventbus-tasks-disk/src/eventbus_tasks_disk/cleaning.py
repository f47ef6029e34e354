"""Makes output of any size fit to be shown, piece by piece."""

from __future__ import annotations

import codecs
import re
from typing import Final

from eventbus_tasks import terminal_safe

__all__ = ["OutputCleaner"]

# What a terminal acts on, as far as it may be cut off at the end of a piece.
_SEQUENCE: Final = re.compile(
    r"(?P<csi>(?:\x1b\[|\x9b)[0-?]*[ -/]*)(?P<csi_end>[@-~])?"
    r"|(?P<string>(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*)"
    r"(?P<string_end>\x07|\x1b\\|\x9c)?(?P<half>\x1b\Z)?"
    r"|(?P<escape>\x1b[ -/]*)(?P<escape_end>[0-~])?"
)
_PLAIN: Final = bytes((*range(0x20, 0x7F), 0x09, 0x0A))
# Sequences that are longer than this are not waited for.
_LONGEST: Final = 64 * 1024


class OutputCleaner:
    """Turns the bytes of one stream into text without terminal control sequences.

    Bytes that are not UTF-8 are replaced. Lines end with ``\\n``, ``\\r\\n`` or ``\\r``: a progress
    bar that overwrites itself becomes lines. No sequence reaches beyond its line, so that one
    that is never completed cannot swallow the rest. The result does not depend on how the bytes
    were cut into pieces, up to sequences of 64 KiB.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> str:
        """Return what can be shown by now.

        Held back is only what may turn out to be the beginning of a character or sequence.
        """
        if not self._rest and not data.translate(None, _PLAIN) and not self._decoder.getstate()[0]:
            return data.decode("ascii")  # most output: nothing to do
        return self._clean(self._rest + self._decoder.decode(data), final=False)

    def finish(self) -> str:
        """Return what was held back: the stream has ended."""
        return self._clean(self._rest + self._decoder.decode(b"", final=True), final=True)

    def _clean(self, text: str, *, final: bool) -> str:
        self._rest = ""
        if not final and text.endswith("\r"):
            text, self._rest = text[:-1], "\r"
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if not final:
            cut = _safe_length(text)
            text, self._rest = text[:cut], text[cut:] + self._rest
        return _cleaned(text)


def _cleaned(text: str) -> str:
    # Whatever is to be removed is not printable; asking that is many times faster.
    if _is_plain(text.replace("\n", " ")):
        return text
    lines = text.split("\n")
    return "\n".join(line if _is_plain(line) else terminal_safe(line) for line in lines)


def _is_plain(line: str) -> bool:
    return line.replace("\t", " ").isprintable()


def _safe_length(text: str) -> int:
    """Return where a sequence begins that may go on behind the end of the text."""
    begin = max(text.rfind("\n") + 1, len(text) - _LONGEST)
    for match in _SEQUENCE.finditer(text, begin):
        if match.end() < len(text):
            continue
        complete = match["csi_end"] or match["string_end"] or match["escape_end"]
        if match["half"] or not complete:
            return match.start()
    return len(text)

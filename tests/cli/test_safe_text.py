"""Making a stream of bytes safe for a terminal, whatever its pieces."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks._cli.terminal import SafeText

TRICKY = st.sampled_from(
    ["\x1b", "\x1b[", "\x1b]0;", "\x1b\\", "\x07", "\x9b", "31", ";", "m", "\r", "\n", "é", "€"]
)
TEXTS = st.lists(TRICKY | st.text(max_size=3), max_size=12).map("".join)


def whole(data: bytes) -> str:
    """Return what is shown of bytes that come at once."""
    return SafeText().feed(data, last=True)


@given(TEXTS, st.lists(st.integers(min_value=1, max_value=5), max_size=30))
def test_pieces_do_not_matter(text: str, sizes: list[int]) -> None:
    """However the bytes are cut, the same text is shown in the end."""
    data = text.encode("utf-8", "surrogatepass")
    safe = SafeText()
    shown, rest = "", data
    for size in sizes:
        shown += safe.feed(rest[:size])
        rest = rest[size:]
    shown += safe.feed(rest, last=True)
    assert shown == whole(data)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_nothing_dangerous_is_shown(first: bytes, second: bytes) -> None:
    """No control character but line feed and tab ever reaches the terminal."""
    safe = SafeText()
    for text in (safe.feed(first), safe.feed(second), safe.feed(b"", last=True)):
        controls = {char for char in text if unicodedata.category(char) == "Cc"}
        assert controls <= {"\n", "\t"}


def test_carriage_return_begins_a_line() -> None:
    """A progress bar becomes lines; Windows line endings are one line ending."""
    assert whole(b"10%\r20%\r\ndone\n") == "10%\n20%\ndone\n"


def test_endless_sequence_is_not_waited_for() -> None:
    """A control string without an end does not hold back what follows for ever."""
    safe = SafeText()
    assert safe.feed(b"a\x1b]" + b"x" * 10000) == "a"
    assert safe.feed(b"b\n") == "b\n"

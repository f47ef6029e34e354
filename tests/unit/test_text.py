"""Foreign text that is shown to a person."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventbus_tasks import terminal_safe

SEQUENCES = st.sampled_from(
    [
        "\x1b[31m",
        "\x1b]0;title\x07",
        "\x1b]52;c;AAAA\x1b\\",
        "\x1bP1$r\x1b\\",
        "\x9b2J",
        "\x1b",
        "\x1b[",
    ]
)
MARKS = st.sampled_from("\u202e\u2066\u200b\u2028\ufeff\x00\x07\x08\x85\x9d\r\n\t")
texts = st.lists(st.one_of(SEQUENCES, MARKS, st.text(max_size=5)), max_size=12).map("".join)


@given(texts)
@example("\x1b\x1b[31m[32mtext")
@example("\x1b]0;\x1b[31mtitle")
def test_nothing_that_acts_is_left(text: str) -> None:
    """No control character but line feed and tab, and no mark that reorders or hides, is left."""
    safe = terminal_safe(text)
    for character in safe:
        category = unicodedata.category(character)
        assert category not in ("Cc", "Cs") or character in "\n\t"
        assert unicodedata.bidirectional(character) not in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        )  # fmt: skip
        assert character not in "\u200b\u200e\u200f\u061c\u2028\u2029\ufeff"


@given(texts)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    """What was cleaned is clean."""
    assert terminal_safe(terminal_safe(text)) == terminal_safe(text)


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp"))))
def test_plain_text_stays(text: str) -> None:
    """Text without such characters is not touched."""
    assert terminal_safe(text) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;c2VjcmV0\x07after", "after"),
        ("a\x1b(Bb", "ab"),
        ("a\rb", "ab"),
        ("one\n\ttwo", "one\n\ttwo"),
        ("abc\u202edef", "abcdef"),
    ],
)
def test_examples(text: str, safe: str) -> None:
    """Whole sequences go, with what is inside of them."""
    assert terminal_safe(text) == safe

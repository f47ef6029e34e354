"""What an agent wrote, as it may be heard."""

from __future__ import annotations

import re

import pytest
from eventbus_tasks_voice.cleaning import LONGEST_SENTENCE, speakable, spoken_name
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("\x1b[32m**Done**\x1b[0m: see `/srv/app/src/login.py`, 3f2a9bc1", "Done: see login.py"),
        ("-w evil.wav", "w evil.wav"),
        ("see [the docs](https://a.b/c) and https://d.e/f?g=h", "see the docs and"),
        ("550e8400-e29b-41d4-a716-446655440000 is done", "is done"),
        ("[[slnc 5000]] <speak>hi</speak>", "slnc 5000 speak hi speak"),
        ("!-! QUIT", "QUIT"),
        ("a/b/c.py, ~/x and C:\\temp\\log.txt", "c.py, x and log.txt"),
        ("either/or", "either or"),
        ("it's 5% slower, ok?", "it's 5% slower, ok?"),
        ("# Title\n- one\n- two", "Title one two"),
        ("grüße an 世界", "grüße an 世界"),
        ("\u202egnp.exe\u202c", "gnp.exe"),
        ("I ran `pytest`. It passed.", "I ran pytest. It passed."),
        ("is it `x`? Yes, **it is**!", "is it x? Yes, it is!"),
        ("reverted 3f2a9bc1, then fixed", "reverted, then fixed"),
        ("` . ` and , , on", "and, on"),
        ("***", ""),
    ],
)
def test_text_is_cleaned(text: str, heard: str) -> None:
    """Control sequences, markup, paths, links and hashes are not said; the words are."""
    assert speakable(text) == heard


def test_name_is_never_empty() -> None:
    """A task is called something, even if its name cannot be said."""
    assert spoken_name("/") == "a task"
    assert spoken_name("fix-login_form") == "fix login form"


FOREIGN = st.text() | st.lists(
    st.sampled_from(
        [*("/etc/passwd", "\x1b]0;x\x07", "`", "**", "[a](b)", "3f2a9bc1", " ", "word", "-", "]]")],
    ),
    max_size=12,
).map("".join)


@given(FOREIGN)
def test_nothing_dangerous_is_left(text: str) -> None:
    """Whatever comes in, what comes out is short plain words that no synthesizer obeys."""
    heard = speakable(text)
    assert len(heard) <= LONGEST_SENTENCE
    assert not re.search(r"[\x00-\x1f\x7f-\x9f`*_#<>\[\]{}()|\\/$\"~=-]", heard)
    assert not re.search(r"\b(?=[a-f]*[0-9])[0-9a-fA-F]{7,}\b", heard)
    assert not heard or heard[0].isalnum()
    assert heard == " ".join(heard.split())
    heard.encode()


@given(FOREIGN)
def test_cleaning_is_done_once(text: str) -> None:
    """What is clean stays as it is."""
    once = speakable(text)
    assert speakable(once) == once

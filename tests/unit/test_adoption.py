"""What a host that takes a task over knows from the journal."""

from __future__ import annotations

from eventbus_tasks._adoption import Past
from eventbus_tasks._process import wire


def lost(start: int, end: int, why: str = "truncated") -> wire.Dropped:
    """Return the message about a loss."""
    return wire.Dropped(stream="stdout", start=start, end=end, why=why, at=0.0)


def parts(past: Past, message: wire.Dropped) -> list[tuple[int, int, bool]]:
    """Return the parts of a loss: from where to where, and whether it was known."""
    return [(part.start, part.end, known) for part, known in past.parts_of(message)]


def past_with(*ranges: tuple[int, int]) -> Past:
    """Return what is known from a journal with these losses."""
    return Past.read(
        {
            "seq": seq,
            "event": "output.dropped",
            "stream": "stdout",
            "start": start,
            "end": end,
            "why": "truncated",
        }
        for seq, (start, end) in enumerate(ranges, 1)
    )


def test_loss_before_one_that_is_known() -> None:
    """A loss at lower offsets than one that the journal has, is news all the same."""
    assert parts(past_with((500, 600)), lost(100, 200)) == [(100, 200, False)]


def test_loss_that_is_known() -> None:
    """A loss that the journal has is known, whichever other ones came behind it."""
    past = past_with((500, 600), (100, 200))
    assert parts(past, lost(500, 600)) == [(500, 600, True)]
    assert parts(past, lost(100, 200)) == [(100, 200, True)]


def test_loss_that_is_known_in_part() -> None:
    """Of a loss that reaches over a known one, both ends are news; no byte is told twice."""
    past = past_with((120, 150))
    assert parts(past, lost(100, 200)) == [(100, 120, False), (120, 150, True), (150, 200, False)]
    assert parts(past, lost(100, 200)) == [(100, 200, True)]


def test_loss_by_another_cause() -> None:
    """Each cause has its own books: what did not fit is not what was cut off."""
    assert parts(past_with((100, 200)), lost(100, 200, "ENOSPC")) == [(100, 200, False)]

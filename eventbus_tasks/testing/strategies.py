"""Values for hypothesis, which must be installed: bytes as programs write them, policies, ends."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Sequence
from typing import Final

from hypothesis import strategies as st

from eventbus_tasks.outcome import Outcome, Reason, Survivor
from eventbus_tasks.policies import Step, TerminationPolicy

__all__ = ["SIGNALS", "chunks", "outcomes", "output_bytes", "policies", "split", "steps"]

SIGNALS: Final[tuple[int, ...]] = tuple(
    sorted(int(number) for number in signal.valid_signals() if number in list(signal.Signals))
)
"""Signals that have a name."""

_PIECES: Final[tuple[bytes, ...]] = (
    b"\n",
    b"\r\n",
    b"\r",
    b"",
    b"word",
    b" ",
    "\xe4\u20ac\U0001f600".encode(),
    # Beginnings, ends and nonsense of UTF-8, each on its own.
    b"\xf0\x9f\x98",
    b"\xe2\x82",
    b"\x80",
    b"\xff",
    b"\xed\xa0\x80",
    b"\0",
    b"\x1b[31m",
    b"\x85\x0b\x0c\x1c",
    "\u2028\u2029\x85".encode(),
)


def output_bytes(max_pieces: int = 40) -> st.SearchStrategy[bytes]:
    """Return what a program may write: lines, odd line endings, valid and broken UTF-8.

    Args:
        max_pieces: How many pieces it has at most.
    """
    piece = st.one_of(st.sampled_from(_PIECES), st.binary(max_size=12))
    return st.lists(piece, max_size=max_pieces).map(b"".join)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return `data` in chunks, cut at these places (modulo its length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@st.composite
def chunks(draw: st.DrawFn, max_pieces: int = 40) -> list[bytes]:
    """Return output in the chunks in which it arrived."""
    data = draw(output_bytes(max_pieces))
    return split(data, draw(st.lists(st.integers(min_value=0, max_value=4096), max_size=12)))


_SECONDS: Final = st.floats(min_value=0, max_value=1e6, allow_nan=False, allow_infinity=False)


def steps() -> st.SearchStrategy[Step]:
    """Return rungs of a ladder that can be carried out."""
    return st.builds(
        Step,
        signal=st.sampled_from(SIGNALS),
        scope=st.sampled_from(("leader", "group", "tree")),
        grace=_SECONDS,
    )


def policies() -> st.SearchStrategy[TerminationPolicy]:
    """Return policies that can be carried out."""
    return st.builds(
        TerminationPolicy,
        steps=st.lists(steps(), max_size=4).map(tuple),
        kill_wait=_SECONDS,
        drain=_SECONDS,
        exit_grace=_SECONDS,
        after_exit=st.sampled_from(("kill", "leave")),
        on_host_death=st.sampled_from(("kill", "detach")),
        timeout=st.none() | _SECONDS,
        idle_timeout=st.none() | _SECONDS,
        max_output=st.none() | st.integers(min_value=0, max_value=2**50),
        keep=st.sampled_from(("stop", "tail")),
    )


def outcomes() -> st.SearchStrategy[Outcome]:
    """Return ends of tasks, whether they can happen or not."""
    sizes = st.dictionaries(st.sampled_from(("stdout", "stderr")), st.integers(0, 2**50))
    survivor = st.builds(
        Survivor,
        pid=st.integers(1, 2**22),
        start_time=st.integers(0, 2**40),
        command=st.text(max_size=20),
    )
    return st.builds(
        Outcome,
        reason=st.sampled_from(Reason),
        message=st.text(max_size=40),
        return_code=st.none() | st.integers(-64, 255),
        result=st.none() | st.text(max_size=40),
        survivors=st.lists(survivor, max_size=3).map(tuple),
        persist_error=st.none() | st.text(max_size=20),
        output_bytes=sizes,
        lost_bytes=sizes,
    )

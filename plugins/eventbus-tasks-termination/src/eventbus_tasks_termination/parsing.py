"""Reads what people write: rungs of a ladder, and sizes."""

from __future__ import annotations

import difflib
import math
import re
import signal
from typing import Any, Final

from eventbus_tasks import Step
from eventbus_tasks.policies import Scope

__all__ = ["parse_seconds", "parse_size", "parse_step"]

_SCOPES: Final[dict[str, Scope]] = {"leader": "leader", "group": "group", "tree": "tree"}

# They end nobody: as a rung they would only cost its grace.
_HARMLESS: Final = frozenset(
    {"STOP", "TSTP", "TTIN", "TTOU", "CONT", "CHLD", "CLD", "URG", "WINCH"}
)

_UNITS: Final = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}


def parse_step(text: Any, default_grace: float) -> Step:
    """Read one rung: ``SIGNAL[:SCOPE][:SECONDS]``, as in ``INT:leader:5`` or ``TERM``.

    Args:
        text: What was written.
        default_grace: Seconds until the next rung, when the text names none.

    Raises:
        ValueError: Says what is wrong, and how to write it.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"must be like 'INT:leader:5' or 'TERM', not {text!r}")
    first, *rest = (part.strip() for part in text.split(":"))
    number = _parse_signal(first)
    scope: Scope = "tree"
    if rest and not _is_number(rest[0]):
        word = rest.pop(0).lower()
        if word not in _SCOPES:
            raise ValueError(f"{text!r}: the scope must be leader, group or tree, not {word!r}")
        scope = _SCOPES[word]
    grace = default_grace
    if rest:
        seconds = rest.pop(0)
        if rest or not _is_number(seconds):
            raise ValueError(
                f"{text!r}: write SIGNAL:SCOPE:SECONDS, as in 'INT:leader:5'; "
                f"scope and seconds may be left out"
            )
        grace = parse_seconds(seconds)
    return Step(signal=number, scope=scope, grace=grace)


def _parse_signal(word: str) -> int:
    name = word.upper().removeprefix("SIG")
    known = {item.name.removeprefix("SIG"): int(item) for item in signal.Signals}
    if name.isdecimal():
        matching = [key for key, number in known.items() if number == int(name)]
        name = matching[0] if matching else name
    if name == "KILL":
        raise ValueError("SIGKILL to everything follows the last rung by itself; leave it out")
    if name in _HARMLESS:
        raise ValueError(f"SIG{name} ends no process; use INT, TERM, HUP, QUIT or the like")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "; for example INT, TERM or HUP"
        raise ValueError(f"there is no signal {word!r}{hint}")
    return known[name]


def parse_seconds(value: Any) -> float:
    """Read a number of seconds.

    Raises:
        ValueError: It is not a finite number >= 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"must be a number of seconds, not {value!r}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"must be a number of seconds, not {value!r}") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"must be a number of seconds >= 0, not {value!r}")
    return number


def parse_size(value: Any) -> int:
    """Read a number of bytes: ``1048576``, ``"10MiB"``, ``"1.5 GB"`` (KB = 1000, KiB = 1024).

    Raises:
        ValueError: Says what is wrong, and how to write it.
    """
    problem = f"must be a number of bytes, or like '10MiB' or '500 kB', not {value!r}"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str):
        raise ValueError(problem)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value, re.ASCII)
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(problem)
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

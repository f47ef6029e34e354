"""Whether a result of Claude is a success, and if not, why, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventbus_tasks.agents import count_in, list_in, one_line, text_in

__all__ = ["ClaudeResult", "read_result"]

_MESSAGE: Final = 500
"""Characters of a message, at most."""

_LIMITS: Final[Mapping[str, str]] = {
    "error_max_turns": "reached its limit of turns",
    "error_max_budget_usd": "reached its budget",
}

# What Claude says to a command of its own (`/help`) that it has only on a terminal, and calls a
# success, though it has asked no model and done nothing.
_UNAVAILABLE: Final = re.compile(r"/\S+ isn't available in this environment\.?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeResult:
    """What one ``result`` line amounts to.

    Attributes:
        text: The answer, or the error in Claude's words; may be empty.
        problem: Why it is no success, in one line; empty for a success.
        is_answer: `text` is an answer, not an error.
    """

    text: str
    problem: str
    is_answer: bool

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return not self.problem


def read_result(data: Mapping[str, Any], denied: Iterable[str]) -> ClaudeResult:
    """Judge a ``result`` line, failing closed: a success must be said in full.

    Args:
        data: The line.
        denied: Names of the tools that were denied so far, in this turn or an earlier one.
    """
    answer = text_in(data, "result")
    failure = _failure(data, answer)
    tools = ", ".join(dict.fromkeys(denied))
    problems = [failure] if failure else []
    if tools:
        # Claude calls it a success when it could not do what it was asked for.
        problems.append(f"needs permission for {tools}")
    return ClaudeResult(
        text=answer,
        problem=one_line("; ".join(problems), _MESSAGE),
        is_answer=not failure,
    )


def _failure(data: Mapping[str, Any], answer: str) -> str:
    subtype = text_in(data, "subtype")
    ended = text_in(data, "terminal_reason")
    if ended.startswith("aborted"):
        return "interrupted"
    is_error = data.get("is_error") is not False  # a result that doesn't say is none
    if not is_error and subtype == "success" and ended in ("", "completed"):
        asked_nobody = count_in(data, "num_turns") == 0
        return answer if asked_nobody and _UNAVAILABLE.fullmatch(answer) else ""
    status = count_in(data, "api_error_status")
    # The text of a result that is called an error is the error; otherwise it is an answer.
    words = "; ".join(_errors(data)) or (answer if is_error else "")
    if status is not None:
        return f"the API answered {status}: {words}" if words else f"the API answered {status}"
    if subtype in _LIMITS:
        return _LIMITS[subtype]
    if words:
        return words
    if subtype not in ("", "success"):
        return f"ended as {subtype}"
    return f"ended as {ended}" if ended not in ("", "completed") else "reported an error"


def _errors(data: Mapping[str, Any]) -> list[str]:
    found = []
    for error in list_in(data, "errors"):
        text = error if isinstance(error, str) else ""
        if isinstance(error, dict):
            text = text_in(error, "message")
        if text:
            found.append(text.encode("utf-8", "replace").decode("utf-8"))
    return found

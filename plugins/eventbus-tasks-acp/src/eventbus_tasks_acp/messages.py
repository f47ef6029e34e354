"""JSON-RPC 2.0 in lines: the messages that are sent, and what stands in those that come."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from eventbus_tasks.agents import count_in, object_in, one_line, parse_object, text_in

__all__ = [
    "encode",
    "error_text",
    "failure",
    "notification",
    "readable",
    "reply",
    "request",
]

_AUTH_REQUIRED: Final = -32000
"""The error code of an agent that nobody is logged in to, or whose model says so."""

_METHOD_NOT_FOUND: Final = -32601

_MESSAGE: Final = 500
"""Characters of a message, at most."""

# What the libraries of agents say for want of something better.
_EMPTY_WORDS: Final = re.compile(
    r"\s*(?:internal error|invalid params|invalid request|server error)\s*(?:[:.]\s*|$)",
    re.IGNORECASE,
)


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as one line."""
    # ASCII only: no separator of lines that some reader knows can be in it.
    return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n"


def request(number: int, method: str, params: Mapping[str, Any]) -> bytes:
    """Return a request, which wants an answer with the same number."""
    return encode({"id": number, "method": method, "params": params})


def notification(method: str, params: Mapping[str, Any]) -> bytes:
    """Return a message that wants no answer."""
    return encode({"method": method, "params": params})


def reply(number: Any, result: Mapping[str, Any]) -> bytes:
    """Return the answer to a request of the agent."""
    return encode({"id": number, "result": result})


def failure(number: Any, method: str) -> bytes:
    """Return the answer to a request for something that was not offered."""
    error = {"code": _METHOD_NOT_FOUND, "message": f"Method not found: {method}"}
    return encode({"id": number, "error": error})


def error_text(error: Mapping[str, Any]) -> str:
    """Return what an error of the agent says, as one readable line; never empty.

    Args:
        error: The object ``error`` of an answer. Some agents put the answer of their model's API
            into it, as JSON in a string.
    """
    details = text_in(object_in(error, "data"), "details") or text_in(error, "data")
    for text in (_EMPTY_WORDS.sub("", text_in(error, "message"), 1), details):
        words = readable(text)
        if words:
            return f"it is not logged in: {words}" if error.get("code") == _AUTH_REQUIRED else words
    return f"error {error.get('code')!r}"[:_MESSAGE]


def readable(text: str) -> str:
    """Return a message as one line; one that is the JSON of an API's error by its own words."""
    inner = parse_object(text.strip().encode()) if text.lstrip().startswith("{") else None
    if inner is not None:
        said = object_in(inner, "error") or inner
        words, status = one_line(text_in(said, "message"), _MESSAGE), count_in(said, "code")
        if words:
            return f"the API answered {status}: {words}" if status else words
    return one_line(text, _MESSAGE)

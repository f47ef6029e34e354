"""The items of a turn that are uses of tools: what they do, and what became of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

from eventbus_tasks.agents import count_in, input_summary, list_in, object_in, one_line, text_in

__all__ = ["describe_item", "is_tool", "result_of", "status_of"]

_TOOLS: Final[Mapping[str, str]] = {
    "command_execution": "shell",
    "file_change": "edit",
    "mcp_tool_call": "mcp",
    "collab_tool_call": "sub-agent",
    "web_search": "web_search",
}
"""What people call the tool, by the type of the item."""


def is_tool(kind: str) -> bool:
    """Whether items of this type are uses of a tool."""
    return kind in _TOOLS


def describe_item(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of the tool, and what it does in one line."""
    kind = text_in(item, "type")
    tool = _TOOLS[kind]
    if kind == "command_execution":
        return tool, one_line(_without_shell(text_in(item, "command")))
    if kind == "file_change":
        changes = [change for change in list_in(item, "changes") if isinstance(change, dict)]
        return tool, one_line(", ".join(text_in(change, "path") for change in changes))
    if kind == "mcp_tool_call":
        names = (text_in(item, "server"), text_in(item, "tool"))
        name = ".".join(one_line(part, 100) for part in names if part)
        return name or tool, input_summary(object_in(item, "arguments"))
    if kind == "collab_tool_call":
        return one_line(text_in(item, "tool"), 100) or tool, one_line(text_in(item, "prompt"))
    return tool, one_line(text_in(item, "query"))


def status_of(item: Mapping[str, Any]) -> str:
    """Return ``ok``, ``error`` or ``denied`` for a complete item."""
    status = text_in(item, "status")
    if status == "declined":
        return "denied"
    failed = status == "failed" or bool(item.get("error"))
    return "error" if failed or count_in(item, "exit_code") not in (None, 0) else "ok"


def result_of(item: Mapping[str, Any]) -> str:
    """Return the beginning of what came out, in one line."""
    output = text_in(item, "aggregated_output")
    if output:
        return one_line(output)
    error = text_in(object_in(item, "error"), "message")
    if error:
        return one_line(error)
    for part in list_in(object_in(item, "result"), "content"):
        text = text_in(part, "text") if isinstance(part, dict) else ""
        if text:
            return one_line(text)
    return ""


def _without_shell(command: str) -> str:
    """Return what is run by ``/bin/bash -lc '…'``; anything else as it is."""
    # Only the beginning is shown, and a long script need not be taken apart.
    if len(command) > 10_000:
        return command
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    wrapped = len(words) == 3 and words[0].endswith("sh") and words[1] in ("-c", "-lc")
    return words[2] if wrapped else command

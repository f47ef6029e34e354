"""Following the uses of tools from their start to their end, denied ones included."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from eventbus_tasks import AgentToolFinished, AgentToolStarted
from eventbus_tasks.agents import input_summary, list_in, object_in, one_line, text_in

__all__ = ["ToolCalls"]

_NAME: Final = 100
"""Characters of a tool's name, at most."""

# How Claude begins the result of a tool that it may not use; such a result is an error as well.
# ("The user doesn't want to proceed" is none: that is how an interrupted tool ends.)
_DENIAL: Final = re.compile(
    r"(?:<tool_use_error>|error: )?\s*(?:"
    r"claude requested permissions? to .{1,2000}haven't granted"
    r"|this (?:bash )?command .{0,200}requires? approval"
    r"|permission to use .{1,2000}denied"
    r")",
    re.IGNORECASE | re.DOTALL,
)


class ToolCalls:
    """The uses of tools in one run.

    Attributes:
        denied: Names of the tools that were denied, once for each time.
    """

    def __init__(self) -> None:
        self.denied: list[str] = []
        self._open: dict[str, str] = {}  # name by the id of the use
        self._refused: set[str] = set()  # ids of open uses that Claude said are denied
        self._denied_by_text: list[str] = []

    def start(self, block: Mapping[str, Any]) -> AgentToolStarted | None:
        """Take a ``tool_use`` block; ``None`` if this use has started already."""
        tool, call_id = one_line(text_in(block, "name"), _NAME), text_in(block, "id")
        if call_id:
            if call_id in self._open:
                return None
            self._open[call_id] = tool
        return AgentToolStarted(
            tool=tool, call_id=call_id, summary=input_summary(object_in(block, "input"))
        )

    def finish(self, block: Mapping[str, Any]) -> AgentToolFinished:
        """Take a ``tool_result`` block."""
        call_id = text_in(block, "tool_use_id")
        tool = self._open.pop(call_id, "")
        text = _result_text(block)
        status = "error" if block.get("is_error") is True else "ok"
        if call_id in self._refused or (status == "error" and _DENIAL.match(text[:4000])):
            status = "denied"
            self._refused.discard(call_id)
            self._denied_by_text.append(tool or "a tool")
        return AgentToolFinished(tool=tool, call_id=call_id, status=status, summary=one_line(text))

    def note_denial(self, data: Mapping[str, Any]) -> None:
        """Take a ``permission_denied`` line, which comes before the result of the tool."""
        call_id = text_in(data, "tool_use_id")
        if call_id in self._open:
            self._refused.add(call_id)

    def note_denials(self, result: Mapping[str, Any]) -> Iterator[AgentToolFinished]:
        """Take ``permission_denials`` of a result, and end the uses that it ends."""
        denials = result.get("permission_denials")
        by_text, self._denied_by_text = self._denied_by_text, []
        if not isinstance(denials, list):
            # Versions without that list: the texts are all there is.
            self.denied += by_text
            return
        for denial in denials:
            entry = denial if isinstance(denial, dict) else {}
            call_id = text_in(entry, "tool_use_id")
            tool = one_line(text_in(entry, "tool_name"), _NAME)
            self.denied.append(tool or self._open.get(call_id) or "a tool")
            self._refused.discard(call_id)
            if call_id in self._open:
                yield AgentToolFinished(
                    tool=self._open.pop(call_id) or tool, call_id=call_id, status="denied"
                )


def _result_text(block: Mapping[str, Any]) -> str:
    text = text_in(block, "content")
    if text:
        return text
    for part in list_in(block, "content"):
        found = text_in(part, "text") if isinstance(part, dict) else ""
        if found:
            return found
    return ""

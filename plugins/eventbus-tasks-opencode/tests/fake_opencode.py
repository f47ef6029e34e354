"""The event shapes of ``opencode run --format json``, as steps for the scripted program."""

from __future__ import annotations

from typing import Any

from eventbus_tasks.testing.agents import ScriptStep

SESSION = "ses_defb994f8ffePIHjNS4OmDp7zW"


def line(kind: str, **fields: Any) -> ScriptStep:
    """Return any line."""
    return {"line": {"type": kind, "timestamp": 1795569401509, "sessionID": SESSION, **fields}}


def part(kind: str, **fields: Any) -> ScriptStep:
    """Return a line with a part of a message."""
    return line(kind, part={"id": "prt_1", "messageID": "msg_1", "type": kind, **fields})


def start() -> ScriptStep:
    """Return the line that begins a step."""
    return part("step_start")


def text(words: str) -> ScriptStep:
    """Return what the agent says."""
    return part("text", text=words)


def tool(
    name: str, arguments: dict[str, Any], *, status: str = "completed", **state: Any
) -> ScriptStep:
    """Return the line of a tool, which comes when it has ended."""
    return part(
        "tool_use",
        tool=name,
        callID="call_1",
        state={"status": status, "input": arguments, **state},
    )


def finish(reason: str = "stop", cost: float = 0, **tokens: int) -> ScriptStep:
    """Return the line that ends a step."""
    used = {
        "input": tokens.get("sent", 11),
        "output": tokens.get("made", 13),
        "reasoning": tokens.get("thought", 0),
        "cache": {"write": tokens.get("written", 0), "read": tokens.get("read", 0)},
    }
    return part("step_finish", reason=reason, tokens=used, cost=cost)


def error(message: str, status: int | None = None, name: str = "APIError") -> ScriptStep:
    """Return an error."""
    data = {"message": message, "statusCode": status, "isRetryable": False}
    return line("error", error={"name": name, "data": data})

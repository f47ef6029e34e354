"""The event shapes of ``gemini --output-format stream-json``, as steps for the scripted program."""

from __future__ import annotations

from typing import Any

from eventbus_tasks.testing.agents import ScriptStep

SESSION = "6606a117-a52a-459f-8b90-d878096080bb"
MODEL = "gemini-fake"


def line(kind: str, **fields: Any) -> ScriptStep:
    """Return any line."""
    return {"line": {"type": kind, "timestamp": "2026-11-25T01:14:23.257Z", **fields}}


def init() -> ScriptStep:
    """Return the first line."""
    return line("init", session_id=SESSION, model=MODEL)


def echo(text: str = "do it") -> ScriptStep:
    """Return the prompt, as Gemini repeats it."""
    return line("message", role="user", content=text)


def piece(text: str) -> ScriptStep:
    """Return a piece of a message."""
    return line("message", role="assistant", content=text, delta=True)


def whole(text: str) -> ScriptStep:
    """Return a message that does not come in pieces."""
    return line("message", role="assistant", content=text)


def tool_use(call_id: str, name: str, **parameters: Any) -> ScriptStep:
    """Return a line that begins to use a tool."""
    return line("tool_use", tool_name=name, tool_id=call_id, parameters=parameters)


def tool_result(call_id: str, output: str = "", status: str = "success", **more: Any) -> ScriptStep:
    """Return a line that ends the use of a tool."""
    return line("tool_result", tool_id=call_id, status=status, output=output, **more)


def error(message: str, severity: str = "error") -> ScriptStep:
    """Return an error that is not the end."""
    return line("error", severity=severity, message=message)


def result(status: str = "success", sent: int = 16, made: int = 10, **more: Any) -> ScriptStep:
    """Return the last line."""
    stats = {
        "total_tokens": sent + made,
        "input_tokens": sent,
        "output_tokens": made,
        "cached": 0,
        "duration_ms": 142,
        "tool_calls": 0,
        "models": {},
    }
    return line("result", status=status, stats=stats, **more)

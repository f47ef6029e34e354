"""The event shapes of Claude's ``stream-json`` output, as steps for the scripted program."""

from __future__ import annotations

import json
from typing import Any

from eventbus_tasks.testing.agents import ScriptStep

SESSION = "$SESSION"  # becomes the one that it was asked for
MODEL = "claude-fake-1"
UUID = "5d4e7c1e-0000-4000-8000-000000000000"


def init(**changes: Any) -> ScriptStep:
    """Return the first line of each turn."""
    fields = {
        "type": "system",
        "subtype": "init",
        "cwd": "/project",
        "tools": ["Bash", "Write"],
        "mcp_servers": [],
        "model": MODEL,
        "permissionMode": "default",
        "apiKeySource": "none",
        "claude_code_version": "2.1.330",
    }
    return _line(**{**fields, **changes})


def system(subtype: str, **fields: Any) -> ScriptStep:
    """Return another line of the type ``system``."""
    return _line(type="system", subtype=subtype, **fields)


def assistant(*blocks: ScriptStep, message_id: str = "msg_1", **usage: Any) -> ScriptStep:
    """Return one line of a message; the lines of one message share its id and its usage."""
    message = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": list(blocks),
        "usage": usage,
    }
    return _line(type="assistant", message=message, parent_tool_use_id=None)


def text(words: str, **keywords: Any) -> ScriptStep:
    """Return a line with one block of text."""
    return assistant({"type": "text", "text": words}, **keywords)


def thinking(words: str, **keywords: Any) -> ScriptStep:
    """Return a line with one block of thinking."""
    return assistant({"type": "thinking", "thinking": words, "signature": "c2ln"}, **keywords)


def delta(kind: str, words: str) -> ScriptStep:
    """Return a piece of a message, as ``--include-partial-messages`` adds them."""
    part = {"type": f"{kind}_delta", kind: words}
    event = {"type": "content_block_delta", "index": 0, "delta": part}
    return _line(type="stream_event", event=event, parent_tool_use_id=None)


def tool_use(call_id: str, name: str, **arguments: Any) -> ScriptStep:
    """Return a line that begins to use a tool."""
    return assistant({"type": "tool_use", "id": call_id, "name": name, "input": arguments})


def tool_result(call_id: str, content: Any, *, is_error: bool = False) -> ScriptStep:
    """Return a line that ends the use of a tool."""
    block = {
        "tool_use_id": call_id,
        "type": "tool_result",
        "content": content,
        "is_error": is_error,
    }
    message = {"role": "user", "content": [block]}
    result = {"stdout": content, "stderr": "", "interrupted": False}
    return _line(type="user", message=message, parent_tool_use_id=None, tool_use_result=result)


def result(words: Any = "done", **changes: Any) -> ScriptStep:
    """Return a ``result`` line; ``type`` is not its first key, as in the real one.

    A field of the value ``...`` is left out.
    """
    fields = {
        "is_error": False,
        "num_turns": 1,
        "subtype": "success",
        "total_cost_usd": 0.25,
        "usage": {"input_tokens": 10, "output_tokens": 5},
        "permission_denials": [],
        "terminal_reason": "completed",
        "api_error_status": None,
        "result": words,
        "type": "result",
        "duration_ms": 278,
        "result_index": 0,
        **changes,
    }
    return _line(**{name: value for name, value in fields.items() if value is not ...})


def denial(call_id: str, name: str, **arguments: Any) -> ScriptStep:
    """Return one entry of ``permission_denials``."""
    return {"tool_name": name, "tool_use_id": call_id, "tool_input": arguments}


def out(words: str) -> ScriptStep:
    """Write text to standard output, as it is."""
    return {"stdout": words}


def err(words: str) -> ScriptStep:
    """Write text to standard error, as it is."""
    return {"stderr": words}


def wait(name: str = "SIGINT") -> ScriptStep:
    """Wait for a signal."""
    return {"wait": name}


def leave(status: int) -> ScriptStep:
    """Exit with a status."""
    return {"exit": status}


def bare(step: ScriptStep) -> bytes:
    """Return what a step writes, without its line ending."""
    return json.dumps(step["line"]).encode()


def _line(**fields: Any) -> ScriptStep:
    return {
        "line": {**fields, "session_id": SESSION, "uuid": "5d4e7c1e-0000-4000-8000-000000000000"}
    }

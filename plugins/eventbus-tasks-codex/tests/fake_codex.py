"""The event shapes of ``codex exec --json``, as steps for the scripted program."""

from __future__ import annotations

from typing import Any

from eventbus_tasks.testing.agents import ScriptStep

THREAD = "01a21044-6a90-7f62-9176-15781f5e7c3b"


def line(kind: str, **fields: Any) -> ScriptStep:
    """Return any line."""
    return {"line": {"type": kind, **fields}}


def thread(thread_id: str = THREAD) -> ScriptStep:
    """Return the first line."""
    return line("thread.started", thread_id=thread_id)


def turn() -> ScriptStep:
    """Return the line that begins a turn."""
    return line("turn.started")


def item(event: str, kind: str, item_id: str = "item_1", **fields: Any) -> ScriptStep:
    """Return a line about an item: ``started``, ``updated`` or ``completed``."""
    return line(f"item.{event}", item={"id": item_id, "type": kind, **fields})


def message(text: str, item_id: str = "item_9") -> ScriptStep:
    """Return what the agent says."""
    return item("completed", "agent_message", item_id, text=text)


def command(
    event: str, words: str, *, status: str, code: int | None = None, output: str = ""
) -> ScriptStep:
    """Return a line about a command."""
    return item(
        event,
        "command_execution",
        command=f"/bin/bash -lc '{words}'",
        aggregated_output=output,
        exit_code=code,
        status=status,
    )


def done(sent: int = 16, produced: int = 57) -> ScriptStep:
    """Return the line of a turn that has ended well; tokens are those of the whole session."""
    usage = {
        "input_tokens": sent,
        "cached_input_tokens": 0,
        "output_tokens": produced,
        "reasoning_output_tokens": 0,
    }
    return line("turn.completed", usage=usage)


def failed(words: str) -> ScriptStep:
    """Return the line of a turn that has failed."""
    return line("turn.failed", error={"message": words})


def error(words: str) -> ScriptStep:
    """Return an error that is no item."""
    return line("error", message=words)

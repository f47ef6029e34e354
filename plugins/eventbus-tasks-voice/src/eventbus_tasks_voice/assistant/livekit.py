"""LiveKit Agents: function tools, and a reply that announces."""

from __future__ import annotations

import json
from typing import Any

from eventbus_tasks_voice.assistant.notifications import Notification, message_for
from eventbus_tasks_voice.assistant.schemas import Tool
from eventbus_tasks_voice.assistant.toolset import AssistantTools

__all__ = ["function_tools", "notify"]


def function_tools(tools: AssistantTools) -> list[Any]:
    """Return the tools as an `Agent` takes them.

    Raises:
        ImportError: The package `livekit-agents` is not installed.
    """
    from livekit.agents.llm import function_tool  # type: ignore[import-not-found,unused-ignore]

    def adapt(tool: Tool) -> Any:
        async def handle(raw_arguments: dict[str, Any]) -> str:
            # As JSON text: of a dict the model would get to see Python's notation.
            answer = await tools.call(tool.name, raw_arguments)
            return json.dumps(answer, ensure_ascii=False)

        return function_tool(handle, raw_schema=tool.to_dict())

    return [adapt(tool) for tool in tools.tools]


async def notify(session: Any, *notifications: Notification) -> bool:
    """Have the session tell of notifications when it is idle.

    Args:
        session: The `AgentSession`.
        notifications: What is to be told.

    Returns:
        Whether it was told to the end; if the user interrupted it, announce it again.
    """
    await session.wait_for_idle()
    handle = session.generate_reply(instructions=message_for(*notifications), tool_choice="none")
    await handle.wait_for_playout()
    return not handle.interrupted

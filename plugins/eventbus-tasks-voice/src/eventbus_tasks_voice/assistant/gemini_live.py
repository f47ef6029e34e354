"""Gemini Live: declarations, answers to tool calls, and notifications.

Plain dicts, which `google-genai` accepts wherever it accepts its own types::

    config = {"tools": [tool_declarations(tools)]}
    async with client.aio.live.connect(model=…, config=config) as session:
        async for message in session.receive():
            if message.tool_call:
                await session.send_tool_response(
                    function_responses=await function_responses(tools, message.tool_call)
                )
"""

from __future__ import annotations

from typing import Any, Protocol

from eventbus_tasks_voice.announcements import Urgency
from eventbus_tasks_voice.assistant.notifications import Notification, message_for
from eventbus_tasks_voice.assistant.toolset import AssistantTools

__all__ = ["function_responses", "notification_turn", "tool_declarations"]


class _FunctionCall(Protocol):
    @property
    def id(self) -> str | None: ...
    @property
    def name(self) -> str | None: ...
    @property
    def args(self) -> dict[str, Any] | None: ...


class _ToolCall(Protocol):
    @property
    def function_calls(self) -> Any: ...


def tool_declarations(tools: AssistantTools, *, non_blocking: bool = True) -> dict[str, Any]:
    """Return one element of ``config.tools``.

    Args:
        tools: The tools.
        non_blocking: The model goes on speaking while a tool works. Not every model and not
            Vertex AI know that: turn it off there, here and in `function_responses`.
    """
    behavior = {"behavior": "NON_BLOCKING"} if non_blocking else {}
    return {
        "function_declarations": [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters_json_schema": dict(tool.parameters),
                **behavior,
            }
            for tool in tools.tools
        ]
    }


async def function_responses(
    tools: AssistantTools,
    tool_call: _ToolCall,
    *,
    non_blocking: bool = True,
    scheduling: str = "WHEN_IDLE",
) -> list[dict[str, Any]]:
    """Carry out a tool call and return its function responses, for ``send_tool_response``.

    Args:
        tools: The tools.
        tool_call: The ``tool_call`` of a server message.
        non_blocking: As declared.
        scheduling: When the model speaks of the answer: ``"INTERRUPT"``, ``"WHEN_IDLE"``,
            ``"SILENT"``.
    """
    scheduled = {"scheduling": scheduling} if non_blocking else {}
    calls: list[_FunctionCall] = list(tool_call.function_calls or ())
    return [
        {
            "id": call.id,
            "name": call.name,
            # Under "output", because an "error" beside it would hide the other facts.
            "response": {"output": await tools.call(call.name or "", call.args)},
            **scheduled,
        }
        for call in calls
    ]


def notification_turn(*notifications: Notification) -> dict[str, Any]:
    """Return the arguments of ``session.send_client_content`` that tell of notifications.

    Send them when nobody speaks: new content interrupts the model. Silent ones are only added to
    what the model knows.
    """
    return {
        "turns": {"role": "user", "parts": [{"text": message_for(*notifications)}]},
        "turn_complete": any(each.urgency is not Urgency.SILENT for each in notifications),
    }

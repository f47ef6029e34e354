"""OpenAI Agents SDK: the tools of an agent, a realtime agent included."""

from __future__ import annotations

import functools
import json
from typing import Any

from eventbus_tasks_voice.assistant.toolset import AssistantTools

__all__ = ["function_tools"]


def function_tools(tools: AssistantTools) -> list[Any]:
    """Return the tools as `agents.FunctionTool` objects.

    Raises:
        ImportError: The package `openai-agents` is not installed.
    """
    from agents import FunctionTool  # type: ignore[import-not-found,unused-ignore]

    async def invoke(name: str, context: object, arguments: str) -> str:
        return json.dumps(await tools.call(name, arguments), ensure_ascii=False)

    return [
        FunctionTool(
            name=tool.name,
            description=tool.description,
            params_json_schema=dict(tool.parameters),
            on_invoke_tool=functools.partial(invoke, tool.name),
            strict_json_schema=False,  # strict schemas know no optional parameters
        )
        for tool in tools.tools
    ]

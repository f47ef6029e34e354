"""Pipecat: function schemas, handlers, and the frame that announces."""

from __future__ import annotations

import functools
from typing import Any

from eventbus_tasks_voice.announcements import Urgency
from eventbus_tasks_voice.assistant.notifications import Notification, message_for
from eventbus_tasks_voice.assistant.toolset import AssistantTools

__all__ = ["function_schemas", "notification_frame", "register", "tools_schema"]


def function_schemas(tools: AssistantTools) -> list[Any]:
    """Return the tools as `FunctionSchema` objects.

    Raises:
        ImportError: The package `pipecat-ai` is not installed.
    """
    try:
        from pipecat.adapters.llm.schemas.function_schema import FunctionSchema  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # before Pipecat 1.14
        from pipecat.adapters.schemas.function_schema import FunctionSchema  # type: ignore[import-not-found,unused-ignore]

    return [
        FunctionSchema(
            name=tool.name,
            description=tool.description,
            properties=dict(tool.parameters["properties"]),
            required=list(tool.parameters["required"]),
        )
        for tool in tools.tools
    ]


def tools_schema(tools: AssistantTools) -> Any:
    """Return the tools as the `ToolsSchema` that an `LLMContext` takes.

    Raises:
        ImportError: The package `pipecat-ai` is not installed.
    """
    try:
        from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # before Pipecat 1.14
        from pipecat.adapters.schemas.tools_schema import ToolsSchema  # type: ignore[import-not-found,unused-ignore]

    return ToolsSchema(standard_tools=function_schemas(tools))


def register(llm: Any, tools: AssistantTools, **options: Any) -> None:
    """Register a handler for each tool.

    Args:
        llm: The `LLMService`.
        tools: The tools.
        options: For ``llm.register_function``. Its defaults fit: every tool answers at once, so
            none needs ``cancel_on_interruption=False``.
    """

    async def handle(name: str, params: Any) -> None:
        await params.result_callback(await tools.call(name, params.arguments))

    for tool in tools.tools:
        llm.register_function(tool.name, functools.partial(handle, tool.name), **options)


def notification_frame(*notifications: Notification) -> Any:
    """Return the frame that tells the model of notifications; queue it when nobody speaks.

    Silent ones are only added to the context.

    Raises:
        ImportError: The package `pipecat-ai` is not installed.
    """
    from pipecat.frames.frames import LLMMessagesAppendFrame  # type: ignore[import-not-found,unused-ignore]

    return LLMMessagesAppendFrame(
        messages=[{"role": "developer", "content": message_for(*notifications)}],
        run_llm=any(each.urgency is not Urgency.SILENT for each in notifications),
    )

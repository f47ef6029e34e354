"""OpenAI Realtime and the Agents SDK: our events through the types of their own packages."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from assistant_scene import a_scene, converse, library
from eventbus_tasks_voice.assistant import openai_agents, openai_realtime
from eventbus_tasks_voice.assistant.openai_realtime import RealtimeTurns

openai = library("openai", "openai")
realtime = library("openai.types.realtime", "openai")
pydantic = library("pydantic", "openai")
websockets = library("websockets.asyncio.server", "websockets")

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The packages run on asyncio only."""
    return request.param


def checked(model: Any, data: dict[str, Any]) -> Any:
    """Validate strictly: of the right types, and nothing that the model does not know."""
    found = pydantic.TypeAdapter(model).validate_python(data, strict=True)
    assert found.to_dict() == data
    unknown = _unknown_fields(found)
    assert not unknown, unknown
    return found


def _unknown_fields(model: Any) -> list[str]:
    """Return the fields that were let through without being declared, at any depth."""
    found = [f"{type(model).__name__}.{name}" for name in model.model_extra or ()]
    for name in type(model).model_fields:
        value = getattr(model, name)
        for item in value if isinstance(value, list) else [value]:
            if hasattr(item, "model_extra"):
                found += _unknown_fields(item)
    return found


async def test_the_declarations_are_those_of_a_session(tmp_path: Path) -> None:
    """`session.update` with our tools is a client event of the package, field by field."""
    async with a_scene(tmp_path) as scene:
        tools = openai_realtime.tool_declarations(scene.tools)
        session = {"type": "realtime", "tools": tools}
        event = checked(realtime.SessionUpdateEvent, {"type": "session.update", "session": session})
        assert [tool.name for tool in event.session.tools] == [
            tool.name for tool in scene.tools.tools
        ]
        assert all(type(tool) is realtime.RealtimeFunctionTool for tool in event.session.tools)


async def test_the_conversation_by_typed_events(tmp_path: Path) -> None:
    """The conversation runs from server events of the package to client events of the package."""
    async with a_scene(tmp_path) as scene:
        turns = RealtimeTurns()

        async def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            item = realtime.RealtimeConversationItemFunctionCall(
                type="function_call",
                call_id="call_1",
                name=name,
                arguments=json.dumps(arguments),
                status="completed",
            )
            event = realtime.ResponseDoneEvent(
                type="response.done",
                event_id="event_1",
                response=realtime.RealtimeResponse(output=[item], status="completed"),
            ).to_dict()
            turns.observe(event)
            (found,) = openai_realtime.function_calls(event)
            output = await openai_realtime.function_call_output(scene.tools, found)
            sent = [checked(realtime.RealtimeClientEvent, each) for each in turns.request(output)]
            created, response = sent
            assert isinstance(created, realtime.ConversationItemCreateEvent)
            assert isinstance(created.item, realtime.RealtimeConversationItemFunctionCallOutput)
            assert isinstance(response, realtime.ResponseCreateEvent)
            answer: dict[str, Any] = json.loads(created.item.output)
            return answer

        notification = await converse(scene, call)
        event = checked(
            realtime.RealtimeClientEvent, openai_realtime.notification_event(notification)
        )
        assert isinstance(event.item, realtime.RealtimeConversationItemSystemMessage)


async def test_the_conversation_over_a_connection(tmp_path: Path) -> None:
    """A connection of the package carries the conversation, with one response at a time."""
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    connected: asyncio.Queue[Any] = asyncio.Queue()

    async def play(connection: Any) -> None:
        connected.put_nowait(connection)
        async for message in connection:
            received.put_nowait(json.loads(message))

    async with a_scene(tmp_path) as scene, websockets.serve(play, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        client = openai.AsyncOpenAI(api_key="none", websocket_base_url=f"ws://127.0.0.1:{port}")
        turns = RealtimeTurns()
        async with client.realtime.connect(model="some-model") as connection:
            server = await connected.get()
            tools = openai_realtime.tool_declarations(scene.tools)
            await connection.session.update(session={"type": "realtime", "tools": tools})
            assert (await received.get())["session"]["tools"] == tools

            async def take(event: dict[str, Any]) -> None:
                await server.send(json.dumps({"event_id": "e", **event}))
                taken = (await connection.recv()).to_dict()
                for outgoing in turns.observe(taken):
                    await connection.send(outgoing)
                for item in openai_realtime.function_calls(taken):
                    output = await openai_realtime.function_call_output(scene.tools, item)
                    for outgoing in turns.request(output):
                        await connection.send(outgoing)

            async def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
                item = {"type": "function_call", "call_id": "c", "status": "completed"}
                item |= {"name": name, "arguments": json.dumps(arguments)}
                response = {"object": "realtime.response", "status": "completed"}
                await take({"type": "response.created", "response": {**response, "output": []}})
                await take({"type": "response.done", "response": {**response, "output": [item]}})
                answer: dict[str, Any] = json.loads((await received.get())["item"]["output"])
                assert (await received.get())["type"] == "response.create"
                return answer

            notification = await converse(scene, call)
            # The response to the last answer is still under way: the news waits for its end.
            message = openai_realtime.notification_event(notification)
            assert turns.request(message) == []
            await take({"type": "response.done", "response": {"output": []}})
            assert await received.get() == message
            assert (await received.get())["type"] == "response.create"
        await client.close()


async def test_the_conversation_through_the_agents_sdk(tmp_path: Path) -> None:
    """The SDK takes our tools for a realtime session, and invokes them as it invokes its own."""
    agents = library("agents", "openai-agents")
    models = library("agents.realtime.openai_realtime", "openai-agents")
    contexts = library("agents.tool_context", "openai-agents")

    async with a_scene(tmp_path) as scene:
        tools = openai_agents.function_tools(scene.tools)
        session_tools = models.OpenAIRealtimeWebSocketModel()._tools_to_session_tools(tools, [])
        declared = openai_realtime.tool_declarations(scene.tools)
        assert [tool.to_dict() for tool in session_tools] == declared
        by_name = {tool.name: tool for tool in agents.Agent(name="voice", tools=tools).tools}

        async def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            text = json.dumps(arguments)
            context = contexts.ToolContext(
                context=None, tool_name=name, tool_call_id="call_1", tool_arguments=text
            )
            answer: dict[str, Any] = json.loads(await by_name[name].on_invoke_tool(context, text))
            return answer

        await converse(scene, call)

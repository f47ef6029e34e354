"""Gemini Live: our declarations and answers through google-genai's own conversion and session."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from assistant_scene import a_scene, converse, library
from eventbus_tasks_voice.assistant import gemini_live, message_for

genai = library("google.genai", "google-genai")
live = library("google.genai.live", "google-genai")
types = library("google.genai.types", "google-genai")
websockets = library("websockets.asyncio.server", "websockets")

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The package runs on asyncio only."""
    return request.param


class Server:
    """Stands for the vendor: a real web socket on loopback, one session, played by the test."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.to_send: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def serve(self, connection: Any) -> None:
        """Play one session."""
        self.received.put_nowait(json.loads(await connection.recv()))
        await connection.send(json.dumps({"setupComplete": {}}))
        sending = asyncio.create_task(self._send(connection))
        try:
            async for message in connection:
                self.received.put_nowait(json.loads(message))
        finally:
            sending.cancel()

    async def _send(self, connection: Any) -> None:
        while True:
            await connection.send(json.dumps(await self.to_send.get()))


async def test_the_conversation_over_a_live_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of the package sets up our tools, and carries the conversation both ways."""
    server = Server()

    connect = live.ws_connect

    def connect_without_tls(uri: str, **options: Any) -> Any:
        options.pop("ssl", None)
        return connect(uri.replace("wss:", "ws:"), **options)

    monkeypatch.setattr(live, "ws_connect", connect_without_tls)
    async with (
        a_scene(tmp_path) as scene,
        websockets.serve(server.serve, "127.0.0.1", 0) as listening,
    ):
        port = listening.sockets[0].getsockname()[1]
        options = types.HttpOptions(base_url=f"http://127.0.0.1:{port}")
        client = genai.Client(api_key="none", http_options=options)
        config = {"tools": [gemini_live.tool_declarations(scene.tools)]}
        async with client.aio.live.connect(model="some-model", config=config) as session:
            (declared,) = (await server.received.get())["setup"]["tools"]
            for sent, ours in zip(declared["functionDeclarations"], scene.tools.tools, strict=True):
                assert (sent["name"], sent["description"]) == (ours.name, ours.description)
                assert sent["behavior"] == "NON_BLOCKING"
                (schema,) = (sent[key] for key in sent if key.lower().startswith("parameters"))
                assert schema == ours.parameters
            messages = session.receive()

            async def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
                tool_call = {"functionCalls": [{"id": "f1", "name": name, "args": arguments}]}
                server.to_send.put_nowait({"toolCall": tool_call})
                message = await anext(messages)
                responses = await gemini_live.function_responses(scene.tools, message.tool_call)
                await session.send_tool_response(function_responses=responses)
                received = await server.received.get()
                (sent,) = received["tool_response"]["functionResponses"]
                answer: dict[str, Any] = sent.pop("response")["output"]
                assert sent == {"id": "f1", "name": name, "scheduling": "WHEN_IDLE"}
                return answer

            notification = await converse(scene, call)
            await session.send_client_content(**gemini_live.notification_turn(notification))
            content = (await server.received.get())["client_content"]
            assert content["turns"][0]["parts"][0]["text"] == message_for(notification)
            await messages.aclose()
        await client.aio.aclose()
        client.close()


@pytest.mark.parametrize("non_blocking", [True, False])
def test_the_declarations_are_valid(non_blocking: bool) -> None:
    """The strict types of the package, which forbid unknown fields, accept our declarations."""
    from eventbus_tasks_voice.assistant import AssistantTools

    from eventbus_tasks import TaskEngine

    tools = AssistantTools(TaskEngine(load_installed=False), {"shop": "/s"})
    declared = gemini_live.tool_declarations(tools, non_blocking=non_blocking)
    found = types.Tool.model_validate(declared).model_dump(exclude_none=True, mode="json")
    assert found == declared

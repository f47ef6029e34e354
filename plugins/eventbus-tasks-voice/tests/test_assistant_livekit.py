"""LiveKit Agents: our tools through its own tool context, formats and execution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from assistant_scene import a_scene, converse, library
from eventbus_tasks_voice.assistant import livekit, message_for

llm = library("livekit.agents.llm", "livekit-agents")
agents = library("livekit.agents", "livekit-agents")

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The package runs on asyncio only."""
    return request.param


async def test_the_declarations_in_every_format(tmp_path: Path) -> None:
    """LiveKit makes the declarations of each vendor from our schemas, without changing them."""
    async with a_scene(tmp_path) as scene:
        context = llm.ToolContext(livekit.function_tools(scene.tools))
        ours = {tool.name: tool.to_dict() for tool in scene.tools.tools}
        declared = [each["function"] for each in context.parse_function_tools("openai")]
        assert {each["name"]: each for each in declared} == ours
        (google,) = context.parse_function_tools("google")[:1]
        assert google
        assert len(context.parse_function_tools("anthropic")) == len(ours)


async def test_the_conversation_through_its_execution(tmp_path: Path) -> None:
    """The conversation runs through LiveKit's own execution of function calls."""
    async with a_scene(tmp_path) as scene:
        context = llm.ToolContext(livekit.function_tools(scene.tools))

        async def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            tool_call = llm.FunctionToolCall(
                name=name, arguments=json.dumps(arguments), call_id="call_1"
            )
            result = await llm.execute_function_call(tool_call, context)
            assert result.raw_exception is None
            assert not result.fnc_call_out.is_error
            answer: dict[str, Any] = json.loads(result.raw_output)
            return answer

        await converse(scene, call)


class ScriptedModel(llm.LLM):  # type: ignore[misc,name-defined]
    """Stands for the model: says, or calls, what the test wants next."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[Any] = []
        self.contexts: list[Any] = []

    def chat(self, *, chat_ctx: Any, tools: Any = None, conn_options: Any = None, **_: Any) -> Any:
        """Begin a reply."""
        self.contexts.append(chat_ctx.copy())
        options = conn_options or agents.DEFAULT_API_CONNECT_OPTIONS
        return _Reply(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=options)


class _Reply(llm.LLMStream):  # type: ignore[misc,name-defined]
    async def _run(self) -> None:
        delta = self._llm.turns.pop(0)
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", delta=delta))


async def test_the_conversation_in_a_session(tmp_path: Path) -> None:
    """In a real session our tools are called for the user's words, and the end is announced."""
    model = ScriptedModel()
    async with (
        a_scene(tmp_path) as scene,
        agents.AgentSession(llm=model) as session,
    ):
        tools = livekit.function_tools(scene.tools)
        await session.start(agents.Agent(instructions="Help.", tools=tools), record=False)

        async def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            tool_call = llm.FunctionToolCall(
                name=name, arguments=json.dumps(arguments), call_id="call_1"
            )
            model.turns = [
                llm.ChoiceDelta(role="assistant", tool_calls=[tool_call]),
                llm.ChoiceDelta(role="assistant", content="There you are."),
            ]
            result = await session.run(user_input="Words of the user")
            result.expect.next_event().is_function_call(name=name, arguments=arguments)
            output = result.expect.next_event().is_function_call_output(is_error=False)
            answer: dict[str, Any] = json.loads(output.event().item.output)
            return answer

        notification = await converse(scene, call)
        model.turns = [llm.ChoiceDelta(role="assistant", content="By the way, it is done.")]
        assert await livekit.notify(session, notification)
        items = model.contexts[-1].items
        told = [item.text_content or "" for item in items if item.type == "message"]
        assert any(message_for(notification) in text for text in told)
        assert model.turns == []

"""Pipecat: our schemas through its adapters, our handlers through a real service and pipeline."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from assistant_scene import a_scene, converse, library
from eventbus_tasks_voice.assistant import message_for, pipecat

frames = library("pipecat.frames.frames", "pipecat-ai")
pipeline = library("pipecat.pipeline.pipeline", "pipecat-ai")
workers = library("pipecat.pipeline.worker", "pipecat-ai")
contexts = library("pipecat.processors.aggregators.llm_context", "pipecat-ai")
aggregators = library("pipecat.processors.aggregators.llm_response_universal", "pipecat-ai")
processors = library("pipecat.processors.frame_processor", "pipecat-ai")
utils = library("pipecat.tests.utils", "pipecat-ai")
strategies = library("pipecat.turns.user_turn_strategies", "pipecat-ai")
runners = library("pipecat.workers.runner", "pipecat-ai")
chat = library("pipecat.adapters.llm.services.open_ai_adapter", "pipecat-ai")
realtime = library("pipecat.adapters.llm.services.open_ai_realtime_adapter", "pipecat-ai")
service = library("pipecat.services.llm_service", "pipecat-ai")

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[pytest.param(("asyncio", {}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The package runs on asyncio only."""
    return request.param


async def test_the_declarations_in_every_format(tmp_path: Path) -> None:
    """Pipecat's adapters make the declarations of the vendors from our schemas."""
    async with a_scene(tmp_path) as scene:
        schema = pipecat.tools_schema(scene.tools)
        ours = [tool.to_dict() for tool in scene.tools.tools]
        assert [tool.to_default_dict() for tool in schema.standard_tools] == ours
        declared = chat.OpenAILLMAdapter().to_provider_tools_format(schema)
        assert [tool["function"] for tool in declared] == ours
        declared = realtime.OpenAIRealtimeLLMAdapter().to_provider_tools_format(schema)
        assert [tool["name"] for tool in declared] == [tool["name"] for tool in ours]


class ScriptedService(service.LLMService):  # type: ignore[misc,name-defined]
    """Stands for the model: calls what the test wants when it is given the context."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.told: asyncio.Queue[str] = asyncio.Queue()

    async def process_frame(self, frame: Any, direction: Any) -> None:
        """Take a turn."""
        await super().process_frame(frame, direction)
        if isinstance(frame, frames.LLMContextFrame):
            calls, self.calls = self.calls, []
            if calls:
                await self.run_function_calls(calls)
            else:
                self.told.put_nowait(frame.context.messages[-1]["content"])
        else:
            await self.push_frame(frame, direction)


async def test_the_conversation_in_a_pipeline(tmp_path: Path) -> None:
    """In a real pipeline our handlers are called, and the end is added and makes the model run."""
    async with a_scene(tmp_path) as scene:
        model = ScriptedService()
        pipecat.register(model, scene.tools)
        context = contexts.LLMContext(tools=pipecat.tools_schema(scene.tools))
        outside = aggregators.LLMUserAggregatorParams(
            user_turn_strategies=strategies.ExternalUserTurnStrategies()
        )
        users, assistants = aggregators.LLMContextAggregatorPair(context, user_params=outside)
        seen: asyncio.Queue[Any] = asyncio.Queue()
        sink = utils.QueuedFrameProcessor(
            queue=seen, queue_direction=processors.FrameDirection.DOWNSTREAM
        )
        worker = workers.PipelineWorker(
            pipeline.Pipeline([users, model, sink, assistants]), cancel_on_idle_timeout=False
        )
        started = asyncio.Event()

        async def note_start(worker: Any, frame: Any) -> None:
            started.set()

        worker.add_event_handler("on_pipeline_started", note_start)

        runner = runners.WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        running = asyncio.create_task(runner.run())
        await started.wait()

        async def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            model.calls = [
                frames.FunctionCallFromLLM(
                    function_name=name, tool_call_id="call_1", arguments=arguments, context=context
                )
            ]
            await worker.queue_frame(frames.LLMRunFrame())
            while True:
                frame = await seen.get()
                if isinstance(frame, frames.FunctionCallResultFrame):
                    await model.told.get()  # the result has made the model run again
                    answer: dict[str, Any] = frame.result
                    return answer

        notification = await converse(scene, call)
        await worker.queue_frame(pipecat.notification_frame(notification))
        assert await model.told.get() == message_for(notification)
        await worker.queue_frame(frames.EndFrame())
        await running

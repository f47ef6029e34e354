"""An agent on the protocol's own Python library: an implementation that is not ours."""

from __future__ import annotations

import asyncio
from typing import Any

import acp
from acp import schema

SESSION = "sdk-session"


class SdkAgent:
    """Answers each prompt with all prompts of the session; asks before it does, where told to."""

    def __init__(self) -> None:
        self._client: Any = None
        self._prompts: list[str] = []
        self._cancelled = asyncio.Event()

    def on_connect(self, conn: Any) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **more: Any) -> Any:
        return acp.InitializeResponse(
            protocol_version=protocol_version,
            agent_info=schema.Implementation(name="sdk", version="9.9.9"),
        )

    async def new_session(self, cwd: str, **more: Any) -> Any:
        return acp.NewSessionResponse(session_id=SESSION)

    async def cancel(self, session_id: str, **more: Any) -> None:
        self._cancelled.set()

    async def prompt(self, session_id: str, prompt: Any, **more: Any) -> Any:
        self._cancelled.clear()
        text = "".join(block.text for block in prompt)
        self._prompts.append(text)
        if text == "wait":
            await self._say("waiting")
            await self._cancelled.wait()
            return acp.PromptResponse(stop_reason="cancelled")
        if text == "ask":
            await self._ask()
        await self._say(" ".join(self._prompts))
        return acp.PromptResponse(stop_reason="end_turn")

    async def _ask(self) -> None:
        options = [
            schema.PermissionOption(option_id="yes", name="Yes", kind="allow_once"),
            schema.PermissionOption(option_id="no", name="No", kind="reject_once"),
        ]
        call = schema.ToolCallUpdate(tool_call_id="1", title="edit a file", kind="edit")
        answer = await self._client.request_permission(
            session_id=SESSION, tool_call=call, options=options
        )
        await self._say(getattr(answer.outcome, "option_id", answer.outcome.outcome))

    async def _say(self, text: str) -> None:
        await self._client.session_update(SESSION, acp.update_agent_message_text(text))


if __name__ == "__main__":
    asyncio.run(acp.run_agent(SdkAgent()))  # type: ignore[arg-type,unused-ignore]

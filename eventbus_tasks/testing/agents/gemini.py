"""The Gemini API, as far as coding agents use it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from eventbus_tasks.testing.agents.scenarios import Conversation, Failure, TextReply, ToolCall

__all__ = ["GeminiGenerateContent"]

_ERRORS: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}

_PATH: Final = re.compile(r"/v1(?:beta)?/models/([^/:]+):(streamGenerateContent|generateContent)")
_NOTES: Final = re.compile(r"<([a-zA-Z_-]+)>.*?</\1>", re.DOTALL)

_TOOLS: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    "shell": {"run_shell_command": {"command": "command"}},
    "write": {"write_file": {"path": "file_path", "content": "content"}},
}


class GeminiGenerateContent:
    """The `Dialect` of ``POST /v1beta/models/MODEL:streamGenerateContent``.

    A request without tools is one of the client's own (which model to use, a summary): its answer
    is short, and the script does not go on with it.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def serves(self, path: str) -> bool:
        """Whether it asks a model for content."""
        return _PATH.fullmatch(path) is not None

    def accepts(self, headers: Mapping[str, str], key: str) -> bool:
        """Whether the key comes in a header of its own."""
        return headers.get("x-goog-api-key") == key

    def read(self, path: str, body: Mapping[str, Any]) -> Conversation:
        """Return what the contents say."""
        found = _PATH.fullmatch(path)
        assert found is not None
        prompts: list[str] = []
        results: list[str] = []
        rounds = 0
        for content in body.get("contents", ()):
            if content.get("role") != "user":
                continue
            parts = [part for part in content.get("parts", ()) if isinstance(part, Mapping)]
            answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
            text = _NOTES.sub("", "\n".join(str(part.get("text", "")) for part in parts)).strip()
            if answers:
                rounds += 1
                results += [json.dumps(answer.get("response", {})) for answer in answers]
            elif text:
                prompts.append(text)
                rounds, results = 0, []
        tools = tuple(
            str(declared.get("name", ""))
            for tool in body.get("tools", ())
            for declared in tool.get("functionDeclarations", ())
        )
        return Conversation(
            prompts=tuple(prompts) if tools else ("a short answer, please",),
            rounds=rounds,
            results=tuple(results),
            tools=tools,
            model=found[1],
            streamed=found[2] == "streamGenerateContent",
        )

    def stream(self, reply: TextReply | ToolCall, conversation: Conversation) -> Iterator[bytes]:
        """Yield server-sent events."""
        part = self._part(reply, conversation)
        parts: Sequence[Mapping[str, Any]] = [part]
        if isinstance(reply, TextReply):
            parts = [{"text": piece} for piece in reply.pieces]
        for piece in parts:
            yield _event(self._answer([piece], conversation))
        if isinstance(reply, TextReply) and reply.ending != "complete":
            return
        yield _event(self._answer([{"text": ""}], conversation, finish="STOP", size=part))

    def whole(self, reply: TextReply | ToolCall, conversation: Conversation) -> bytes:
        """Return the answer."""
        part = self._part(reply, conversation)
        return json.dumps(self._answer([part], conversation, finish="STOP", size=part)).encode()

    def error(self, failure: Failure) -> bytes:
        """Return an error object."""
        kind = _ERRORS.get(failure.status, "UNKNOWN")
        error = {"code": failure.status, "message": failure.message, "status": kind}
        return json.dumps({"error": error}).encode()

    def _part(self, reply: TextReply | ToolCall, conversation: Conversation) -> dict[str, Any]:
        if isinstance(reply, TextReply):
            return {"text": reply.text}
        for name, names in _TOOLS[reply.kind].items():
            if name in conversation.tools:
                arguments = {theirs: reply.arguments[ours] for ours, theirs in names.items()}
                return {"functionCall": {"name": name, "args": arguments}}
        return {"text": f"I have no {reply.kind} tool."}

    def _answer(
        self,
        parts: Sequence[Mapping[str, Any]],
        conversation: Conversation,
        *,
        finish: str | None = None,
        size: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
        answer: dict[str, Any] = {
            "candidates": [candidate],
            "modelVersion": conversation.model,
            "responseId": f"answer-{next(self._numbers)}",
        }
        if finish is not None:
            candidate["finishReason"] = finish
            sent = 1 + sum(map(len, conversation.prompts)) // 4
            made = 2 + len(json.dumps(size)) // 4
            answer["usageMetadata"] = {
                "promptTokenCount": sent,
                "candidatesTokenCount": made,
                "totalTokenCount": sent + made,
            }
        return answer


def _event(data: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\r\n\r\n".encode()

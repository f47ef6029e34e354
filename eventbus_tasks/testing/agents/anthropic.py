"""The Anthropic Messages API, as far as coding agents use it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from eventbus_tasks.testing.agents.scenarios import Conversation, Failure, TextReply, ToolCall

__all__ = ["AnthropicMessages"]

_ERRORS: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}

# What clients call a tool, and their names for our arguments.
_TOOLS: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    "shell": {"Bash": {"command": "command"}},
    "write": {"Write": {"path": "file_path", "content": "content"}},
}

# Clients put notes of their own between what the user says.
_NOTES: Final = re.compile(r"<(system-reminder|local-command-[a-z]+)>.*?</\1>", re.DOTALL)
_INTERRUPTED: Final = "[Request interrupted by user"


class AnthropicMessages:
    """The `Dialect` of ``POST /v1/messages``."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def serves(self, path: str) -> bool:
        """Whether it is the one path of this API."""
        return path == "/v1/messages"

    def accepts(self, headers: Mapping[str, str], key: str) -> bool:
        """Whether the key comes in one of the two ways."""
        return key in (
            headers.get("x-api-key"),
            headers.get("authorization", "").removeprefix("Bearer "),
        )

    def read(self, path: str, body: Mapping[str, Any]) -> Conversation:
        """Return what the messages say."""
        del path
        prompts: list[str] = []
        results: list[str] = []
        rounds = 0
        for message in body.get("messages", ()):
            if message.get("role") != "user":
                continue
            blocks = _blocks(message.get("content", ""))
            found = [_text_of(block.get("content", "")) for block in blocks if _is_result(block)]
            prompted = False
            for block in blocks:
                text = _NOTES.sub("", str(block.get("text", ""))).strip()
                # Beside a result stands a note of the client, unless it is a script.
                is_prompt = not found or re.search("^fake:", text, re.MULTILINE)
                if text and is_prompt and not text.startswith(_INTERRUPTED):
                    prompts.append(text)
                    rounds, results, prompted = 0, [], True
            # Results before a new script in one message are those of what was interrupted.
            if found and not prompted:
                rounds += 1
                results += found
        return Conversation(
            prompts=tuple(prompts),
            rounds=rounds,
            results=tuple(results),
            tools=tuple(str(tool.get("name", "")) for tool in body.get("tools", ())),
            model=str(body.get("model", "")),
            streamed=body.get("stream") is True,
        )

    def stream(self, reply: TextReply | ToolCall, conversation: Conversation) -> Iterator[bytes]:
        """Yield server-sent events."""
        message = self._message(reply, conversation)
        (block,) = message["content"]
        usage = message["usage"]
        begun = {**message, "content": [], "stop_reason": None}
        begun["usage"] = {**usage, "output_tokens": 1}
        yield _event("message_start", message=begun)
        if block["type"] == "text":
            empty, deltas = {**block, "text": ""}, _text_deltas(reply)
        else:
            empty, deltas = {**block, "input": {}}, _input_deltas(block["input"])
        yield _event("content_block_start", index=0, content_block=empty)
        for delta in deltas:
            yield _event("content_block_delta", index=0, delta=delta)
        if isinstance(reply, TextReply) and reply.ending != "complete":
            return
        yield _event("content_block_stop", index=0)
        yield _event(
            "message_delta",
            delta={"stop_reason": message["stop_reason"], "stop_sequence": None},
            usage={"output_tokens": usage["output_tokens"]},
        )
        yield _event("message_stop")

    def whole(self, reply: TextReply | ToolCall, conversation: Conversation) -> bytes:
        """Return the message."""
        return json.dumps(self._message(reply, conversation)).encode()

    def error(self, failure: Failure) -> bytes:
        """Return an error object."""
        kind = _ERRORS.get(failure.status, "api_error")
        error = {"type": kind, "message": failure.message}
        return json.dumps({"type": "error", "error": error}).encode()

    def _message(self, reply: TextReply | ToolCall, conversation: Conversation) -> dict[str, Any]:
        number = next(self._numbers)
        block = _block(reply, conversation, number)
        return {
            "id": f"msg_{number:024d}",
            "type": "message",
            "role": "assistant",
            "model": conversation.model or "fake-model",
            "content": [block],
            "stop_reason": "end_turn" if block["type"] == "text" else "tool_use",
            "stop_sequence": None,
            "usage": {
                # Made up, but more for more text, and never nothing.
                "input_tokens": 1 + sum(map(len, conversation.prompts)) // 4,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 2 + len(json.dumps(block)) // 4,
            },
        }


def _block(reply: TextReply | ToolCall, conversation: Conversation, number: int) -> dict[str, Any]:
    if isinstance(reply, TextReply):
        return {"type": "text", "text": reply.text}
    for name, names in _TOOLS[reply.kind].items():
        if name in conversation.tools:
            arguments = {theirs: reply.arguments[ours] for ours, theirs in names.items()}
            return {
                "type": "tool_use",
                "id": f"toolu_{number:022d}",
                "name": name,
                "input": arguments,
            }
    return {"type": "text", "text": f"I have no {reply.kind} tool."}


def _text_deltas(reply: TextReply | ToolCall) -> Iterator[dict[str, str]]:
    pieces = reply.pieces if isinstance(reply, TextReply) else (f"I have no {reply.kind} tool.",)
    for piece in pieces:
        yield {"type": "text_delta", "text": piece}


def _input_deltas(arguments: Mapping[str, str]) -> Iterator[dict[str, str]]:
    text = json.dumps(arguments)
    # In two pieces, as real ones come in many.
    for piece in (text[:10], text[10:]):
        yield {"type": "input_json_delta", "partial_json": piece}


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def _blocks(content: Any) -> Sequence[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _is_result(block: Mapping[str, Any]) -> bool:
    return block.get("type") == "tool_result"


def _text_of(content: Any) -> str:
    return "".join(str(block.get("text", "")) for block in _blocks(content))

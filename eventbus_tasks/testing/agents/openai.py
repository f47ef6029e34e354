"""The two APIs of OpenAI that coding agents use: Responses and Chat Completions."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from eventbus_tasks.testing.agents.scenarios import Conversation, Failure, TextReply, ToolCall

__all__ = ["OpenAIChat", "OpenAIResponses"]

_ERRORS: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    429: "rate_limit_exceeded",
}

# Clients put what they know about the machine and the project before what the user says.
_NOTES: Final = re.compile(r"<([a-zA-Z_ -]+)>.*?</\1>", re.DOTALL)
_HEADING: Final = re.compile(r"# AGENTS\.md instructions.*", re.DOTALL)


class OpenAIResponses:
    """The `Dialect` of ``POST /v1/responses``, as Codex speaks it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def serves(self, path: str) -> bool:
        """Whether it is the one path of this API."""
        return path == "/v1/responses"

    def accepts(self, headers: Mapping[str, str], key: str) -> bool:
        """Whether the key comes as a bearer token."""
        return headers.get("authorization") == f"Bearer {key}"

    def read(self, path: str, body: Mapping[str, Any]) -> Conversation:
        """Return what the items say."""
        del path
        items = body.get("input", ())
        if isinstance(items, str):
            items = [{"type": "message", "role": "user", "content": items}]
        prompts: list[str] = []
        results: list[str] = []
        rounds, before = 0, ""
        for item in items:
            kind = str(item.get("type", "message"))
            if kind == "message" and item.get("role") == "user":
                text = _said(item.get("content", ""))
                if text:
                    prompts.append(text)
                    rounds, results = 0, []
            elif kind.endswith("_call_output"):
                # Results of calls that were made together come one after the other.
                rounds += not before.endswith("_call_output")
                results.append(_text_of(item.get("output", "")))
            before = kind
        return Conversation(
            prompts=tuple(prompts),
            rounds=rounds,
            results=tuple(results),
            tools=tuple(_names(body.get("tools", ()))),
            model=str(body.get("model", "")),
            streamed=body.get("stream") is True,
        )

    def stream(self, reply: TextReply | ToolCall, conversation: Conversation) -> Iterator[bytes]:
        """Yield server-sent events."""
        response = self._response(reply, conversation)
        (item,) = response["output"]
        begun = {**response, "status": "in_progress", "output": [], "usage": None}
        yield _event("response.created", response=begun)
        yield _event("response.output_item.added", output_index=0, item=_empty(item))
        if item["type"] == "message":
            pieces = reply.pieces if isinstance(reply, TextReply) else (item["content"][0]["text"],)
            for piece in pieces:
                yield _event(
                    "response.output_text.delta",
                    item_id=item["id"],
                    output_index=0,
                    content_index=0,
                    delta=piece,
                )
        if isinstance(reply, TextReply) and reply.ending != "complete":
            return
        yield _event("response.output_item.done", output_index=0, item=item)
        yield _event("response.completed", response=response)

    def whole(self, reply: TextReply | ToolCall, conversation: Conversation) -> bytes:
        """Return the response."""
        return json.dumps(self._response(reply, conversation)).encode()

    def error(self, failure: Failure) -> bytes:
        """Return an error object."""
        return _error(failure)

    def _response(self, reply: TextReply | ToolCall, conversation: Conversation) -> dict[str, Any]:
        number = next(self._numbers)
        item = self._item(reply, conversation, number)
        sent = 1 + sum(map(len, conversation.prompts)) // 4
        made = 2 + len(json.dumps(item)) // 4
        return {
            "id": f"resp_{number:024d}",
            "object": "response",
            "created_at": 1_700_000_000,
            "status": "completed",
            "model": conversation.model or "fake-model",
            "output": [item],
            "usage": {
                "input_tokens": sent,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": made,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": sent + made,
            },
        }

    def _item(
        self, reply: TextReply | ToolCall, conversation: Conversation, number: int
    ) -> dict[str, Any]:
        if isinstance(reply, TextReply):
            return _message(reply.text, number)
        call = _call(reply, conversation.tools)
        if call is None:
            return _message(f"I have no {reply.kind} tool.", number)
        name, arguments = call
        return {
            "id": f"fc_{number:024d}",
            "type": "function_call",
            "status": "completed",
            "name": name,
            "call_id": f"call_{number:022d}",
            "arguments": json.dumps(arguments),
        }


class OpenAIChat:
    """The `Dialect` of ``POST /v1/chat/completions``, which many agents speak.

    A request without tools is one for a title or a summary: it gets a short answer, and the
    script does not go on with it.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def serves(self, path: str) -> bool:
        """Whether it is the one path of this API."""
        return path == "/v1/chat/completions"

    def accepts(self, headers: Mapping[str, str], key: str) -> bool:
        """Whether the key comes as a bearer token."""
        return headers.get("authorization") == f"Bearer {key}"

    def read(self, path: str, body: Mapping[str, Any]) -> Conversation:
        """Return what the messages say."""
        del path
        prompts: list[str] = []
        results: list[str] = []
        rounds, before = 0, ""
        for message in body.get("messages", ()):
            role = str(message.get("role", ""))
            if role == "user":
                text = _said(message.get("content", ""))
                if text:
                    prompts.append(text)
                    rounds, results = 0, []
            elif role == "tool":
                rounds += before != "tool"
                results.append(_text_of(message.get("content", "")))
            before = role
        tools = tuple(_names(body.get("tools", ())))
        return Conversation(
            # What asks for a title is no script, whatever it quotes.
            prompts=tuple(prompts) if tools else ("a title, please",),
            rounds=rounds,
            results=tuple(results),
            tools=tools,
            model=str(body.get("model", "")),
            streamed=body.get("stream") is True,
        )

    def stream(self, reply: TextReply | ToolCall, conversation: Conversation) -> Iterator[bytes]:
        """Yield server-sent events."""
        whole = self._completion(reply, conversation)
        (choice,) = whole["choices"]
        message = choice["message"]
        head = {key: whole[key] for key in ("id", "created", "model")}

        def chunk(delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> bytes:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            data = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
            return f"data: {json.dumps(data)}\n\n".encode()

        yield chunk({"role": "assistant", "content": ""})
        for position, call in enumerate(message.get("tool_calls", ())):
            yield chunk({"tool_calls": [{"index": position, **call}]})
        if message["content"]:
            pieces = reply.pieces if isinstance(reply, TextReply) else (message["content"],)
            for piece in pieces:
                yield chunk({"content": piece})
        if isinstance(reply, TextReply) and reply.ending != "complete":
            return
        yield chunk({}, choice["finish_reason"], usage=whole["usage"])
        yield b"data: [DONE]\n\n"

    def whole(self, reply: TextReply | ToolCall, conversation: Conversation) -> bytes:
        """Return the completion."""
        return json.dumps(self._completion(reply, conversation)).encode()

    def error(self, failure: Failure) -> bytes:
        """Return an error object."""
        return _error(failure)

    def _completion(
        self, reply: TextReply | ToolCall, conversation: Conversation
    ) -> dict[str, Any]:
        number = next(self._numbers)
        call = None if isinstance(reply, TextReply) else _call(reply, conversation.tools)
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if call is not None:
            name, arguments = call
            function = {"name": name, "arguments": json.dumps(arguments)}
            made = {"id": f"call_{number:022d}", "type": "function", "function": function}
            message["tool_calls"] = [made]
        else:
            message["content"] = (
                reply.text if isinstance(reply, TextReply) else f"I have no {reply.kind} tool."
            )
        sent = 1 + sum(map(len, conversation.prompts)) // 4
        produced = 2 + len(json.dumps(message)) // 4
        return {
            "id": f"chatcmpl-{number:024d}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": conversation.model or "fake-model",
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": "stop" if call is None else "tool_calls",
                }
            ],
            "usage": {
                "prompt_tokens": sent,
                "completion_tokens": produced,
                "total_tokens": sent + produced,
            },
        }


def _call(reply: ToolCall, tools: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the arguments of a call, as the client at hand wants them."""
    given = reply.arguments
    if reply.kind == "write" and "write" in tools:
        return "write", {"filePath": given["path"], "content": given["content"]}
    if reply.kind == "write":
        # Clients that change files with patches, or have nothing but a shell.
        quoted = "'" + given["content"].replace("'", "'\\''") + "'"
        path = "'" + given["path"].replace("'", "'\\''") + "'"
        command = f"printf %s {quoted} > {path}"
    else:
        command = given["command"]
    if "exec_command" in tools:
        # It comes back when the command has ended, or after this time with what there is.
        return "exec_command", {"cmd": command, "yield_time_ms": 30_000}
    if "shell_command" in tools:
        return "shell_command", {"command": command, "timeout_ms": 600_000}
    if "shell" in tools:
        return "shell", {"command": ["bash", "-c", command], "timeout_ms": 600_000}
    if "bash" in tools:
        return "bash", {"command": command, "description": "Does what the script says"}
    return None


def _message(text: str, number: int) -> dict[str, Any]:
    return {
        "id": f"msg_{number:024d}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def _empty(item: Mapping[str, Any]) -> dict[str, Any]:
    begun = {**item, "status": "in_progress"}
    if item["type"] == "message":
        return {**begun, "content": []}
    return {**begun, "arguments": ""}


def _names(tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for tool in tools:
        function = tool.get("function")
        yield str((function if isinstance(function, Mapping) else tool).get("name", ""))


def _said(content: Any) -> str:
    """Return what a user has said, without the notes of the client around it."""
    texts = []
    for block in [{"text": content}] if isinstance(content, str) else content:
        text = _HEADING.sub("", _NOTES.sub("", str(block.get("text", "")))).strip()
        if text:
            texts.append(text)
    return "\n".join(texts)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return _text_of(content.get("content", ""))
    return "".join(str(block.get("text", "")) for block in content)


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def _error(failure: Failure) -> bytes:
    kind = _ERRORS.get(failure.status, "server_error")
    error = {"message": failure.message, "type": kind, "param": None, "code": kind}
    return json.dumps({"error": error}).encode()

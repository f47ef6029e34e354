"""OpenAI Realtime: the tools of a session, the answers to function calls, and whose turn it is.

Works on plain dicts (what goes over the wire), so with any client; objects of the `openai` package
go through their ``to_dict()``. A loop over a connection::

    turns = RealtimeTurns()
    await connection.session.update(session={"type": "realtime", "tools": tool_declarations(tools)})
    async for event in connection:
        event = event.to_dict()
        for outgoing in turns.observe(event):
            await connection.send(outgoing)
        for call in function_calls(event):
            output = await function_call_output(tools, call)
            for outgoing in turns.request(output):
                await connection.send(outgoing)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from eventbus_tasks_voice.assistant.notifications import Notification, message_for
from eventbus_tasks_voice.assistant.toolset import AssistantTools

__all__ = [
    "RealtimeTurns",
    "function_call_output",
    "function_calls",
    "notification_event",
    "tool_declarations",
]

_UNKNOWN: Final = object()
_BUSY: Final = "conversation_already_has_active_response"


def tool_declarations(tools: AssistantTools) -> list[dict[str, Any]]:
    """Return the tools as ``session.tools`` wants them."""
    return [{"type": "function", **tool.to_dict()} for tool in tools.tools]


def function_calls(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the function calls that a server event completes: those of ``response.done``.

    Calls of a response that was interrupted are left out: the model did not finish them.
    """
    if event.get("type") != "response.done":
        return []
    items = (event.get("response") or {}).get("output") or ()
    return [
        item
        for item in items
        if item.get("type") == "function_call" and item.get("status", "completed") == "completed"
    ]


async def function_call_output(tools: AssistantTools, call: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a ``function_call`` item and return the client event that answers it."""
    answer = await tools.call(str(call.get("name")), call.get("arguments"))
    output = json.dumps(answer, ensure_ascii=False)
    item = {"type": "function_call_output", "call_id": call.get("call_id"), "output": output}
    return {"type": "conversation.item.create", "item": item}


def notification_event(*notifications: Notification) -> dict[str, Any]:
    """Return the client event that tells the model of notifications; see `message_for`."""
    content = [{"type": "input_text", "text": message_for(*notifications)}]
    item = {"type": "message", "role": "system", "content": content}
    return {"type": "conversation.item.create", "item": item}


class RealtimeTurns:
    """Knows whose turn it is, and holds back what would disturb it.

    A response may be asked for only when none is active, and should be only when nobody speaks.
    Does no input or output: what its methods return is to be sent, in that order.

    Args:
        automatic: The session answers by itself when the user has stopped speaking (turn
            detection with ``create_response``, the default of sessions).

    Attributes:
        playing: Set it while the application plays audio; it is kept up to date by itself on
            WebRTC and SIP. Call `release` when it has become false.
    """

    def __init__(self, *, automatic: bool = True) -> None:
        self.playing: bool = False
        self._automatic = automatic
        self._speaking = False
        # A response that we have asked for, or that the session will begin by itself.
        self._expected = False
        self._active: set[object] = set()
        self._wanted = False
        self._requests = 0
        self._held: list[dict[str, Any]] = []

    @property
    def is_idle(self) -> bool:
        """Whether nobody speaks and no response is active or to be expected."""
        return not (self._speaking or self._expected or self._active or self.playing)

    def observe(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take note of a server event and return the client events that may be sent now."""
        match event.get("type"):
            case "input_audio_buffer.speech_started":
                self._speaking = True
            case "input_audio_buffer.speech_stopped":
                self._speaking = False
                self._expected = self._expected or self._automatic
            case "input_audio_buffer.cleared":
                self._speaking = self._expected = False
            case "response.created":
                self._expected = False
                self._active.add(_response_id(event))
            case "response.done":
                ended = _response_id(event)
                if ended not in self._active:
                    self._expected = (
                        False  # its beginning was missed: rather ask than wait for ever
                    )
                self._active -= {ended, _UNKNOWN}
            case "output_audio_buffer.started":
                self.playing = True
            case "output_audio_buffer.stopped" | "output_audio_buffer.cleared":
                self.playing = False
            case "error":
                self._refused(event.get("error") or {})
        return self.release()

    def request(self, *events: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Ask for a response to these client events; return those that may be sent now.

        Answers to functions are never held back, for the model waits for them; messages are, and
        so is the request for a response, until `is_idle`.
        """
        now: list[dict[str, Any]] = []
        for event in map(dict, events):
            answers = (event.get("item") or {}).get("type") == "function_call_output"
            (now if answers else self._held).append(event)
        self._wanted = True
        return now + self.release()

    def release(self) -> list[dict[str, Any]]:
        """Return what was held back, with one request for a response, if `is_idle`."""
        if not self._wanted or not self.is_idle:
            return []
        held, self._held = self._held, []
        self._wanted = False
        self._expected = True
        self._requests += 1
        return [*held, {"type": "response.create", "event_id": self._request_id}]

    @property
    def _request_id(self) -> str:
        return f"ebt_response_{self._requests}"

    def _refused(self, error: Mapping[str, Any]) -> None:
        ours = self._requests and error.get("event_id") == self._request_id
        if error.get("code") == _BUSY and ours:
            # Another response is active, maybe one that began before we listened: ours comes next.
            self._wanted = True
            self._active = self._active or {_UNKNOWN}
        if ours:
            self._expected = False


def _response_id(event: Mapping[str, Any]) -> object:
    return (event.get("response") or {}).get("id")

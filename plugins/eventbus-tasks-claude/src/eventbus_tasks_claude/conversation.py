"""What a Claude that stays is told: prompts, interrupts, and answers to what it has asked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from eventbus_tasks import (
    AgentActivity,
    AgentAnswer,
    AgentInputRequired,
    AgentOption,
    Answer,
    Deny,
    Send,
    Withdraw,
)
from eventbus_tasks.agents import (
    input_summary,
    list_in,
    object_in,
    one_line,
    text_in,
    unknown_event,
)

__all__ = ["Conversation"]

_QUESTION: Final = "AskUserQuestion"
"""The tool with which Claude asks people something; permission to use it is the answer."""


class Conversation:
    """Claude's side of the stream-json protocol of standard input, for one run."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._talks = False  # Claude reads what it is told
        self._asked: dict[str, Mapping[str, Any]] = {}  # what open requests want to use a tool for

    # -- to Claude ----------------------------------------------------------------------------

    def prompt(self, text: str) -> bytes:
        """Return a message of the user."""
        self._talks = True
        content = [{"type": "text", "text": text}]
        return _line({"type": "user", "message": {"role": "user", "content": content}})

    def interrupt(self) -> bytes:
        """Return what ends the turn at hand; Claude then withdraws what it has asked."""
        number = f"ebt-{next(self._numbers)}"
        request = {"subtype": "interrupt"}
        return _line({"type": "control_request", "request_id": number, "request": request})

    def answer(self, request: AgentInputRequired, answer: AgentAnswer) -> bytes:
        """Return the answer to a request."""
        wanted = dict(self._asked.pop(request.request_id, {}))
        response: dict[str, Any] = {"behavior": "allow", "updatedInput": wanted}
        if isinstance(answer, Deny):
            message = answer.reason or "It was not allowed."
            response = {"behavior": "deny", "message": message}
        elif isinstance(answer, Answer):
            questions = _questions(wanted)
            wanted["answers"] = dict(zip(questions, _parts(answer.text, questions), strict=True))
        outer = {"subtype": "success", "request_id": request.request_id, "response": response}
        return _line({"type": "control_response", "response": outer})

    # -- from Claude --------------------------------------------------------------------------

    def read_request(self, data: Mapping[str, Any]) -> Iterator[AgentActivity | Send]:
        """Return what a line of the type ``control_request`` means, and what answers it.

        What was not offered is refused, so that Claude does not wait for it.
        """
        request = object_in(data, "request")
        subtype = text_in(request, "subtype")
        if subtype != "can_use_tool":
            yield unknown_event("control_request", subtype)
            if self._talks:
                yield Send(data=_refusal(data.get("request_id"), subtype))
            return
        tool = one_line(text_in(request, "tool_name"), 100)
        wanted = object_in(request, "input")
        request_id = text_in(data, "request_id")
        self._asked[request_id] = wanted
        questions = _questions(wanted) if tool == _QUESTION else ()
        if questions:
            yield AgentInputRequired(
                kind="question",
                prompt="\n".join(questions),
                request_id=request_id,
                tool=tool,
                options=_choices(wanted),
            )
            return
        what = input_summary(wanted)
        named = tool or "a tool"
        yield AgentInputRequired(
            kind="permission",
            prompt=f"may it use {named}: {what}" if what else f"may it use {named}",
            request_id=request_id,
            tool=tool,
            summary=what,
        )

    def read_cancel(self, data: Mapping[str, Any]) -> Withdraw:
        """Return what a line of the type ``control_cancel_request`` means."""
        request_id = text_in(data, "request_id")
        self._asked.pop(request_id, None)
        return Withdraw(request_id=request_id)


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"


def _refusal(request_id: Any, subtype: str) -> bytes:
    error = f"not supported: {one_line(subtype, 100)}"
    outer = {"subtype": "error", "request_id": request_id, "error": error}
    return _line({"type": "control_response", "response": outer})


def _questions(wanted: Mapping[str, Any]) -> tuple[str, ...]:
    items = (item for item in list_in(wanted, "questions") if isinstance(item, dict))
    return tuple(text for item in items if (text := text_in(item, "question")))


def _choices(wanted: Mapping[str, Any]) -> tuple[AgentOption, ...]:
    """Return what a single question offers; people may always answer something else."""
    questions = list_in(wanted, "questions")
    if len(questions) != 1 or not isinstance(questions[0], dict):
        return ()
    labels = (
        one_line(text_in(item, "label"))
        for item in list_in(questions[0], "options")
        if isinstance(item, dict)
    )
    return tuple(AgentOption(id=label, label=label, kind="answer") for label in labels if label)


def _parts(text: str, questions: Sequence[str]) -> list[str]:
    """Return one answer for each question: the lines of the text, the last one for all others."""
    if len(questions) == 1:
        return [text]
    lines = text.splitlines() or [""]
    return [lines[min(position, len(lines) - 1)] for position in range(len(questions))]

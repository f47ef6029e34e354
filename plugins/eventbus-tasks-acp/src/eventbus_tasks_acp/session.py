"""One session with an agent: the handshake, turns one after the other, permissions.

Nothing here does anything: lines come in as objects, and what is to be sent comes out as `Send`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from eventbus_tasks import (
    AgentActivity,
    AgentAnswer,
    AgentInputRequired,
    AgentOption,
    AgentResult,
    AgentSession,
    AgentUsage,
    Allow,
    Deny,
    InputClosedError,
    Send,
    Withdraw,
)
from eventbus_tasks.agents import (
    count_in,
    list_in,
    object_in,
    one_line,
    price_in,
    text_in,
    unknown_event,
)
from eventbus_tasks_acp.choices import choice, current
from eventbus_tasks_acp.messages import (
    error_text,
    failure,
    notification,
    readable,
    reply,
    request,
)
from eventbus_tasks_acp.work import Messages, ToolCalls

__all__ = ["PROTOCOL_VERSION", "AcpSession", "Item", "SessionPlan"]

PROTOCOL_VERSION: Final = 1
"""The version of the protocol that is spoken here, the only one that is in use."""

Item: TypeAlias = AgentActivity | Send | Withdraw
"""What a message means: events, and what is to be sent."""

_Continuation: TypeAlias = Callable[[Mapping[str, Any]], Iterator[Item]]

_UNTIL_END: Final = 10.0
"""Seconds that an agent has to end when its input has ended; some never do, which is no failure."""

_KINDS: Final[Mapping[str, str]] = {
    "allow_once": "allow",
    "allow_always": "allow_always",
    "reject_once": "deny",
    "reject_always": "deny_always",
}

_STOPS: Final[Mapping[str, str]] = {
    "cancelled": "its turn was interrupted",
    "max_tokens": "its model reached its limit of tokens",
    "max_turn_requests": "it reached its limit of requests to its model in one turn",
    "refusal": "it refused to go on",
}
"""Why a turn has ended that was no success, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """What a session is to be.

    Attributes:
        cwd: The absolute project directory.
        prompt: The first prompt.
        stays: The agent gets further prompts until somebody closes its input; otherwise it is
            closed after the last turn that is known.
        resume: The session to go on with; ``""`` for a new one.
        mode: The agent's name for the mode to work in (what it may do unasked), or ``""``.
        model: The agent's name for the model to use, or ``""``.
        auth: The agent's name for the way to log in with before anything else, or ``""``.
        patience: Seconds that the agent has for each answer until its session is open.
    """

    cwd: str
    prompt: str
    stays: bool = False
    resume: str = ""
    mode: str = ""
    model: str = ""
    auth: str = ""
    patience: float = 60.0


class AcpSession:
    """The client's side of one session.

    Args:
        plan: What it is to be.

    Attributes:
        session_id: The agent's name for the session, or ``""``.
        agent_name: What the agent calls itself, with its version, or ``""``.
        trouble: Why there is no session, or why the last turn that has ended was no success;
            ``""`` if there is none.
        turns: How many turns have ended.
        waiting_for: The method whose answer is the next to come, or ``""``.
    """

    def __init__(self, plan: SessionPlan) -> None:
        self.session_id: str = plan.resume
        self.agent_name: str = ""
        self.trouble: str = ""
        self.turns: int = 0
        self.waiting_for: str = ""
        self._plan = plan
        self._stays = plan.stays
        self._prompts: deque[str] = deque([plan.prompt])
        self._dropped = False  # the first prompt was interrupted before it was sent
        self._number = 0
        self._continuations: dict[int, _Continuation] = {}
        self._ready = False  # prompts can be sent
        self._busy = False  # a turn is at hand
        self._taken_over = False  # another host has talked to the agent, and this one only reads
        self._closing = False  # no prompt follows those that are known
        self._given_up = False  # there will be no (further) turn
        self._replaying = False  # an earlier conversation is being told once more
        self._messages = Messages()
        self._tools = ToolCalls()
        # The JSON-RPC id, the call and the options of open permission requests.
        self._asked: dict[str, tuple[Any, str, tuple[AgentOption, ...]]] = {}
        self._cost: float | None = None if plan.resume else 0.0  # told so far
        self._total_cost: float | None = None  # as the agent has told it

    @property
    def answer(self) -> str | None:
        """The last message of the last turn."""
        return self._messages.answer

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is done: prompts can be sent."""
        return self._ready

    @property
    def is_busy(self) -> bool:
        """Whether a turn is at hand."""
        return self._busy

    @property
    def denied(self) -> bool:
        """Whether a tool of the last turn was not allowed."""
        return bool(self._tools.denied)

    # -- what the agent is told ---------------------------------------------------------------

    def begin(self) -> Send:
        """Return the first message."""
        # Nothing is offered: the agent reads and writes files, and runs commands, by itself, so
        # that all of its processes are its own.
        capabilities = {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "clientCapabilities": capabilities,
            "clientInfo": {"name": "eventbus-tasks", "version": "1"},
        }
        return self._send("initialize", params, self._initialized)

    def prompt(self, text: str) -> bytes:
        """Return what gives the agent a prompt; one that is busy gets it after its turn.

        Raises:
            InputClosedError: There will be no further turn.
        """
        if self._given_up or self._closing:
            raise InputClosedError("the session with the agent has ended")
        self._prompts.append(text)
        return self._next_turn()

    def close(self) -> Send:
        """Let the agent end, now or after the turns that it was promised.

        Its input is not closed in the middle of a turn: agents drop their work then.
        """
        self._stays = False
        self._closing = True
        done = self._ready and not self._busy and not self._prompts
        return Send(close=True, within=_UNTIL_END) if done else Send()

    def answer_permission(self, request_id: str, answer: AgentAnswer) -> bytes:
        """Return what answers a permission request; ``b""`` for one that is not open.

        A plain yes means this once. Where the agent offers no such thing it is answered with no,
        since everything that it does offer would allow more.
        """
        if request_id not in self._asked:
            return b""
        number, call_id, options = self._asked.pop(request_id)
        allowed = isinstance(answer, Allow)
        chosen = answer.option if isinstance(answer, (Allow, Deny)) else ""
        if not chosen:
            kinds = ("allow",) if allowed else ("deny", "deny_always")
            found = [option.id for kind in kinds for option in options if option.kind == kind]
            chosen = found[0] if found else ""
            allowed = allowed and bool(found)
        if not allowed:
            self._tools.deny(call_id)
        if not chosen:
            return reply(number, {"outcome": {"outcome": "cancelled"}})
        return reply(number, {"outcome": {"outcome": "selected", "optionId": chosen}})

    def interrupt(self) -> bytes:
        """Return what ends the turn at hand; requests that are open are taken back."""
        if not self._busy:
            if self._prompts and not self._ready and not self._given_up:
                self._prompts.popleft()
                self._dropped = True
            return b""
        self._tools.interrupted = True
        said = [notification("session/cancel", {"sessionId": self.session_id})]
        for number, _, _ in self._asked.values():
            said.append(reply(number, {"outcome": {"outcome": "cancelled"}}))
        self._asked.clear()
        return b"".join(said)

    # -- what the agent says ------------------------------------------------------------------

    def read(self, message: Mapping[str, Any]) -> Iterator[Item]:
        """Return what a message means, and what it calls for.

        Of a session that was never begun it is what another host has been told: it is read as if
        this one had said what the agent answers.
        """
        if not self._number:
            self._taken_over = True
            self.begin()
        method = text_in(message, "method")
        if method and self._taken_over and self._ready and not self._busy:
            self._begin_turn()
        if method and "id" in message:
            yield from self._requested(message["id"], method, object_in(message, "params"))
        elif method:
            yield from self._notified(method, object_in(message, "params"))
        elif "result" in message or "error" in message:
            yield from self._answered(message)
        else:
            yield unknown_event("message")

    def _requested(self, number: Any, method: str, params: Mapping[str, Any]) -> Iterator[Item]:
        if method != "session/request_permission":
            yield unknown_event("request", method)
            yield Send(data=failure(number, method))
            return
        call = object_in(params, "toolCall")
        call_id = text_in(call, "toolCallId")
        yield from self._messages.end()
        yield from self._tools.ask(call)
        tool, summary = self._tools.describe(call)
        options = tuple(
            AgentOption(
                id=text_in(option, "optionId"),
                label=one_line(text_in(option, "name")),
                kind=_KINDS[text_in(option, "kind")],
            )
            for option in list_in(params, "options")
            if isinstance(option, dict) and text_in(option, "kind") in _KINDS
        )
        # A number and a string of the same look are two requests.
        request_id = json.dumps(number)
        self._asked[request_id] = (number, call_id, options)
        yield AgentInputRequired(
            kind="permission",
            prompt=one_line(text_in(call, "title")) or f"{tool}: {summary}",
            request_id=request_id,
            tool=tool,
            summary=summary,
            options=options,
        )

    def _notified(self, method: str, params: Mapping[str, Any]) -> Iterator[Item]:
        if method == "$/cancel_request":
            request_id = json.dumps(params.get("requestId"))
            if self._asked.pop(request_id, None) is not None:
                yield Withdraw(request_id=request_id)
            return
        update = object_in(params, "update")
        kind = text_in(update, "sessionUpdate")
        if method != "session/update" or not kind:
            yield unknown_event(method)
        elif text_in(params, "sessionId") not in ("", self.session_id):
            yield unknown_event("other session", kind)
        elif not self._replaying:
            yield from self._updated(kind, update)

    def _updated(self, kind: str, update: Mapping[str, Any]) -> Iterator[Item]:
        match kind:
            case "agent_message_chunk" if _is_text(update):
                yield from self._messages.add("text", update)
            case "agent_thought_chunk" if _is_text(update):
                yield from self._messages.add("thinking", update)
            case "tool_call" | "tool_call_update":
                yield from self._messages.end()
                yield from self._tools.read(update, first=kind == "tool_call")
            case "usage_update":
                # How full the model's context is says nothing about what was used.
                cost = object_in(update, "cost")
                if text_in(cost, "currency") == "USD":
                    self._total_cost = price_in(cost, "amount")
            case "user_message_chunk":
                pass  # the prompt, once more
            case _:
                yield unknown_event(kind)

    def _answered(self, message: Mapping[str, Any]) -> Iterator[Item]:
        number = message.get("id")
        continuation = self._continuations.pop(number, None) if isinstance(number, int) else None
        if continuation is None:
            # Of a turn that another host has begun, before this one took over. Where all of them
            # were begun by us, it is the second answer to one that has ended, or to none.
            stopped = self._taken_over and text_in(object_in(message, "result"), "stopReason")
            continuation = self._turn_ended if stopped else None
        if continuation is None:
            yield unknown_event("answer")
            return
        self.waiting_for = ""
        yield from continuation(message)

    # -- the handshake ------------------------------------------------------------------------

    def _initialized(self, message: Mapping[str, Any]) -> Iterator[Item]:
        if "error" in message:
            yield from self._give_up(error_text(object_in(message, "error")))
            return
        result = object_in(message, "result")
        version = result.get("protocolVersion")
        if version != PROTOCOL_VERSION:
            yield from self._give_up(f"it speaks version {version!r} of the protocol")
            return
        about = object_in(result, "agentInfo")
        named = text_in(about, "title") or text_in(about, "name")
        self.agent_name = one_line(f"{named} {text_in(about, 'version')}")
        if self._plan.auth:
            params = {"methodId": self._plan.auth}

            def go_on(answer: Mapping[str, Any]) -> Iterator[Item]:
                yield from self._open_session(answer, result)

            yield self._send("authenticate", params, go_on)
        else:
            yield from self._open_session({}, result)

    def _open_session(
        self, message: Mapping[str, Any], initialized: Mapping[str, Any]
    ) -> Iterator[Item]:
        if "error" in message:
            yield from self._give_up(f"the login failed: {error_text(object_in(message, 'error'))}")
            return
        params = {"cwd": self._plan.cwd, "mcpServers": []}
        if not self._plan.resume:
            yield self._send("session/new", params, self._opened)
            return
        capabilities = object_in(initialized, "agentCapabilities")
        resume = object_in(capabilities, "sessionCapabilities").get("resume")
        if not isinstance(resume, dict) and capabilities.get("loadSession") is not True:
            yield from self._give_up("it cannot go on with an earlier session")
            return
        # One that is loaded tells the whole conversation once more; one that is resumed does not.
        method = "session/resume" if isinstance(resume, dict) else "session/load"
        self._replaying = method == "session/load"
        params["sessionId"] = self._plan.resume
        yield self._send(method, params, self._opened)

    def _opened(self, message: Mapping[str, Any]) -> Iterator[Item]:
        if "error" in message:
            yield from self._give_up(error_text(object_in(message, "error")))
            return
        result = object_in(message, "result")
        self.session_id = text_in(result, "sessionId") or self._plan.resume
        if not self.session_id:
            yield from self._give_up("it has opened a session without a name")
            return
        model = self._plan.model or current(result, "model")
        yield AgentSession(session_id=self.session_id, model=model)
        steps = []
        for what, wanted in (("mode", self._plan.mode), ("model", self._plan.model)):
            if wanted:
                step = choice(result, what, wanted)
                if step is None:
                    yield from self._give_up(f"it has no {what} {wanted!r} to choose")
                    return
                steps.append(step)
        if self._replaying and not steps:
            # Some agents answer before they have told the old conversation. The answer to one more
            # question that changes nothing comes after it.
            step = choice(result, "mode", current(result, "mode"))
            steps += [] if step is None else [step]
        yield from self._choose(steps)

    def _choose(self, steps: list[tuple[str, dict[str, Any]]]) -> Iterator[Item]:
        if not steps:
            self._replaying = False
            self._ready = True
            yield from self._go_on()
            return
        (method, params), *others = steps

        def go_on(message: Mapping[str, Any]) -> Iterator[Item]:
            if "error" in message:
                chosen = ", ".join(str(value) for value in params.values())
                words = error_text(object_in(message, "error"))
                yield from self._give_up(f"{chosen} cannot be chosen: {words}")
            else:
                yield from self._choose(others)

        yield self._send(method, {"sessionId": self.session_id, **params}, go_on)

    def _give_up(self, why: str) -> Iterator[Item]:
        """There is no session, and nothing that could be done without one."""
        self.trouble = why
        self._given_up = True
        yield AgentResult(ok=False, text=why)
        yield Send(close=True, within=_UNTIL_END)

    # -- turns --------------------------------------------------------------------------------

    def _next_turn(self) -> bytes:
        if self._busy or not self._ready or self._given_up or not self._prompts:
            return b""
        self._begin_turn()
        content = [{"type": "text", "text": self._prompts.popleft()}]
        params = {"sessionId": self.session_id, "prompt": content}
        return self._request("session/prompt", params, self._turn_ended)

    def _begin_turn(self) -> None:
        self._busy = True
        self.trouble = ""
        self._messages.begin_turn()
        self._tools.begin_turn()

    def _go_on(self) -> Iterator[Item]:
        """Begin the next turn, or let the agent end if there is none."""
        if self._dropped:
            self._dropped = False
            self.turns += 1
            self.trouble = _STOPS["cancelled"]
            yield AgentResult(ok=False, text=self.trouble)
        data = self._next_turn()
        if data:
            yield Send(data=data)
        elif not self._stays:
            self._given_up = True
            yield Send(close=True, within=_UNTIL_END)

    def _turn_ended(self, message: Mapping[str, Any]) -> Iterator[Item]:
        yield from self._messages.end()
        yield from self._tools.end()
        self._busy = False
        self.turns += 1
        result = object_in(message, "result")
        self.trouble = self._trouble_of(message, result)
        usage = self._usage_of(result)
        if usage is not None:
            yield usage
        yield AgentResult(ok=not self.trouble, text=self.trouble or self.answer or "")
        yield from self._go_on()

    def _trouble_of(self, message: Mapping[str, Any], result: Mapping[str, Any]) -> str:
        if "error" in message:
            return error_text(object_in(message, "error"))
        stop = text_in(result, "stopReason")
        if stop != "end_turn" and not self._tools.denied:
            return _STOPS.get(stop, f"its turn ended for an unknown reason: {one_line(stop)!r}")
        if self._tools.denied:
            return f"it needs permission for {', '.join(dict.fromkeys(self._tools.denied))}"
        if "usage" in result and result["usage"] is None:
            # Codex puts an error of the API into its answer, and calls that an end like any other.
            return readable(self._messages.last_chunk) or "it has got no answer from its model"
        return ""

    def _usage_of(self, result: Mapping[str, Any]) -> AgentUsage | None:
        """Return what the turn has used. Agents tell tokens for each turn, and the cost in all."""
        usage = object_in(result, "usage")
        quota = object_in(object_in(object_in(result, "_meta"), "quota"), "token_count")
        sent = count_in(usage, "inputTokens")
        made = count_in(usage, "outputTokens")
        if sent is None and made is None:
            sent, made = count_in(quota, "input_tokens"), count_in(quota, "output_tokens")
        cost = None
        if self._total_cost is not None:
            if self._cost is not None:
                cost = max(0.0, self._total_cost - self._cost)
            self._cost = max(self._total_cost, self._cost or 0.0)
        if sent is None and made is None and cost is None:
            return None
        return AgentUsage(input_tokens=sent, output_tokens=made, cost_usd=cost)

    # -- sending ------------------------------------------------------------------------------

    def _send(self, method: str, params: Mapping[str, Any], then: _Continuation) -> Send:
        return Send(data=self._request(method, params, then), within=self._plan.patience)

    def _request(self, method: str, params: Mapping[str, Any], then: _Continuation) -> bytes:
        self._number += 1
        self._continuations[self._number] = then
        self.waiting_for = method
        return request(self._number, method, params)


def _is_text(update: Mapping[str, Any]) -> bool:
    return text_in(object_in(update, "content"), "type") == "text"

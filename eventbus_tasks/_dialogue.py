"""The engine's side of talking to an agent: what is sent, which requests are open, until when."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import anyio.lowlevel

from eventbus_tasks._native import undisturbed
from eventbus_tasks.conversation import (
    AgentAnswer,
    Allow,
    Answer,
    ClosingInterpreter,
    ConversationInterpreter,
    Deny,
    Send,
    Withdraw,
)
from eventbus_tasks.errors import InputClosedError, RequestClosedError
from eventbus_tasks.events import AgentInputAnswered, AgentInputRequired, TaskEvent

if TYPE_CHECKING:
    from eventbus_tasks._input import TaskInput
    from eventbus_tasks.policies import TerminationPolicy

__all__ = ["Dialogue", "check_answer"]

By = Literal["program", "policy", "deadline", "agent", "interrupt", "turn", "task"]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")

_STOPPING: Final = "the task is being ended: no turn begins any more"

_WORDS: Final[dict[type, str]] = {Allow: "allow", Deny: "deny", Answer: "answer"}

_WHY: Final[dict[By, str]] = {
    "program": "it was answered already",
    "policy": "a policy has answered it",
    "deadline": "nobody had answered it in time, so it was denied",
    "agent": "the agent has taken it back",
    "interrupt": "its turn was interrupted",
    "turn": "its turn has ended",
    "task": "the task has ended",
}


def check_answer(answer: Any, request: AgentInputRequired) -> None:
    """Refuse what is no answer, or none to this request.

    Raises:
        TypeError: It is no answer at all.
        ValueError: It does not fit.
    """
    if not isinstance(answer, (Allow, Deny, Answer)):
        raise TypeError(f"must be Allow(), Deny() or Answer(), not {answer!r}")
    if isinstance(answer, Answer if request.kind == "permission" else Allow):
        raise ValueError(f"{answer!r} does not answer a {request.kind}")
    if isinstance(answer, Answer):
        return
    wanted = _WORDS[type(answer)]
    fitting = [option.id for option in request.options if option.kind.startswith(wanted)]
    if answer.option and answer.option not in fitting:
        known = ", ".join(map(repr, fitting)) or "none"
        raise ValueError(f"the request has no option {answer.option!r} to {wanted} (has: {known})")


@dataclass(slots=True, eq=False)
class _Message:
    """Something on its way to the agent."""

    data: bytearray
    close: bool = False
    prompt: bool = False  # not worth sending to an agent that is being ended
    size: int = 0  # of the whole: what was written is taken away from `data`
    error: InputClosedError | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True, eq=False)
class _Pending:
    """An open request."""

    request: AgentInputRequired
    deadline: float  # of the loop's clock
    consulted: bool = False  # every policy was asked


class Dialogue:
    """What one running agent is told, in order. Belongs to the loop of its engine.

    Args:
        interpreter: Says what to write.
        output: The agent's standard input.
        emit: Numbers, journals and delivers an event.
        failed: Reports a failure of the interpreter: what went wrong; returns it as a sentence.
        consult: Asks the policies about a request.
        patience: Seconds until an open request is denied.
        let_go: Has an agent ended that does not react; its interpreter judges all the same. With a
            problem: one that would wait for ever for what its interpreter has failed to say; then
            the problem is the reason of the end.
    """

    def __init__(
        self,
        interpreter: ConversationInterpreter,
        output: TaskInput,
        *,
        emit: Callable[[TaskEvent], Any],
        failed: Callable[[BaseException], str],
        consult: Callable[[AgentInputRequired], Awaitable[AgentAnswer | None]],
        patience: float,
        let_go: Callable[..., Any],
    ) -> None:
        self.patience = patience
        self._interpreter = interpreter
        self._output = output
        self._emit = emit
        self._failed = failed
        self._consult = consult
        self._let_go = let_go
        self._begun = anyio.Event()
        self._ended = False
        self._stopping = False  # no turn may begin any more
        self._silent = False  # nor is one at hand: what its interpreter returns begins one
        self._outbox: deque[_Message] = deque()
        self._open: dict[str, _Pending] = {}
        self._closed: dict[str, By] = {}
        self._reused: set[str] = set()  # names that have stood for more than one request
        self._due: float | None = None  # when it must have reacted, by the loop's clock
        self._must_end = False  # and how: by its end, not by a line
        self._news = anyio.Event()  # for each of those who wait in `serve`

    # -- what programs call -------------------------------------------------------------------

    async def say(self, text: str) -> None:
        """Give the agent its next prompt; return when it is written."""
        await self._begun.wait()
        self._check_open()
        if self._stopping:
            raise InputClosedError(_STOPPING)
        await self._sent(self._post(self._interpreter.encode_prompt(text), prompt=True))

    async def write(self, data: bytes) -> None:
        """Send bytes as they are; return when they are written."""
        await self._begun.wait()
        await self._deliver(data)

    async def close(self) -> None:
        """End the agent's input behind everything that was sent."""
        await self._begun.wait()
        if not self._ended:
            interpreter, item = self._interpreter, Send(close=True)
            if isinstance(interpreter, ClosingInterpreter):
                try:
                    item = interpreter.encode_close()
                except BaseException as error:
                    self._abandon(error)
                    raise
            await self._send(item).done.wait()

    async def interrupt(self) -> None:
        """End the turn at hand; return when the agent was told."""
        await self._begun.wait()
        self._check_open()
        await self._deliver(self._interrupting())

    async def answer(self, request: str | AgentInputRequired, answer: AgentAnswer) -> None:
        """Answer an open request; return when the agent was told."""
        pending = self._meant(request)
        check_answer(answer, pending.request)
        try:
            message = self._settle(pending, answer, "program")
        except BaseException as error:
            self._abandon(error)
            raise
        await self._sent(message)

    # -- what the engine calls ----------------------------------------------------------------

    def begin(self) -> None:
        """Send the first bytes: the program was started."""
        if not self._begun.is_set():
            self._begun.set()
            if self._stopping:
                return
            try:
                first = self._interpreter.begin()
                self._send(first if isinstance(first, Send) else Send(data=first))
            except BaseException as error:
                self._abandon(error)

    def stop(self, policy: TerminationPolicy) -> None:
        """Have no turn begin any more: the agent is being ended.

        Args:
            policy: How. If its first rung is no signal, the agent is told to end the turn at hand.
        """
        self._stopping = True
        for message in self._outbox:
            # The rest of one that was begun has to follow, or the agent could not read the next.
            if message.prompt and len(message.data) == message.size:
                message.data.clear()
                message.error = InputClosedError(_STOPPING)
                message.done.set()
        soft = policy.steps and not policy.steps[0].signal
        if soft and self._begun.is_set() and not self._ended:
            try:
                self._post(self._interrupting())
            except BaseException as error:
                self._failed(error)

    def register(self, request: AgentInputRequired) -> None:
        """Take note of a request, which is about to be told to everybody."""
        known = self._open.get(request.request_id)
        deadline = anyio.current_time() + self.patience if known is None else known.deadline
        if known is not None:
            self._withdraw(request.request_id, "agent")
        if self._closed.pop(request.request_id, None) is not None:
            self._reused.add(request.request_id)
        self._open[request.request_id] = _Pending(request, deadline)
        self._wake()

    def take(self, item: Send | Withdraw) -> None:
        """Carry out what the interpreter has returned beside events."""
        if isinstance(item, Send):
            if self._silent and item.data:
                logger.warning("what was still to be sent to an agent is dropped: it is stopped")
                item = Send(close=item.close)
            self._send(item)
        elif item.request_id in self._open:
            self._withdraw(item.request_id, "agent")

    def heard(self) -> None:
        """Take note that the agent has written a line."""
        if not self._must_end:
            self._due = None

    def end_turn(self) -> None:
        """Deny what is still open: the agent has given its result."""
        self._silent = self._stopping
        for pending in tuple(self._open.values()):
            # Told all the same: in some protocols every request must have its answer.
            self._deny(pending, "The turn has ended.", "turn")

    def end(self) -> None:
        """Send nothing any more: the task has ended. Safe to repeat."""
        for request_id in tuple(self._open):
            self._withdraw(request_id, "task")
        self._ended = True
        self._begun.set()
        self._output.shut("the task has ended")
        while self._outbox:
            message = self._outbox.popleft()
            message.error = InputClosedError("the task has ended")
            message.done.set()
        self._wake()

    # -- what happens meanwhile ---------------------------------------------------------------

    async def serve(self) -> None:
        """Write what is to be sent, and have every request answered; until `end`."""
        while not self._ended:
            # Natively cancelled, the group ends, loses nothing, and begins again.
            async with anyio.create_task_group() as group:
                group.start_soon(undisturbed(self._write))
                group.start_soon(undisturbed(self._watch_deadlines))
                consulted: set[_Pending] = set()
                while not self._ended:
                    for pending in self._open.values():
                        if not pending.consulted and pending not in consulted:
                            consulted.add(pending)
                            group.start_soon(undisturbed(self._ask_policies), pending)
                    await self._next_news()
                group.cancel_scope.cancel()

    async def _write(self) -> None:
        while True:
            while self._outbox:
                message = self._outbox[0]
                try:
                    await self._output.drain(message.data)
                    if message.close:
                        await self._output.close()
                except InputClosedError as error:
                    message.error = error
                message.done.set()
                if self._outbox and self._outbox[0] is message:
                    self._outbox.popleft()
            await self._next_news()

    async def _watch_deadlines(self) -> None:
        while True:
            pending = min(self._open.values(), key=lambda one: one.deadline, default=None)
            if self._due is not None and (pending is None or self._due < pending.deadline):
                if anyio.current_time() >= self._due:
                    self._due = None
                    self._let_go()
                    continue
                with anyio.move_on_at(self._due):
                    await self._next_news()
            elif pending is None:
                await self._next_news()
            elif anyio.current_time() >= pending.deadline:
                self._deny(pending, "Nobody has answered in time.", "deadline")
            else:
                with anyio.move_on_at(pending.deadline):
                    await self._next_news()

    async def _ask_policies(self, pending: _Pending) -> None:
        answer = await self._consult(pending.request)
        pending.consulted = True
        if answer is not None and self._open.get(pending.request.request_id) is pending:
            try:
                self._settle(pending, answer, "policy")
            except BaseException as error:
                self._abandon(error)

    async def _next_news(self) -> None:
        await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    # -- parts --------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._ended:
            raise InputClosedError("the task has ended")

    def _meant(self, request: str | AgentInputRequired) -> _Pending:
        """Return the open request that somebody wants to answer, and never another one.

        Raises:
            RequestClosedError: It is not open, or nobody can say which one is meant.
        """
        request_id = request if isinstance(request, str) else request.request_id
        pending = self._open.get(request_id)
        if pending is None:
            by = self._closed.get(request_id)
            why = _WHY[by] if by else "nothing of that name was asked"
        elif isinstance(request, str):
            if request_id not in self._reused:
                return pending
            why = "the agent has used that name before: answer the event"
        else:
            asked = pending.request
            if (request.task.uid, request.seq) == (asked.task.uid, asked.seq):
                return pending
            why = "the agent has asked something else by that name"
            if request.task.uid != asked.task.uid:
                why = "another task has asked it"
        raise RequestClosedError(request_id, why)

    def _interrupting(self) -> bytes:
        data = self._interpreter.encode_interrupt()
        for request_id in tuple(self._open):
            self._withdraw(request_id, "interrupt")
        return data

    def _send(self, item: Send) -> _Message:
        if item.within is not None and not self._must_end:
            self._due = anyio.current_time() + item.within
            self._must_end = item.close
            self._wake()
        return self._post(item.data, close=item.close)

    def _post(self, data: bytes, *, close: bool = False, prompt: bool = False) -> _Message:
        message = _Message(bytearray(data), close, prompt, len(data))
        if self._ended:
            message.error = InputClosedError("the task has ended")
            message.done.set()
        elif data or close:
            self._outbox.append(message)
            self._wake()
        else:
            message.done.set()
        return message

    async def _deliver(self, data: bytes) -> None:
        await self._sent(self._post(data))

    async def _sent(self, message: _Message) -> None:
        await message.done.wait()
        if message.error is not None:
            raise message.error

    def _settle(self, pending: _Pending, answer: AgentAnswer, by: By) -> _Message:
        """Close a request with an answer, tell the agent, and then everybody else.

        Raises:
            BaseException: The agent cannot be told: nobody has heard of an answer.
        """
        try:
            message = self._post(self._interpreter.encode_answer(pending.request, answer))
        except BaseException:
            self._withdraw(pending.request.request_id, "task")
            raise
        self._closed[pending.request.request_id] = by
        del self._open[pending.request.request_id]
        text = {Deny: "reason", Answer: "text"}.get(type(answer), "")
        self._emit(
            AgentInputAnswered(
                request_id=pending.request.request_id,
                answer=_WORDS[type(answer)],
                by=by,
                text=getattr(answer, text, ""),
            )
        )
        return message

    def _deny(self, pending: _Pending, reason: str, by: By) -> None:
        try:
            self._settle(pending, Deny(reason), by)
        except BaseException as error:
            self._abandon(error)

    def _withdraw(self, request_id: str, by: By) -> None:
        del self._open[request_id]
        self._closed[request_id] = by
        self._emit(AgentInputAnswered(request_id=request_id, answer="none", by=by))

    def _abandon(self, error: BaseException) -> None:
        """Have the agent ended, which waits for what its interpreter has failed to say."""
        self._let_go(self._failed(error))

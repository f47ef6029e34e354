"""Talking to an agent while it runs: what it is told, and what its interpreter says to it.

An agent that stays asks for permissions and takes further prompts. Programs use `Task.send`,
`Task.answer` and `Task.interrupt`, which are the same for every agent; the interpreter of the
agent (`ConversationInterpreter`) turns them into bytes for its standard input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from eventbus_tasks.policies import OutputInterpreter

if TYPE_CHECKING:
    from eventbus_tasks.events import AgentInputRequired

__all__ = [
    "AgentAnswer",
    "Allow",
    "Answer",
    "ClosingInterpreter",
    "ConversationInterpreter",
    "Deny",
    "Send",
    "Withdraw",
]


@dataclass(frozen=True, slots=True)
class Allow:
    """The answer to a permission request: yes.

    Attributes:
        option: Which of the request's `options` is meant; empty: yes, this once.
    """

    option: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class Deny:
    """The answer to a permission request, or to a question: no.

    Attributes:
        reason: Why, for the agent; may be empty.
        option: Which of the request's `options` is meant; empty: no, this once.
    """

    reason: str = ""
    option: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a question.

    Attributes:
        text: What the agent wanted to know. Where it has asked several things at once, one line
            for each.
    """

    text: str


AgentAnswer: TypeAlias = Allow | Deny | Answer
"""What a request of an agent can be answered with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Bytes for the agent's standard input, from its interpreter in reaction to a line.

    Attributes:
        data: What it reads next, in its own protocol, line endings included.
        close: Nothing follows: its standard input ends behind `data`.
        within: Seconds in which the agent must react: write a line, or end where `close` is set.
            One that does not is ended by its ladder; then its interpreter judges the run as if it
            had ended by itself, and its exit status says nothing. ``None``: it may take any time.
    """

    data: bytes = b""
    close: bool = False
    within: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """The agent has taken back a request: nobody needs to answer it any more.

    Attributes:
        request_id: The request.
    """

    request_id: str


@runtime_checkable
class ConversationInterpreter(OutputInterpreter, Protocol):
    """An interpreter of an agent that stays, and is talked to through its standard input.

    A command with such an interpreter and ``stdin="open"`` takes part in `Task.send` with text,
    `Task.answer` and `Task.interrupt`. All methods are called on the engine's loop, never two at
    the same time, and never wait. What they return is written in the order of the calls, together
    with what `interpret` has returned as `Send`; it may be empty, where the agent can only be told
    later (by a `Send`). Once the task is being stopped no turn begins any more: what `interpret`
    returns as `Send` after the result of the turn at hand is dropped.

    What `interpret` is given again when a new host takes the task over was answered long ago: then
    its `Send` objects are passed over, and none of the other methods is called.
    """

    def begin(self) -> bytes | Send:
        """Return the first bytes, usually with the prompt of the request in them.

        Called once, when the program was started. A `Send` may also say how long the agent has
        for its first line.

        Raises:
            Exception: The agent would wait for ever: the task is ended as ``plugin_error``.
        """

    def encode_prompt(self, text: str) -> bytes:
        """Return what gives the agent its next prompt; it may still be busy with the last one.

        Raises:
            Exception: It takes none; goes to whoever has called `Task.send`.
        """

    def encode_answer(self, request: AgentInputRequired, answer: AgentAnswer) -> bytes:
        """Return what answers a request; called at most once for each.

        Args:
            request: One that `interpret` has returned.
            answer: An `Allow` or `Deny` for a permission, an `Answer` or `Deny` for a question.

        Raises:
            Exception: The agent cannot be told, and would wait for ever: the task is ended as
                ``plugin_error``, and the request was answered by nobody. Goes to whoever has
                called `Task.answer`.
        """

    def encode_interrupt(self) -> bytes:
        """Return what ends the turn at hand, but not the session.

        Requests that are open count as withdrawn afterwards; an agent that still waits for their
        answers gets them in these bytes.

        Raises:
            Exception: It cannot be interrupted; goes to whoever has called `Task.interrupt`.
        """


@runtime_checkable
class ClosingInterpreter(ConversationInterpreter, Protocol):
    """An interpreter of an agent that would drop its work if its input ended in the middle of it.

    It is asked what to do when a program has called `Task.close_input`.
    """

    def encode_close(self) -> Send:
        """Return what lets the agent end: now (``close=True``), or later by a `Send`.

        Raises:
            Exception: The agent would stay for ever: the task is ended as ``plugin_error``. Goes to
                whoever has called `Task.close_input`.
        """

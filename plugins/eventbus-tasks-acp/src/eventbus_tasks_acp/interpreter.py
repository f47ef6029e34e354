"""Talking to an agent over the Agent Client Protocol: the engine's face of a session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eventbus_tasks import (
    AgentAnswer,
    AgentInputRequired,
    ProcessExit,
    Reason,
    Send,
    Verdict,
)
from eventbus_tasks.agents import JsonLinesInterpreter
from eventbus_tasks_acp.session import AcpSession, Item, SessionPlan

__all__ = ["AcpInterpreter"]


class AcpInterpreter(JsonLinesInterpreter):
    """The `ClosingInterpreter` of one agent that speaks the protocol on its standard streams.

    Args:
        plan: What its session is to be.

    Attributes:
        session: Its session.
    """

    def __init__(self, plan: SessionPlan) -> None:
        super().__init__()
        self.session: AcpSession = AcpSession(plan)

    def begin(self) -> Send:
        """Return the beginning of the handshake; the prompt follows when a session is open."""
        return self.session.begin()

    def encode_prompt(self, text: str) -> bytes:
        """Return what gives the agent a prompt, or ``b""`` while it is busy: it gets it later."""
        return self.session.prompt(text)

    def encode_answer(self, request: AgentInputRequired, answer: AgentAnswer) -> bytes:
        """Return the answer to a permission request; a reason is not told: there is no place."""
        return self.session.answer_permission(request.request_id, answer)

    def encode_interrupt(self) -> bytes:
        """Return what ends the turn at hand."""
        return self.session.interrupt()

    def encode_close(self) -> Send:
        """Return what lets the agent end, when the turn at hand has ended."""
        return self.session.close()

    def read(self, data: Mapping[str, Any]) -> Iterator[Item]:
        """Return what one message means, and what it calls for."""
        return self.session.read(data)

    def judge(self, exit: ProcessExit) -> Verdict:
        """Judge the run by its last turn, which must have ended, and in nothing but success."""
        session = self.session
        if session.is_busy:
            return self.no_result(exit, "ended in the middle of a turn", session.answer)
        if session.trouble:
            partial = session.answer if session.denied else None
            return Verdict(reason=Reason.AGENT_ERROR, message=session.trouble, result=partial)
        if not session.turns:
            waiting = session.waiting_for
            return self.no_result(
                exit, f"ended before it had answered {waiting!r}" if waiting else "ended at once"
            )
        return Verdict(reason=Reason.EXITED, result=session.answer)

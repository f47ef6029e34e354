"""Talking to an agent while it runs: further prompts, interrupts, permissions."""

from __future__ import annotations

from typing import Any

import pytest
from eventbus_tasks_acp import session
from fake_acp import Manners
from talking import Talk

from eventbus_tasks import (
    AgentInputAnswered,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    AgentSession,
    AgentToolFinished,
    Allow,
    Deny,
    InputClosedError,
    Reason,
    Settings,
    Step,
    Task,
    TaskEvent,
    TerminationPolicy,
)

pytestmark = pytest.mark.anyio

STAYS = {"interactive": True}
QUICK = TerminationPolicy(steps=(Step(signal=0, grace=0.5),))


def whole(run: Any) -> list[str]:
    """Return what the agent has said, without the pieces."""
    return [event.text for event in run.of(AgentMessage) if not event.delta]


async def test_one_prompt_and_its_end(talk: Talk) -> None:
    """The handshake is followed by the prompt, and the end of the turn by the end of the input."""
    run = await talk.play("say Hello.")
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Hello.")
    assert run.outcome.return_code == 0
    assert talk.agent.given_methods() == ["initialize", "session/new", "session/prompt"]
    first, opened, _ = talk.agent.given
    assert first["params"]["clientCapabilities"] == {
        "fs": {"readTextFile": False, "writeTextFile": False},
        "terminal": False,
    }
    assert opened["params"] == {"cwd": str(talk.project), "mcpServers": []}


async def test_further_prompts(talk: Talk) -> None:
    """An agent that stays gets more prompts in the same session, until its input is closed."""
    further = ["say Two.", "history"]

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentResult):
            await (task.send(further.pop(0)) if further else task.close_input())

    run = await talk.play("say One.", react, options=STAYS)
    assert [event.text for event in run.of(AgentResult)] == [
        "One.",
        "Two.",
        "say One.\nsay Two.\nhistory",
    ]
    assert len(run.of(AgentSession)) == 1
    assert run.outcome.reason is Reason.EXITED


async def test_a_prompt_for_one_that_is_busy_waits(talk: Talk) -> None:
    """A prompt that comes in the middle of a turn is sent when the turn has ended, not before."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentInputRequired):
            await task.send("say Second.")
            await task.answer(event, Allow())

    run = await talk.play("say First.\nask 1 file", react)
    assert [event.ok for event in run.of(AgentResult)] == [True, True]
    assert run.outcome.result == "Second."
    answered = [position for position, one in enumerate(talk.agent.given) if "result" in one]
    assert [one.get("method") for one in talk.agent.given[answered[0] + 1 :]] == ["session/prompt"]


async def test_interrupt(talk: Talk) -> None:
    """An interrupt ends the turn, not the session; the next prompt is carried out."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage) and event.text == "Working":
            await task.interrupt()
        if isinstance(event, AgentResult):
            await (task.close_input() if event.ok else task.send("say Well."))

    run = await talk.play("say Working\nwait", react, options=STAYS)
    failed, done = run.of(AgentResult)
    assert (failed.ok, failed.text) == (False, "its turn was interrupted")
    assert (done.ok, run.outcome.reason, run.outcome.result) == (True, Reason.EXITED, "Well.")


async def test_an_interrupted_turn_is_no_success(talk: Talk) -> None:
    """A task whose last turn was interrupted has failed, though its agent exits with 0."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage):
            await task.interrupt()

    run = await talk.play("say Working\nwait", react)
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "its turn was interrupted"
    assert run.outcome.return_code == 0


async def test_interrupt_of_nothing(talk: Talk) -> None:
    """Between two turns there is nothing to interrupt, and the agent is told nothing."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentResult):
            await task.interrupt()
            await task.close_input()

    run = await talk.play("say Hello.", react, options=STAYS)
    assert run.outcome.reason is Reason.EXITED
    assert "session/cancel" not in talk.agent.given_methods()


async def test_interrupt_before_the_prompt(talk: Talk) -> None:
    """A prompt that is interrupted while the session is being opened is never sent."""

    async def react(task: Task, event: TaskEvent) -> None:
        if event.name == "task.started":
            await task.interrupt()

    run = await talk.play("say Hello.", react)
    assert "session/prompt" not in talk.agent.given_methods()
    assert [(event.ok, event.text) for event in run.of(AgentResult)] == [
        (False, "its turn was interrupted")
    ]
    assert run.outcome.reason is Reason.AGENT_ERROR


async def test_cancel_of_one_that_does_not_listen(talk: Talk) -> None:
    """An agent that ignores an interrupt is ended by a cancel."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage) and event.text == "Working":
            await task.interrupt()
        elif isinstance(event, AgentMessage):
            task.cancel_nowait()

    run = await talk.play("say Working\ndeaf", react)
    said = [event.text for event in run.of(AgentMessage)]
    assert said[:2] == ["Working", "I do not listen."]
    assert run.outcome.reason is Reason.CANCELLED


@pytest.mark.parametrize(
    ("answer", "option", "status"),
    [
        (Allow(), "once", "ok"),
        (Allow(option="always"), "always", "ok"),
        (Deny("not today"), "no", "denied"),
        (Deny(option="no"), "no", "denied"),
    ],
    ids=["allow", "allow always", "deny", "deny by name"],
)
async def test_permission(talk: Talk, answer: Any, option: str, status: str) -> None:
    """A permission is asked for in the middle of a turn, and answered from Python."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentInputRequired):
            await task.answer(event, answer)

    run = await talk.play("ask 1 file.txt", react)
    (asked,) = run.of(AgentInputRequired)
    assert (asked.kind, asked.tool, asked.summary) == ("permission", "edit", "/file.txt")
    assert [choice.kind for choice in asked.options] == ["allow_always", "allow", "deny"]
    (finished,) = run.of(AgentToolFinished)
    assert (finished.call_id, finished.status) == ("1", status)
    (said,) = whole(run)
    assert said == f"answered: {option}"
    assert (run.outcome.reason is Reason.EXITED) == (status == "ok"), run.outcome
    if status == "denied":
        assert run.outcome.message == "it needs permission for edit"
        assert run.outcome.result == said


async def test_silence_is_no_consent(talk: Talk) -> None:
    """A permission that nobody gives is denied after the deadline, and the agent is told so."""
    settings = Settings(answer_deadline=0.2)
    run = await talk.play("ask 1 file.txt", settings=settings)
    (answered,) = run.of(AgentInputAnswered)
    assert (answered.answer, answered.by) == ("deny", "deadline")
    assert whole(run) == ["answered: no"]
    assert run.outcome.reason is Reason.AGENT_ERROR


async def test_a_rule_allows(talk: Talk) -> None:
    """A tool that the settings allow needs nobody."""
    run = await talk.play("ask 1 file.txt", settings=Settings(allow_tools=("ed*",)))
    (answered,) = run.of(AgentInputAnswered)
    assert (answered.answer, answered.by) == ("allow", "policy")
    assert run.outcome.reason is Reason.EXITED


async def test_yes_does_not_mean_always(talk: Talk) -> None:
    """Where an agent offers only more than was asked for, a plain yes does not allow it."""
    always = [{"optionId": "always", "name": "Always", "kind": "allow_always"}]

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentInputRequired):
            await task.answer(event, Allow())

    run = await talk.play("ask 1 file.txt", react, manners=Manners(options=always))
    assert whole(run) == ["answered: cancelled"]
    assert run.outcome.reason is Reason.AGENT_ERROR


async def test_interrupt_while_it_asks(talk: Talk) -> None:
    """An interrupt answers what is open as cancelled, as the protocol demands."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentInputRequired):
            await task.interrupt()

    run = await talk.play("ask 1 file.txt\nstop cancelled", react)
    (answered,) = run.of(AgentInputAnswered)
    assert (answered.answer, answered.by) == ("none", "interrupt")
    assert whole(run) == ["answered: cancelled"]
    assert run.outcome.message == "its turn was interrupted"


async def test_a_queued_prompt_does_not_begin_while_it_is_cancelled(talk: Talk) -> None:
    """A prompt that waits for its turn is dropped when the task is cancelled."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage) and not event.delta:
            await task.send("say Second.")
            task.cancel_nowait()

    steps = "say Working.\ntool 1 ls\nwait"
    run = await talk.play(steps, react, options=STAYS, policy=QUICK)
    assert run.outcome.reason is Reason.CANCELLED
    assert [event.text for event in run.of(AgentResult)] == ["its turn was interrupted"]
    assert talk.agent.given_methods()[2:] == ["session/prompt", "session/cancel"]


async def test_one_that_has_ended_takes_no_prompt(talk: Talk) -> None:
    """A prompt for a task that has ended is refused."""
    run = await talk.play("say Hello.")
    with pytest.raises(InputClosedError):
        await run.task.send("say more")


async def test_closing_does_not_cut_a_turn_off(talk: Talk) -> None:
    """An input that is closed in the middle of a turn is closed when it has ended."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentInputRequired):
            await task.send("say Second.")
            await task.close_input()
            with pytest.raises(InputClosedError):
                await task.send("say Third.")
            await task.answer(event, Allow())

    run = await talk.play("ask 1 file", react, options=STAYS)
    assert [event.ok for event in run.of(AgentResult)] == [True, True]
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Second.")


async def test_one_that_is_closed_and_does_not_end(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that does not end when a program closes its input is ended."""
    monkeypatch.setattr(session, "_UNTIL_END", 0.2)

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentResult):
            await task.close_input()

    run = await talk.play("say Hello.", react, options=STAYS, manners=Manners(stays=True))
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Hello.")


async def test_a_prompt_after_the_last_turn(talk: Talk) -> None:
    """A prompt for an agent that was let go is refused, not lost."""
    refused = []

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentResult):
            with pytest.raises(InputClosedError):
                await task.send("say more")
            refused.append(event)

    run = await talk.play("say Hello.", react)
    assert (run.outcome.result, len(refused)) == ("Hello.", 1)

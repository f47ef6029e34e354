"""What a run amounts to: success only where the last turn says so, and the handshake before it."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from eventbus_tasks_acp import AcpInterpreter, AcpSettings, SessionPlan, session
from fake_acp import SESSION, Manners
from talking import Talk

from eventbus_tasks import (
    AgentActivity,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    AgentSession,
    Allow,
    Deny,
    ProcessExit,
    Reason,
    Settings,
    Task,
    TaskEvent,
    TaskStatus,
)

pytestmark = [
    pytest.mark.anyio,
    # What is understood does not depend on the loop.
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ("cancelled", "its turn was interrupted"),
        ("max_tokens", "its model reached its limit of tokens"),
        ("max_turn_requests", "it reached its limit of requests to its model in one turn"),
        ("refusal", "it refused to go on"),
        ("tired", "its turn ended for an unknown reason: 'tired'"),
    ],
)
async def test_ends_that_are_no_success(talk: Talk, stop: str, message: str) -> None:
    """Every end of a turn but ``end_turn`` is a failure, also one that nobody knows."""
    run = await talk.play(f"say Hello.\nstop {stop}")
    assert (run.outcome.reason, run.outcome.message) == (Reason.AGENT_ERROR, message)
    assert [(event.ok, event.text) for event in run.of(AgentResult)] == [(False, message)]
    assert run.outcome.return_code == 0


async def test_an_answer_to_nothing(talk: Talk) -> None:
    """An answer to no prompt of ours, or to one that was answered, does not end a turn."""
    answer = json.dumps({"id": 77, "result": {"stopReason": "end_turn"}})
    run = await talk.play(f"say Hello.\nline {answer}\ndie 0")
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == "ended in the middle of a turn (exit status 0)"
    assert run.of(AgentResult) == []


API = json.dumps({"error": {"code": 400, "message": "no such model", "status": "X"}})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"code": -32603, "message": "Internal error: no such model"}, "no such model"),
        ({"code": -32603, "message": "Internal error", "data": {"details": "why"}}, "why"),
        ({"code": -32603, "message": "Internal error", "data": "why"}, "why"),
        ({"code": 400, "message": API}, "the API answered 400: no such model"),
        (
            {"code": -32000, "message": "Authentication required"},
            "it is not logged in: Authentication required",
        ),
        ({"code": -32603, "message": ""}, "error -32603"),
        ({}, "error None"),
    ],
    ids=["prefix", "details", "data", "json", "login", "nothing", "empty"],
)
async def test_errors(talk: Talk, error: dict[str, Any], message: str) -> None:
    """An error in the place of a turn's end fails the task, with its words in one line."""
    run = await talk.play(f"error {json.dumps(error)}")
    assert (run.outcome.reason, run.outcome.message) == (Reason.AGENT_ERROR, message)


async def test_an_error_that_is_called_an_end(talk: Talk) -> None:
    """Codex says an API's error and then that all is well; that no model was used gives it away."""
    null = json.dumps({"usage": None})
    run = await talk.play(f"say A warning.\nsay {API}\nresult {null}")
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "the API answered 400: no such model"


@pytest.mark.parametrize("status", [0, 3])
async def test_death_in_the_middle_of_a_turn(talk: Talk, status: int) -> None:
    """An agent that exits in a turn has not succeeded, whatever its exit status."""
    run = await talk.play(f"say Hello.\ndie {status}")
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message == f"ended in the middle of a turn (exit status {status})"


@pytest.mark.parametrize(
    ("manners", "message"),
    [
        (
            Manners(errors={"initialize": {"code": -32603, "message": "Internal error: broken"}}),
            "broken",
        ),
        (
            Manners(initialized={"protocolVersion": 7}),
            "it speaks version 7 of the protocol",
        ),
        (
            Manners(errors={"session/new": {"code": -32000, "message": "Authentication required"}}),
            "it is not logged in: Authentication required",
        ),
        (
            Manners(errors={"session/new": {"code": -32603, "message": "no"}}),
            "no",
        ),
        (
            Manners(opened={"sessionId": 7}),
            "it has opened a session without a name",
        ),
    ],
    ids=["initialize", "version", "login", "session", "no name"],
)
async def test_no_session(talk: Talk, manners: Manners, message: str) -> None:
    """Without a session the task has failed, its agent is let go, and no prompt was sent."""
    run = await talk.play("say Hello.", manners=manners)
    assert (run.outcome.reason, run.outcome.message) == (Reason.AGENT_ERROR, message)
    assert [(event.ok, event.text) for event in run.of(AgentResult)] == [(False, message)]
    assert "session/prompt" not in talk.agent.given_methods()


RESUMES = {"agentCapabilities": {"sessionCapabilities": {"resume": {}}, "loadSession": True}}
LOADS = {"agentCapabilities": {"loadSession": True}}
MODES = {"modes": {"currentModeId": "ask", "availableModes": [{"id": "ask"}, {"id": "yolo"}]}}


async def test_resume(talk: Talk) -> None:
    """A session is gone on with, in the way in which the old conversation is not told again."""
    run = await talk.play(
        "say Hello.", manners=Manners(initialized=RESUMES), options={"resume": SESSION}
    )
    assert run.outcome.result == "Hello."
    assert talk.agent.given_methods()[1] == "session/resume"
    assert [event.session_id for event in run.of(AgentSession)] == [SESSION]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_old_conversation_is_not_told_again(talk: Talk, when: str) -> None:
    """What a loaded session repeats is no event, also where it comes after the answer."""
    manners = Manners(initialized=LOADS, opened=MODES, replay=when)
    run = await talk.play("say Hello.", manners=manners, options={"resume": SESSION})
    assert [event.text for event in run.of(AgentMessage) if not event.delta] == ["Hello."]
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Hello.")


async def test_one_that_cannot_resume(talk: Talk) -> None:
    """An agent that has not said that it can resume is not asked to, and the task says so."""
    run = await talk.play("say Hello.", options={"resume": SESSION})
    assert run.outcome.reason is Reason.AGENT_ERROR
    assert run.outcome.message == "it cannot go on with an earlier session"


async def test_resume_of_nothing(talk: Talk) -> None:
    """A session that does not exist fails the task, in the agent's words."""
    error = {"code": -32002, "message": "Resource not found: other"}
    manners = Manners(initialized=RESUMES, errors={"session/resume": error})
    run = await talk.play("say Hello.", manners=manners, options={"resume": "other"})
    assert run.outcome.message == "Resource not found: other"


CONFIGURED = {
    "configOptions": [
        {
            "id": "model",
            "category": "model",
            "currentValue": "small",
            "options": [{"value": "small"}, {"name": "more", "options": [{"value": "large"}]}],
        }
    ]
}


async def test_mode_and_model(talk: Talk) -> None:
    """Mode and model are chosen before the prompt, in the way that the agent offers."""
    manners = Manners(opened={**MODES, **CONFIGURED})
    options = {"mode": "yolo", "model": "large"}
    run = await talk.play("say Hello.", manners=manners, options=options)
    assert run.outcome.reason is Reason.EXITED
    chosen = {one["method"]: one["params"] for one in talk.agent.given[2:4]}
    assert chosen == {
        "session/set_mode": {"sessionId": SESSION, "modeId": "yolo"},
        "session/set_config_option": {
            "sessionId": SESSION,
            "configId": "model",
            "value": "large",
        },
    }
    assert [event.model for event in run.of(AgentSession)] == ["large"]


@pytest.mark.parametrize("options", [{"mode": "free"}, {"model": "huge"}])
async def test_a_mode_or_model_that_is_not_offered(talk: Talk, options: dict[str, Any]) -> None:
    """A mode or model that the agent has not got fails the task, instead of being left out."""
    manners = Manners(opened={**MODES, **CONFIGURED})
    run = await talk.play("say Hello.", manners=manners, options=options)
    ((what, name),) = options.items()
    assert run.outcome.message == f"it has no {what} {name!r} to choose"
    assert "session/prompt" not in talk.agent.given_methods()


async def test_a_mode_that_is_refused(talk: Talk) -> None:
    """A mode that the agent refuses fails the task: it must not work with other rights."""
    manners = Manners(opened=MODES, errors={"session/set_mode": {"code": 1, "message": "root"}})
    run = await talk.play("say Hello.", manners=manners, options={"mode": "yolo"})
    assert run.outcome.message == "yolo cannot be chosen: root"


@pytest.mark.parametrize("method", ["initialize", "session/new"])
async def test_one_that_never_answers(talk: Talk, method: str) -> None:
    """An agent that does not answer the handshake is ended, and its task has failed."""
    settings = Settings().with_tables(AcpSettings(start_deadline=0.3))
    run = await talk.play("say Hello.", manners=Manners(mute=[method]), settings=settings)
    assert run.outcome.reason is Reason.NO_RESULT
    assert run.outcome.message.startswith(f"ended before it had answered '{method}'")


async def test_one_that_does_not_end(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that stays when its input ends is ended; what its last turn said counts."""
    monkeypatch.setattr(session, "_UNTIL_END", 0.2)
    run = await talk.play("say Hello.", manners=Manners(stays=True))
    assert (run.outcome.reason, run.outcome.result) == (Reason.EXITED, "Hello.")
    assert run.outcome.return_code == -signal.SIGTERM
    assert run.task.status is TaskStatus.COMPLETED


async def test_one_that_does_not_end_after_a_failure(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That an agent had to be ended makes a failure no success."""
    monkeypatch.setattr(session, "_UNTIL_END", 0.2)
    run = await talk.play("say Hello.\nstop refusal", manners=Manners(stays=True))
    assert (run.outcome.reason, run.outcome.message) == (Reason.AGENT_ERROR, "it refused to go on")


async def test_a_host_that_takes_over_reads_the_same(talk: Talk) -> None:
    """Who reads a conversation of several turns afterwards finds its events and its end in it."""
    further = ["ask 2 other\nsay No.", "say Three."]

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentInputRequired):
            await task.answer(event, Deny() if event.summary == "/other" else Allow())
        elif isinstance(event, AgentResult):
            await (task.send(further.pop(0)) if further else task.close_input())

    run = await talk.play("ask 1 file\nsay One.", react, options={"interactive": True})
    assert [event.ok for event in run.of(AgentResult)] == [True, False, True]
    plan = SessionPlan(cwd=str(talk.project), prompt="ask 1 file\nsay One.", stays=True)
    interpreter = AcpInterpreter(plan)
    read = [
        item
        for line in run.task.output.text().encode().splitlines()
        for item in interpreter.interpret(line, "stdout")
        if isinstance(item, AgentActivity)
    ]
    assert [type(item) for item in read] == [type(event) for event in run.activities]
    verdict = interpreter.verdict(ProcessExit(return_code=0))
    # Who has denied what is not in what the agent has said.
    assert (verdict.reason, verdict.result) == (Reason.EXITED, "Three.")

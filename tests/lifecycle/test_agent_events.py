"""What agents say in their own protocol, as events, and what is made of it at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from eventbus_tasks import (
    AgentActivity,
    AgentEventUnknown,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    AgentRetry,
    AgentSession,
    AgentToolFinished,
    AgentToolStarted,
    AgentUsage,
    Command,
    HandlerFailed,
    ProcessExit,
    Reason,
    Stream,
    Task,
    TaskRemoved,
    Verdict,
    event_from_dict,
    hookimpl,
)

from .conftest import Recorder, Stage

pytestmark = pytest.mark.anyio


ACTIVITIES: tuple[AgentActivity, ...] = (
    AgentSession(session_id="s-1", model="m"),
    AgentMessage(text="hello", delta=True, kind="thinking"),
    AgentToolStarted(tool="Bash", call_id="c-1", summary="ls"),
    AgentToolFinished(tool="Bash", call_id="c-1", status="denied", summary="no"),
    AgentUsage(input_tokens=3, output_tokens=4, cost_usd=0.5),
    AgentRetry(kind="rate_limit", message="too many", attempt=2, delay=1.5),
    AgentInputRequired(kind="question", prompt="which?", request_id="r-1"),
    AgentEventUnknown(kind="rate_limit"),
    AgentResult(ok=True, text="done"),
)


class Interpreter:
    """Understands the names of the events above; `fault` is raised instead."""

    def __init__(
        self, fault: Callable[[], BaseException] | None = None, verdict: Any = None
    ) -> None:
        self.lines: list[tuple[bytes, Stream]] = []
        self.exits: list[ProcessExit] = []
        self._fault = fault
        self._verdict = verdict

    def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity]:
        if self._fault is not None:
            raise self._fault()
        self.lines.append((line, stream))
        return [item for item in ACTIVITIES if item.name.encode() == line]

    def verdict(self, exit: ProcessExit) -> Verdict | None:
        if self._fault is not None:
            raise self._fault()
        self.exits.append(exit)
        found: Verdict | None = self._verdict
        return found


class AgentPlugin:
    """An agent `scripted` that runs the argv of its request."""

    def __init__(self, interpreter: Any, **command: Any) -> None:
        self.interpreter = interpreter
        self._command = command

    @hookimpl
    def ebt_register_agents(self, register: Callable[[str, str], None]) -> None:
        register("scripted", "for tests")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command | None:
        if task.agent != "scripted":
            return None
        return Command(argv=task.request.argv, interpreter=self.interpreter, **self._command)


SIGNALS = {
    AgentSession: "agent_session",
    AgentMessage: "agent_message",
    AgentToolStarted: "agent_tool_started",
    AgentToolFinished: "agent_tool_finished",
    AgentUsage: "agent_usage",
    AgentRetry: "agent_retry",
    AgentInputRequired: "agent_input_required",
    AgentEventUnknown: "agent_unknown",
    AgentResult: "agent_result",
}


@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_agent_events(stage: Stage, capture: str) -> None:
    """Each agent event comes through its own signal and that of the family, with its raw line."""
    answer = Verdict(reason=Reason.EXITED, message="fine", result="42")
    interpreter = Interpreter(verdict=answer)
    plugin = AgentPlugin(interpreter, capture=capture)
    async with stage.engine(plugins={"scripted": plugin}) as engine:
        single, family = Recorder(), Recorder()
        for name in SIGNALS.values():
            getattr(engine.signals, name).connect(single)
        engine.signals.agent_activity.connect(family)
        task, puppet = await stage.start(engine, agent="scripted")
        for item in ACTIVITIES:
            puppet.say(f"{item.name}\n")
        puppet.say("noise without line ending")
        puppet.exit()
        outcome = await task.wait()
        for got in (single, family):
            assert [type(event) for event in got.events] == [type(item) for item in ACTIVITIES]
            position = 0
            for event, item in zip(got.of(AgentActivity), ACTIVITIES, strict=True):
                end = position + len(item.name)
                sent = {**item.to_dict(), "start": position, "end": end}
                sent.update(task=task.ref.to_dict(), seq=event.seq, at=event.at.isoformat())
                assert event.to_dict() == sent
                assert event.raw == item.name.encode()
                assert event_from_dict(json.loads(json.dumps(event.to_dict()))) == event
                position = end + 1
    assert interpreter.lines[-1] == (b"noise without line ending", "stdout")
    assert interpreter.exits == [ProcessExit(return_code=0)]
    assert (outcome.reason, outcome.message, outcome.result) == (Reason.EXITED, "fine", "42")
    stage.check(task)


@pytest.mark.parametrize(
    ("verdict", "code", "reason"),
    [
        (Verdict(reason=Reason.AGENT_ERROR, message="refused"), 0, Reason.AGENT_ERROR),
        (Verdict(reason=Reason.NO_RESULT), 0, Reason.NO_RESULT),
        (Verdict(reason=Reason.EXITED, result="all well"), 1, Reason.EXIT_CODE),
        (None, 0, Reason.EXITED),
        ("all well", 0, Reason.PLUGIN_ERROR),
    ],
)
async def test_verdict(stage: Stage, verdict: Any, code: int, reason: Reason) -> None:
    """Exit code and protocol must both say success; a verdict that is none is no success."""
    plugin = AgentPlugin(Interpreter(verdict=verdict))
    async with stage.engine(plugins={"scripted": plugin}) as engine:
        task, puppet = await stage.start(engine, agent="scripted")
        puppet.exit(code)
        outcome = await task.wait()
    assert (outcome.reason, outcome.return_code) == (reason, code)
    stage.check(task)


async def test_verdict_is_not_asked_when_cancelled(stage: Stage) -> None:
    """Whoever cancels a task is told that it was cancelled, whatever its agent would say."""
    interpreter = Interpreter(verdict=Verdict(reason=Reason.AGENT_ERROR))
    async with stage.engine(plugins={"scripted": AgentPlugin(interpreter)}) as engine:
        task, _ = await stage.start(engine, agent="scripted")
        assert await task.cancel()
    assert not interpreter.exits
    stage.check(task)


class PluginPanic(BaseException):
    """No `Exception`: what only careless code raises."""


FAULTS = [ValueError("no"), SystemExit(3), PluginPanic("no"), StopIteration()]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_interpreter_that_raises(stage: Stage, fault: BaseException) -> None:
    """An interpreter that raises anything is named, and its task fails instead of succeeding."""
    plugin = AgentPlugin(Interpreter(lambda: fault))
    async with stage.engine(plugins={"scripted": plugin}) as engine:
        task, puppet = await stage.start(engine, agent="scripted")
        puppet.say("one\ntwo\n")
        await stage.recorder.until(HandlerFailed, task, count=2)
        puppet.exit()
        outcome = await task.wait()
        assert task.output.text() == "one\ntwo\n"
    assert outcome.reason is Reason.PLUGIN_ERROR
    assert {event.where for event in stage.recorder.of(HandlerFailed)} == {
        "interpreter of scripted"
    }
    stage.check(task)


@pytest.mark.parametrize("answer", [None, 3, ["text"], [TaskRemoved()]])
async def test_interpreter_that_answers_rubbish(stage: Stage, answer: Any) -> None:
    """What is no agent event does not become one; the failure is named, the run goes on."""

    class Rubbish(Interpreter):
        def interpret(self, line: bytes, stream: Stream) -> Any:
            return answer

    async with stage.engine(plugins={"scripted": AgentPlugin(Rubbish())}) as engine:
        task, puppet = await stage.start(engine, agent="scripted")
        puppet.say("one\n")
        await stage.recorder.until(HandlerFailed, task)
        puppet.exit()
        outcome = await task.wait()
    assert outcome.reason is Reason.EXITED
    stage.check(task)

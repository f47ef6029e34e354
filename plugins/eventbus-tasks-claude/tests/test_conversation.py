"""A Claude that stays: what it is sent, and what of it comes back. A scripted one answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import eventbus_tasks_claude
import pytest

from eventbus_tasks import (
    AgentInputAnswered,
    AgentInputRequired,
    AgentResult,
    Allow,
    Answer,
    Deny,
    InputClosedError,
    Reason,
    RequestClosedError,
    Task,
    TaskEnded,
    TaskEngine,
    TaskEvent,
)
from eventbus_tasks.testing.conformance import ConversationCase, ConversationContract

pytestmark = pytest.mark.anyio

# Answers each message with a result; asks for a permission where it is told "ask".
FAKE: Final = """\
#!{python} -IS
import json, sys
session = {{"session_id": "00000000-0000-4000-8000-000000000000"}}

def write(**fields):
    print(json.dumps({{**fields, **session}}), flush=True)

def result(text, **changes):
    write(**{{"type": "result", "subtype": "success", "is_error": False, "num_turns": 1,
             "result": text, "terminal_reason": "completed", "permission_denials": [], **changes}})

with open({log!r}, "w") as log:
    print(json.dumps(sys.argv[1:]), file=log, flush=True)
    for line in sys.stdin:
        print(line, end="", file=log, flush=True)
        data = json.loads(line)
        if data["type"] == "control_request":
            write(type="control_response", response={{"request_id": data["request_id"]}})
            result("", subtype="error_during_execution", is_error=True,
                   terminal_reason="aborted_streaming")
        elif data["type"] == "control_response":
            outer = data["response"]
            result("answered: " + outer.get("response", {{}}).get("behavior", outer["subtype"]))
        else:
            text = data["message"]["content"][0]["text"]
            write(type="system", subtype="init", model="fake")
            if text == "ask":
                tool = {{"subtype": "can_use_tool", "tool_name": "Write",
                        "input": {{"file_path": "/x"}}}}
                write(type="control_request", request_id="r1", request=tool)
            elif text == "ask me":
                tool = {{"subtype": "can_use_tool", "tool_name": "AskUserQuestion", "input": {{
                    "questions": [
                        {{"question": "Which?", "options": [{{"label": "A"}}, {{"label": "B"}}]}}
                    ]}}}}
                write(type="control_request", request_id="r2", request=tool)
            elif text == "ask and forget":
                tool = {{"subtype": "can_use_tool", "tool_name": "Write", "input": {{}}}}
                write(type="control_request", request_id="r3", request=tool)
                write(type="control_cancel_request", request_id="r3")
            elif text == "ask for more":
                write(type="control_request", request_id="r4", request={{"subtype": "elicitation"}})
            elif text != "wait":
                result("I was told: " + text)
"""


class Scene:
    """A directory with the scripted Claude, and what it was given."""

    def __init__(self, directory: Path) -> None:
        self.project = directory / "project"
        self.project.mkdir()
        self._log = directory / "log"
        program = directory / "claude"
        program.write_text(FAKE.format(python=sys.executable, log=str(self._log)))
        program.chmod(0o700)
        self.env = {"PATH": f"{directory}:/usr/bin:/bin"}

    async def spawn(self, engine: TaskEngine, prompt: str) -> Task:
        """Start an interactive task."""
        return await engine.spawn_task(
            "talk",
            prompt,
            self.project,
            agent="claude",
            env=self.env,
            options={"interactive": True},
        )

    @property
    def given(self) -> list[Any]:
        """Its arguments, then each line of its standard input."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Return a scene."""
    directory = tmp_path / "scene"
    directory.mkdir()
    return Scene(directory)


def make_engine(**more: Any) -> TaskEngine:
    """Return an engine with this plugin alone."""
    return TaskEngine(plugins={"claude": eventbus_tasks_claude}, load_installed=False, **more)


async def following(stream: Any, kind: type[Any]) -> Any:
    """Return the next event of a kind."""
    async for event in stream:
        assert not isinstance(event, TaskEnded), event
        if isinstance(event, kind):
            return event
    raise AssertionError("the stream has ended")


class TestConversation(ConversationContract):
    """What everybody keeps whose agent is talked to."""

    @pytest.fixture
    def case(self, scene: Scene) -> ConversationCase:
        """Return the scripted Claude, which asks for a permission where it is told "ask"."""
        return ConversationCase(
            plugin=eventbus_tasks_claude,
            agent="claude",
            prompt="first",
            ask="ask",
            env=scene.env,
            options={"interactive": True},
        )


async def test_prompts_follow_each_other(scene: Scene) -> None:
    """The task's prompt is the first message; more follow; the end of input ends it well."""
    async with make_engine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await scene.spawn(engine, "first")
            assert (await following(stream, AgentResult)).text == "I was told: first"
            await task.send("second \u2028 🦊")
            assert (await following(stream, AgentResult)).text == "I was told: second \u2028 🦊"
            await task.close_input()
            outcome = await task.wait()
    assert (outcome.reason, outcome.result) == (Reason.EXITED, "I was told: second \u2028 🦊")
    assert "--input-format=stream-json" in scene.given[0]
    assert [line["type"] for line in scene.given[1:]] == ["user", "user"]


async def test_interrupt_ends_a_turn_only(scene: Scene) -> None:
    """After an interrupt the task goes on with its next prompt; without one it is no success."""
    async with make_engine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await scene.spawn(engine, "wait")
            await following(stream, TaskEvent)
            await task.send("wait")
            await task.interrupt()
            assert not (await following(stream, AgentResult)).ok
            await task.send("go on")
            assert (await following(stream, AgentResult)).ok
            await task.interrupt()
            assert (await following(stream, AgentResult)).text == "interrupted"
            await task.close_input()
            outcome = await task.wait()
    assert (outcome.reason, outcome.message) == (Reason.AGENT_ERROR, "interrupted")


@pytest.mark.parametrize("decision", [Allow(), Deny("too dangerous")], ids=["allow", "deny"])
async def test_permission_is_answered(scene: Scene, decision: Allow | Deny) -> None:
    """The first answer counts and is sent once; a permission comes with the tool's own input."""
    async with make_engine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await scene.spawn(engine, "ask")
            asked = await following(stream, AgentInputRequired)
            assert asked.prompt == "may it use Write: /x"
            assert (asked.tool, asked.summary) == ("Write", "/x")
            await task.answer(asked, decision)
            word = "allow" if decision == Allow() else "deny"
            with pytest.raises(RequestClosedError, match="already"):
                await task.answer(asked, Allow())
            assert (await following(stream, AgentResult)).text == f"answered: {word}"
            await task.close_input()
            await task.wait()
    sent = [line["response"] for line in scene.given[1:] if line["type"] == "control_response"]
    assert [response["request_id"] for response in sent] == ["r1"]
    inner = sent[0]["response"]
    assert inner.get("updatedInput") == ({"file_path": "/x"} if decision == Allow() else None)
    assert inner.get("message") == (None if decision == Allow() else "too dangerous")


async def test_a_question_is_answered(scene: Scene) -> None:
    """A question comes with its choices, and its answer goes back beside the question."""
    async with make_engine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await scene.spawn(engine, "ask me")
            asked = await following(stream, AgentInputRequired)
            assert (asked.kind, asked.prompt) == ("question", "Which?")
            assert [option.id for option in asked.options] == ["A", "B"]
            with pytest.raises(ValueError, match="does not answer a question"):
                await task.answer(asked, Allow())
            await task.answer("r2", Answer("B"))
            await following(stream, AgentResult)
            await task.close_input()
            await task.wait()
    (sent,) = [line["response"] for line in scene.given[1:] if line["type"] == "control_response"]
    assert sent["response"]["updatedInput"]["answers"] == {"Which?": "B"}


async def test_a_request_that_is_taken_back(scene: Scene) -> None:
    """What Claude takes back is closed, and needs no answer."""
    async with make_engine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await scene.spawn(engine, "ask and forget")
            closed = await following(stream, AgentInputAnswered)
            assert (closed.request_id, closed.answer, closed.by) == ("r3", "none", "agent")
            with pytest.raises(RequestClosedError, match="taken it back"):
                await task.answer("r3", Allow())
            await task.close_input()
            await task.wait()


async def test_silence_is_no_consent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has answered by the deadline is denied, and later answers do not count."""
    monkeypatch.setenv("EBT_ANSWER_DEADLINE", "0.05")
    async with make_engine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await scene.spawn(engine, "ask")
            asked = await following(stream, AgentInputRequired)
            assert (await following(stream, AgentResult)).text == "answered: deny"
            with pytest.raises(RequestClosedError, match="in time"):
                await task.answer(asked, Allow())
            await task.close_input()
            await task.wait()


async def test_a_task_that_is_not_interactive_takes_nothing(scene: Scene) -> None:
    """Without the option there is nobody to talk to, and it is said so."""
    async with make_engine() as engine:
        task = await engine.spawn_task(
            "work", "do it", scene.project, agent="claude", env=scene.env
        )
        with pytest.raises(InputClosedError):
            await task.send("more")
        await task.wait()


async def test_what_was_not_offered_is_refused(scene: Scene) -> None:
    """A request for something that is not known here is refused, so that Claude does not wait."""
    async with make_engine() as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await scene.spawn(engine, "ask for more")
            assert (await following(stream, AgentResult)).text == "answered: error"
            await task.close_input()
            await task.wait()
    assert scene.given[-1] == {
        "type": "control_response",
        "response": {
            "subtype": "error",
            "request_id": "r4",
            "error": "not supported: elicitation",
        },
    }

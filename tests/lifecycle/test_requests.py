"""What an agent asks: permissions and questions, who answers them, and how they end."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventbus_tasks import (
    AgentInputAnswered,
    AgentInputRequired,
    AgentResult,
    Allow,
    Answer,
    Deny,
    HandlerFailed,
    Reason,
    RequestClosedError,
    TaskEnded,
    TaskStatus,
)
from eventbus_tasks._threads import DaemonPool, NoWorkerError

from .talker import Rule, engine_with, mute_engine, spawn

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Allow(), ("allow", "")),
        (Allow(option="ever"), ("allow", "")),
        (Deny("no!"), ("deny", "no!")),
        (Deny(option="never"), ("deny", "")),
    ],
    ids=str,
)
async def test_permission(tmp_path: Path, answer: Allow | Deny, told: tuple[str, str]) -> None:
    """The first answer reaches the agent once and is told; a second one is refused."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "ask")
        asked = await scene.next(AgentInputRequired)
        assert asked.deadline is not None
        assert 50 < (asked.deadline - asked.at).total_seconds() < 61
        await scene.task.answer(asked, answer)
        with pytest.raises(RequestClosedError, match="answered already"):
            await scene.task.answer("r1", Allow())
        closed = await scene.next(AgentInputAnswered)
        assert (closed.request_id, closed.answer, closed.by) == ("r1", told[0], "program")
        assert closed.text == told[1]
        heard = "allow" + answer.option if isinstance(answer, Allow) else f"deny {answer.reason}"
        assert (await scene.next(AgentResult)).text == heard
        assert await scene.end() is TaskStatus.COMPLETED
    assert scene.task.output.text().count("got answer") == 1


async def test_answers_that_do_not_fit(tmp_path: Path) -> None:
    """An answer that fits neither the kind nor the options is refused, and the request stays."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "ask")
        asked = await scene.next(AgentInputRequired)
        with pytest.raises(ValueError, match="does not answer a permission"):
            await scene.task.answer(asked, Answer("yes"))
        with pytest.raises(ValueError, match="no option 'never' to allow"):
            await scene.task.answer(asked, Allow(option="never"))
        with pytest.raises(TypeError, match="True"):
            await scene.task.answer(asked, True)  # type: ignore[arg-type]
        with pytest.raises(RequestClosedError, match="nothing of that name"):
            await scene.task.answer("r9", Allow())
        await scene.task.answer(asked, Allow())
        await scene.next(AgentResult)
        await scene.task.send("question")
        await scene.next(AgentInputRequired)
        with pytest.raises(ValueError, match="does not answer a question"):
            await scene.task.answer("r2", Allow())
        await scene.task.answer("r2", Answer("42"))
        assert (await scene.next(AgentResult)).text == "text 42"
        assert await scene.end() is TaskStatus.COMPLETED


async def test_silence_is_no_consent(tmp_path: Path) -> None:
    """What nobody answers is denied after the deadline, and nobody can allow it afterwards."""
    async with engine_with(answer_deadline=0.1) as engine:
        scene = await spawn(engine, tmp_path, "ask")
        closed = await scene.next(AgentInputAnswered)
        assert (closed.answer, closed.by) == ("deny", "deadline")
        assert (await scene.next(AgentResult)).text.startswith("deny")
        with pytest.raises(RequestClosedError, match="in time"):
            await scene.task.answer("r1", Allow())
        assert await scene.end() is TaskStatus.COMPLETED


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        ({"allow_tools": ("Wr*",)}, "allow"),
        ({"allow_tools": ("Write",), "deny_tools": ("W*",)}, "deny"),
    ],
)
async def test_lists_of_tools(tmp_path: Path, lists: dict[str, Any], told: str) -> None:
    """The user's lists of tools answer by themselves; the forbidding one is the stronger."""
    async with engine_with(**lists) as engine:
        scene = await spawn(engine, tmp_path, "ask")
        closed = await scene.next(AgentInputAnswered)
        assert (closed.answer, closed.by) == (told, "policy")
        assert (await scene.next(AgentResult)).text.startswith(told)
        assert await scene.end() is TaskStatus.COMPLETED


async def test_broken_policies(tmp_path: Path) -> None:
    """A policy that raises, or gives no proper answer, is named, and the next one is asked."""

    def fail(request: AgentInputRequired) -> Any:
        raise RuntimeError("no idea")

    rules = (Rule(lambda request: Allow()), Rule(lambda request: Answer("hm")), Rule(fail))
    async with engine_with(*rules) as engine:
        scene = await spawn(engine, tmp_path, "ask")
        assert (await scene.next(AgentInputAnswered)).by == "policy"
        await scene.next(AgentResult)
        assert await scene.end() is TaskStatus.COMPLETED
    problems = [event.error for event in scene.told(HandlerFailed)]
    assert [problem.partition(":")[0] for problem in problems] == ["RuntimeError", "ValueError"]


@pytest.mark.parametrize(
    ("prompt", "by", "answer"),
    [
        ("ask and forget", "agent", "none"),
        ("ask and end", "turn", "deny"),
        ("ask and die", "task", "none"),
    ],
)
async def test_requests_that_end_by_themselves(
    tmp_path: Path, prompt: str, by: str, answer: str
) -> None:
    """A request does not outlive its withdrawal, its turn or its task."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, prompt)
        closed = await scene.next(AgentInputAnswered)
        assert (closed.answer, closed.by) == (answer, by)
        await scene.end()
        with pytest.raises(RequestClosedError):
            await scene.task.answer(closed.request_id, Allow())


@pytest.mark.parametrize("by", ["program", "deadline", "policy"])
async def test_no_word_for_an_answer(tmp_path: Path, by: str) -> None:
    """An answer that the agent cannot be told is told to nobody, and ends the task."""
    deadline = 0.01 if by == "deadline" else math.inf
    allowed = ("Write",) if by == "policy" else ()
    settings = {"answer_deadline": deadline, "allow_tools": allowed}
    async with mute_engine("encode_answer", **settings) as engine:
        scene = await spawn(engine, tmp_path, "ask")
        request = await scene.next(AgentInputRequired)
        if by == "program":
            with pytest.raises(RuntimeError, match="no word"):
                await scene.task.answer(request, Allow())
        answered = await scene.next(AgentInputAnswered)
        outcome = (await scene.next(TaskEnded)).outcome
    assert (answered.answer, answered.by) == ("none", "task")
    assert (outcome.reason, "no word for it" in outcome.message) == (Reason.PLUGIN_ERROR, True)
    assert [event.where for event in scene.told(HandlerFailed)] == ["interpreter of talker"]


async def test_policies_that_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread can be had to ask a policy, that is reported, and a person can answer."""
    submit = DaemonPool._submit

    def refuse(pool: DaemonPool, job: object) -> None:
        if "AgentInputRequired" in repr(getattr(job, "_function", None)):
            raise NoWorkerError(errno.EAGAIN, "no thread")
        submit(pool, job)  # type: ignore[arg-type]

    monkeypatch.setattr(DaemonPool, "_submit", refuse)
    async with engine_with(Rule(lambda request: Allow())) as engine:
        scene = await spawn(engine, tmp_path, "ask")
        request = await scene.next(AgentInputRequired)
        assert "no thread" in (await scene.next(HandlerFailed)).error
        await scene.task.answer(request, Deny())
        await scene.next(AgentResult)
        assert await scene.end() is TaskStatus.COMPLETED


async def test_requests_that_stay_open_for_ever(tmp_path: Path) -> None:
    """A deadline beyond all dates is one in a far year: the request is told, and answered."""
    async with engine_with(answer_deadline=math.inf) as engine:
        scene = await spawn(engine, tmp_path, "ask")
        request = await scene.next(AgentInputRequired)
        assert request.deadline.year > 2100
        await scene.task.answer(request, Deny())
        await scene.next(AgentResult)
        assert await scene.end() is TaskStatus.COMPLETED


async def test_names_that_are_used_twice(tmp_path: Path) -> None:
    """An answer reaches the request that it was given for, whatever an agent calls its next one."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "ask")
        first = await scene.next(AgentInputRequired)
        await scene.task.answer(first, Deny("first"))
        await scene.next(AgentResult)
        await scene.task.send("ask")
        second = await scene.next(AgentInputRequired)
        assert second.request_id == first.request_id
        for meant in (first, first.request_id, replace(second, task=replace(first.task, uid="x"))):
            with pytest.raises(RequestClosedError):
                await scene.task.answer(meant, Allow())
        await scene.task.answer(second, Deny("second"))
        await scene.next(AgentResult)
        await scene.end()
    assert [(one.answer, one.text) for one in scene.told(AgentInputAnswered)] == [
        ("deny", "first"),
        ("deny", "second"),
    ]


async def test_a_request_takes_the_place_of_another(tmp_path: Path) -> None:
    """One that is asked by the name of an open one ends that, whose answer it does not get."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "ask twice")
        first = await scene.next(AgentInputRequired)
        second = await scene.next(AgentInputRequired)
        with pytest.raises(RequestClosedError):
            await scene.task.answer(first, Allow())
        await scene.task.answer(second, Deny())
        await scene.next(AgentResult)
        await scene.end()
    answered = [(one.answer, one.by) for one in scene.told(AgentInputAnswered)]
    assert answered == [("none", "agent"), ("deny", "program")]

"""Agents that are talked to: prompts, interrupts, requests and their answers, in both directions.

The agent is a real process with a protocol of its own: one word and a text in each line.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from eventbus_tasks import (
    AgentActivity,
    AgentAnswer,
    AgentInputAnswered,
    AgentInputRequired,
    AgentMessage,
    AgentOption,
    AgentResult,
    Allow,
    Answer,
    Command,
    Deny,
    EventStream,
    HandlerFailed,
    InputClosedError,
    ProcessExit,
    Reason,
    RequestClosedError,
    Send,
    Settings,
    SignalSent,
    Step,
    Stream,
    Task,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskStatus,
    TaskStopping,
    TerminationPolicy,
    Verdict,
    Withdraw,
    hookimpl,
)
from eventbus_tasks._threads import DaemonPool, NoWorkerError

from .conftest import GUARD

pytestmark = pytest.mark.anyio

AGENT: Final = """\
import sys, time
def say(*words):
    print(*words, flush=True)
say("ready")
for line in sys.stdin:
    word, _, text = line.rstrip("\\n").partition(" ")
    say("got", word, text[:20], len(text))
    if word == "prompt" and text == "ask":
        say("ask", "r1")
    elif word == "prompt" and text == "question":
        say("question", "r2")
    elif word == "prompt" and text == "ask and forget":
        say("ask", "r3")
        say("forget", "r3")
    elif word == "prompt" and text == "ask twice":
        say("ask", "r6")
        say("ask", "r6")
    elif word == "prompt" and text == "ask and end":
        say("ask", "r4")
        say("done", "without it")
    elif word == "prompt" and text == "ask and die":
        say("ask", "r5")
        sys.exit(0)
    elif word == "prompt" and text == "slow":
        time.sleep(0.3)
    elif word in ("answer", "stop"):
        say("done", text)
    elif word == "prompt" and text != "wait":
        say("done", text[:20])
"""


class Interpreter:
    """Understands the agent above; like ACP it can prompt only once the agent is ready."""

    def __init__(self, prompt: str, *, stays: bool = True) -> None:
        self._prompt = prompt
        self._stays = stays
        self._early: list[str] | None = []
        self._done = False

    def begin(self) -> bytes:
        return b"hello\n"

    def encode_prompt(self, text: str) -> bytes:
        if text == "unheard of":
            raise ValueError("it takes no such prompt")
        if self._early is not None:
            self._early.append(text)
            return b""
        return f"prompt {text}\n".encode()

    def encode_answer(self, request: AgentInputRequired, answer: AgentAnswer) -> bytes:
        match answer:
            case Allow():
                return f"answer allow{answer.option}\n".encode()
            case Deny():
                return f"answer deny {answer.reason}\n".encode()
            case Answer():
                return f"answer text {answer.text}\n".encode()

    def encode_interrupt(self) -> bytes:
        return b"stop interrupted\n"

    def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity | Send | Withdraw]:
        return list(self._read(*line.decode().split(" ", 1)))

    def _read(self, word: str, text: str = "") -> Iterator[AgentActivity | Send | Withdraw]:
        options = (
            AgentOption(id="once", kind="allow"),
            AgentOption(id="ever", kind="allow_always"),
            AgentOption(id="never", kind="deny_always"),
        )
        match word:
            case "ready":
                early, self._early = self._early, None
                for prompt in (self._prompt, *(early or ())):
                    yield Send(data=f"prompt {prompt}\n".encode())
            case "got":
                yield AgentMessage(text=text)
            case "ask":
                yield AgentInputRequired(
                    kind="permission", prompt="?", request_id=text, tool="Write", options=options
                )
            case "question":
                yield AgentInputRequired(kind="question", prompt="?", request_id=text)
            case "forget":
                yield Withdraw(request_id=text)
            case "done":
                self._done = True
                yield AgentResult(ok=True, text=text)
                if not self._stays:
                    yield Send(data=b"bye\n", close=True)

    def verdict(self, exit: ProcessExit) -> Verdict:
        return Verdict(reason=Reason.EXITED if self._done else Reason.NO_RESULT)


class Plugin:
    """Drives the agent, and answers for it where it was given a rule."""

    def __init__(self, interpreter: Callable[..., Interpreter], **options: Any) -> None:
        self._interpreter = interpreter
        self._options = options

    @hookimpl
    def ebt_register_agents(self, register: Callable[[str, str], None]) -> None:
        register("talker", "talks")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command | None:
        return Command(
            argv=(sys.executable, "-ISc", AGENT),
            stdin="open",
            interpreter=self._interpreter(task.prompt, **self._options),
        )


class Rule:
    """A policy: what it says, or raises."""

    def __init__(self, answer: Callable[[AgentInputRequired], Any]) -> None:
        self._answer = answer

    @hookimpl
    def ebt_answer_agent(self, task: Task, request: AgentInputRequired) -> Any:
        return self._answer(request)


class Scene:
    """One task of the agent, and the stream of its events."""

    def __init__(self, task: Task, stream: EventStream[TaskEvent]) -> None:
        self.task = task
        self.stream = stream
        self.seen: list[TaskEvent] = []

    async def next(self, kind: type[Any]) -> Any:
        """Return the next event of a kind."""
        with anyio.fail_after(GUARD):
            async for event in self.stream:
                self.seen.append(event)
                if isinstance(event, kind):
                    return event
        raise AssertionError(f"no {kind.__name__} in {self.seen}")

    async def end(self) -> TaskStatus:
        """Close its input and wait for its end."""
        await self.task.close_input()
        with anyio.fail_after(GUARD):
            return (await self.task.wait()).status

    def told(self, kind: type[Any]) -> list[Any]:
        """Return the events of a kind that were seen so far."""
        return [event for event in self.seen if isinstance(event, kind)]


def engine_with(*rules: Rule, stays: bool = True, **settings: Any) -> TaskEngine:
    """Return an engine with the plugin above, some policies, and some settings."""
    plugins: dict[str, object] = {"talker": Plugin(Interpreter, stays=stays)}
    plugins.update({f"rule{number}": rule for number, rule in enumerate(rules)})
    return TaskEngine(Settings(**settings), plugins=plugins, load_installed=False)


async def spawn(engine: TaskEngine, project: Path, prompt: str) -> Scene:
    """Start a task of the agent."""
    stream = engine.subscribe(TaskEvent)
    return Scene(await engine.spawn_task("talk", prompt, project, agent="talker"), stream)


async def test_interpreter_speaks_by_itself(tmp_path: Path) -> None:
    """An interpreter begins, reacts to lines, and closes the input; nobody else does anything."""
    async with engine_with(stays=False) as engine:
        scene = await spawn(engine, tmp_path, "work")
        outcome = await scene.task.wait()
    assert outcome.status is TaskStatus.COMPLETED
    got = [line for line in scene.task.output.text().splitlines() if line.startswith("got")]
    assert got == ["got hello  0", "got prompt work 4", "got bye  0"]


async def test_prompts_follow_each_other(tmp_path: Path) -> None:
    """Prompts arrive in their order, whenever they are sent, also before the agent is ready."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "first")
        await scene.task.send("second")
        for text in ("first", "second"):
            assert (await scene.next(AgentResult)).text == text
        await scene.task.send("third")
        assert (await scene.next(AgentResult)).text == "third"
        assert await scene.end() is TaskStatus.COMPLETED


async def test_input_ends_behind_what_was_sent(tmp_path: Path) -> None:
    """However slowly it reads, the agent gets every byte of every prompt before the end."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "slow")
        await scene.next(AgentMessage)
        async with anyio.create_task_group() as group:
            for letter in "abc":
                group.start_soon(scene.task.send, letter * 200_000)
                await anyio.wait_all_tasks_blocked()
            await scene.task.close_input()
        with anyio.fail_after(GUARD):
            await scene.task.wait()
    got = [line.split()[2:] for line in scene.task.output.text().splitlines() if "200000" in line]
    assert got == [[letter * 20, "200000"] for letter in "abc"]


async def test_refused_prompt(tmp_path: Path) -> None:
    """What the interpreter refuses goes to the caller, and disturbs nobody."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "first")
        await scene.next(AgentResult)
        with pytest.raises(ValueError, match="no such prompt"):
            await scene.task.send("unheard of")
        await scene.task.send("second")
        assert (await scene.next(AgentResult)).text == "second"
        assert await scene.end() is TaskStatus.COMPLETED
    assert not scene.told(HandlerFailed)


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


async def test_interrupt(tmp_path: Path) -> None:
    """An interrupt reaches the agent, closes what is open, and the session goes on."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "ask")
        await scene.next(AgentInputRequired)
        await scene.task.interrupt()
        assert (await scene.next(AgentInputAnswered)).by == "interrupt"
        assert (await scene.next(AgentResult)).text == "interrupted"
        await scene.task.send("next")
        assert (await scene.next(AgentResult)).text == "next"
        assert await scene.end() is TaskStatus.COMPLETED


async def test_protocol_as_the_first_rung(tmp_path: Path) -> None:
    """A ladder whose first rung is 0 interrupts the agent; what ends by that gets no signal."""
    policy = TerminationPolicy(steps=(Step(signal=0, grace=2 * GUARD), Step(signal=15)))
    async with engine_with(stays=False) as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await engine.spawn_task("t", "wait", tmp_path, agent="talker", policy=policy)
            scene = Scene(task, stream)
            await scene.next(AgentMessage)
            with anyio.fail_after(GUARD):
                assert await task.cancel()
            await scene.next(TaskEnded)
    assert [event.signal for event in scene.told(SignalSent)] == [0]
    assert [event.text for event in scene.told(AgentResult)] == ["interrupted"]


async def test_no_turn_begins_while_it_is_being_ended(tmp_path: Path) -> None:
    """Once stopping has begun, a prompt is refused, also one that was waiting to be written."""
    policy = TerminationPolicy(steps=(Step(signal=0, grace=2 * GUARD),))
    ends: dict[str, str] = {}

    async def send(letter: str) -> None:
        try:
            await scene.task.send(letter * 200_000)
        except InputClosedError as error:
            ends[letter] = str(error)

    async with engine_with() as engine:
        stream = engine.subscribe(TaskEvent)
        task = await engine.spawn_task("t", "wait", tmp_path, agent="talker", policy=policy)
        scene = Scene(task, stream)
        await scene.next(AgentMessage)
        assert task.pid is not None
        os.kill(task.pid, signal.SIGSTOP)  # it reads nothing: a part of the first fills the pipe
        async with anyio.create_task_group() as group:
            for letter in "ab":
                group.start_soon(send, letter)
                await anyio.wait_all_tasks_blocked()
            task.cancel_nowait()
            await scene.next(TaskStopping)
            await send("c")
            task.cancel_nowait(now=True)
        await scene.next(TaskEnded)
    # Only the rest of the first one follows, so that the agent can read what comes behind it.
    assert sorted(letter for letter, why in ends.items() if "no turn begins" in why) == ["b", "c"]


class Mute(Interpreter):
    """An interpreter that fails to say what the agent waits for."""

    def __init__(self, prompt: str, *, fails: str) -> None:
        super().__init__(prompt)
        self._fails = fails

    def begin(self) -> bytes:
        if self._fails == "begin":
            raise RuntimeError("no first word")
        return super().begin()

    def encode_answer(self, request: AgentInputRequired, answer: AgentAnswer) -> bytes:
        if self._fails == "encode_answer":
            raise RuntimeError("no word for it")
        return super().encode_answer(request, answer)

    def encode_close(self) -> Send:
        if self._fails == "encode_close":
            raise RuntimeError("no last word")
        return Send(close=True)


def mute_engine(fails: str, **settings: Any) -> TaskEngine:
    """Return an engine whose agent is driven by an interpreter that fails so."""
    plugins = {"talker": Plugin(Mute, fails=fails)}
    return TaskEngine(Settings(**settings), plugins=plugins, load_installed=False)


async def test_no_first_word(tmp_path: Path) -> None:
    """An agent that got no prompt, since its interpreter has failed, does not wait for ever."""
    async with mute_engine("begin") as engine:
        scene = await spawn(engine, tmp_path, "wait")
        outcome = (await scene.next(TaskEnded)).outcome
    assert (outcome.reason, "no first word" in outcome.message) == (Reason.PLUGIN_ERROR, True)


async def test_no_last_word(tmp_path: Path) -> None:
    """An agent that cannot be told that nothing follows does not stay for ever."""
    async with mute_engine("encode_close") as engine:
        scene = await spawn(engine, tmp_path, "wait")
        await scene.next(AgentMessage)
        with pytest.raises(RuntimeError, match="no last word"):
            await scene.task.close_input()
        outcome = (await scene.next(TaskEnded)).outcome
    assert (outcome.reason, "no last word" in outcome.message) == (Reason.PLUGIN_ERROR, True)


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


async def test_native_cancellation_loses_nothing(tmp_path: Path, anyio_backend_name: str) -> None:
    """Whatever tasks of the loop are cancelled natively, each prompt arrives once, and in whole."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no other cancellation than by scopes")
    others = asyncio.all_tasks()  # those of the tests themselves
    async with engine_with(answer_deadline=0.5) as engine:
        scene = await spawn(engine, tmp_path, "first")
        await scene.next(AgentResult)
        for number in range(20):
            text = f"{number} " + "x" * (100_000 if number % 3 == 0 else 10)
            sending = asyncio.ensure_future(scene.task.send(text))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - others - {sending}:
                task.cancel()
            await asyncio.wait_for(sending, GUARD)
            assert (await scene.next(AgentResult)).text.startswith(f"{number} ")
        await scene.task.send("ask")
        await scene.next(AgentInputRequired)
        for task in asyncio.all_tasks() - others:
            task.cancel()
        assert (await scene.next(AgentInputAnswered)).by == "deadline"
        assert await scene.end() is TaskStatus.COMPLETED
    got = [line.split()[-1] for line in scene.task.output.text().splitlines() if "xxx" in line]
    assert [size for size in got if size.isdigit()] == [
        str(len(f"{number} ") + (100_000 if number % 3 == 0 else 10)) for number in range(20)
    ]


async def test_after_the_end(tmp_path: Path) -> None:
    """A task that has ended takes nothing, and says so."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "first")
        await scene.end()
        with pytest.raises(InputClosedError, match="has ended"):
            await scene.task.send("second")
        with pytest.raises(InputClosedError, match="has ended"):
            await scene.task.interrupt()
        await scene.task.close_input()


async def test_programs_are_not_talked_to(tmp_path: Path) -> None:
    """A plain program takes bytes, but neither prompts nor answers."""
    async with TaskEngine(load_installed=False) as engine:
        task = await engine.spawn_task("cat", "", tmp_path, argv=["cat"], stdin="open")
        with pytest.raises(InputClosedError, match="nobody is talked to"):
            await task.send("text")
        with pytest.raises(InputClosedError, match="nobody is talked to"):
            await task.answer("r1", Allow())
        await task.send(b"bytes")
        await task.close_input()
        assert (await task.wait()).status is TaskStatus.COMPLETED
        assert task.output.text() == "bytes"

"""An agent that is talked to, and what drives it.

It is a real process with a protocol of its own: one word and a text in each line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import anyio

from eventbus_tasks import (
    AgentActivity,
    AgentAnswer,
    AgentInputRequired,
    AgentMessage,
    AgentOption,
    AgentResult,
    Allow,
    Answer,
    Command,
    Deny,
    EventStream,
    ProcessExit,
    Reason,
    Send,
    Settings,
    Stream,
    Task,
    TaskEngine,
    TaskEvent,
    TaskStatus,
    Verdict,
    Withdraw,
    hookimpl,
)

from .conftest import GUARD

AGENT: Final = """\
import sys
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

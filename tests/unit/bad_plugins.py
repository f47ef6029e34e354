"""Plugins with one fault each, under their contracts. Run by `test_conformance_kit`, not collected.

The docstring of each class names tests that must fail; a good one of the kind passes them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from eventbus_tasks import (
    AgentActivity,
    AgentAnswer,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    Allow,
    Command,
    LogFiles,
    Outcome,
    ProcessExit,
    Reason,
    Step,
    Stream,
    Task,
    TaskEvent,
    TerminationPolicy,
    Verdict,
    event_from_dict,
    hookimpl,
)
from eventbus_tasks.testing.conformance import (
    AnswerCase,
    AnswerContract,
    BuilderCase,
    CommandBuilderContract,
    ConversationCase,
    ConversationContract,
    InterpreterCase,
    InterpreterContract,
    JournalCase,
    JournalContract,
    OutputStoreContract,
    PolicyCase,
    StoreCase,
    TerminationPolicyContract,
    overrides_with_reason,
)

# ------------------------------------------------------------------------------ command builders


class Builder:
    """A command builder without a fault."""

    @hookimpl
    def ebt_register_agents(self, register: Any) -> None:
        register("bad", "an agent")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command | None:
        return self.build(task) if task.agent == "bad" else None

    def build(self, task: Task) -> Command:
        return Command(
            argv=("true",), stdin=task.prompt.encode(), env={**os.environ, **task.request.env}
        )


class BuilderBase(CommandBuilderContract):
    plugin: ClassVar[type] = Builder

    @pytest.fixture
    def case(self) -> BuilderCase:
        return BuilderCase(plugin=self.plugin(), agent="bad")


class TestGoodBuilder(BuilderBase):
    """Fails: nothing."""


class TestPromptAsArgument(BuilderBase):
    """Fails: prompt_is_no_argument."""

    class plugin(Builder):  # noqa: D106, N801
        def build(self, task: Task) -> Command:
            env = {**os.environ, **task.request.env}
            return Command(argv=("true", task.prompt), env=env)


class TestTakesEveryAgent(BuilderBase):
    """Fails: other_agents_are_left_to_others."""

    class plugin(Builder):  # noqa: D106, N801
        @hookimpl
        def ebt_build_command(self, task: Task) -> Command | None:
            return self.build(task)


class TestForgetsTheEnvironment(BuilderBase):
    """Fails: environment_of_the_request."""

    class plugin(Builder):  # noqa: D106, N801
        def build(self, task: Task) -> Command:
            return Command(argv=("true",), stdin=task.prompt.encode(), env=dict(os.environ))


class TestOneInterpreterForAll(BuilderBase):
    """Fails: each_task_has_its_own_command."""

    class plugin(Builder):  # noqa: D106, N801
        def __init__(self) -> None:
            self.interpreter = Interpreter()

        def build(self, task: Task) -> Command:
            env = {**os.environ, **task.request.env}
            argv = ("printf", "say:hello\\ndone:well\\n")
            return Command(argv=argv, env=env, interpreter=self.interpreter)


class TestNamesNoAgent(BuilderBase):
    """Fails: agent_succeeds."""

    class plugin(Builder):  # noqa: D106, N801
        @hookimpl
        def ebt_register_agents(self, register: Any) -> None:
            pass


class TestRaises(BuilderBase):
    """Fails: agent_succeeds tasks_at_once."""

    class plugin(Builder):  # noqa: D106, N801
        def build(self, task: Task) -> Command:
            raise LookupError("not today")


# ---------------------------------------------------------------------------------- interpreters


class Interpreter:
    """An interpreter without a fault."""

    def __init__(self) -> None:
        self.result: str | None = None

    def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity]:
        kind, _, text = line.decode(errors="replace").partition(":")
        if kind == "say":
            yield AgentMessage(text=text)
        elif kind == "done":
            self.result = text

    def verdict(self, exit: ProcessExit) -> Verdict | None:
        if self.result is None:
            return Verdict(reason=Reason.NO_RESULT, message="it has not finished")
        return Verdict(reason=Reason.EXITED, result=self.result)


class InterpreterBase(InterpreterContract):
    make: ClassVar[Any] = Interpreter

    @pytest.fixture
    def case(self) -> InterpreterCase:
        make = type(self).__dict__.get("make", Interpreter)
        return InterpreterCase(make=make, lines=[b"say:hello", b"done:well"], result="well")


class TestGoodInterpreter(InterpreterBase):
    """Fails: nothing."""


class TestSilenceIsSuccess(InterpreterBase):
    """Fails: silence_is_no_success."""

    class make(Interpreter):  # noqa: D106, N801
        def verdict(self, exit: ProcessExit) -> Verdict | None:
            if self.result is None and exit.return_code == 0:
                return None
            return super().verdict(exit)


class TestStumblesOverNonsense(InterpreterBase):
    """Fails: nonsense_is_endured[stdout] nonsense_is_endured[stderr]."""

    class make(Interpreter):  # noqa: D106, N801
        def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity]:
            line.decode()
            return super().interpret(line, stream)


class TestRemembersOthers(InterpreterBase):
    """Fails: two_share_nothing."""

    class make(Interpreter):  # noqa: D106, N801
        lines = 0

        def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity]:
            type(self).lines += 1
            self.mine = type(self).lines
            return super().interpret(line, stream)

        def verdict(self, exit: ProcessExit) -> Verdict | None:
            found = super().verdict(exit)
            if self.result is None:
                type(self).lines += 1
                return Verdict(reason=Reason.NO_RESULT, message=f"after {type(self).lines} lines")
            return found


class TestInvents(InterpreterBase):
    """Fails: success events_travel."""

    class make(Interpreter):  # noqa: D106, N801
        def interpret(self, line: bytes, stream: Stream) -> Iterable[Any]:
            yield from super().interpret(line, stream)
            if line == b"say:hello":
                yield {"text": "no event"}


# -------------------------------------------------------------------------- termination policies


class PolicyBase(TerminationPolicyContract):
    @pytest.fixture
    def case(self) -> PolicyCase:
        return PolicyCase(plugin=self)

    def policy(self, task: Task) -> Any:
        return TerminationPolicy(steps=(Step(signal=signal.SIGTERM, grace=0.2),))

    @hookimpl
    def ebt_termination_policy(self, task: Task) -> Any:
        return self.policy(task)


class TestGoodPolicy(PolicyBase):
    """Fails: nothing."""


class TestNoPolicyAtAll(PolicyBase):
    """Fails: answer_is_data."""

    def policy(self, task: Task) -> Any:
        return {"steps": ["TERM"]}


class TestNobodyWaitsThatLong(PolicyBase):
    """Fails: somebody_waits_for_the_end."""

    def policy(self, task: Task) -> Any:
        return TerminationPolicy(steps=(Step(signal=signal.SIGTERM, grace=600),))


class TestKnowsOnlyItsOwn(PolicyBase):
    """Fails: unknown_agents_are_endured."""

    def policy(self, task: Task) -> Any:
        graces = {"command": 0.2}
        return TerminationPolicy(steps=(Step(signal=signal.SIGTERM, grace=graces[task.agent]),))


# ------------------------------------------------------------------------------ talking to agents

TALKER = """\
import sys
for line in sys.stdin:
    if line == "ask\\n":
        print("asks", flush=True)
    else:
        print("done", flush=True)
"""


class Talk:
    """An interpreter of the program above: each line is a prompt or an answer."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt

    def begin(self) -> bytes:
        return self.encode_prompt(self.prompt)

    def encode_prompt(self, text: str) -> bytes:
        return " ".join(text.split()).encode() + b"\n"

    def encode_answer(self, request: AgentInputRequired, answer: AgentAnswer) -> bytes:
        return b"yes\n" if isinstance(answer, Allow) else b"no\n"

    def encode_interrupt(self) -> bytes:
        return b"stop\n"

    def asked(self) -> AgentInputRequired:
        return AgentInputRequired(kind="permission", prompt="?", request_id="1", tool="T")

    def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity]:
        return [self.asked() if line == b"asks" else AgentResult(ok=True)]

    def verdict(self, exit: ProcessExit) -> Verdict:
        return Verdict(reason=Reason.EXITED)


class TalkInLines(Talk):
    """Takes no prompt of several lines."""

    def encode_prompt(self, text: str) -> bytes:
        if "\n" in text:
            raise ValueError("one line at most")
        return super().encode_prompt(text)


class TalkOfNoTool(Talk):
    """Does not say what it wants to use."""

    def asked(self) -> AgentInputRequired:
        return AgentInputRequired(kind="permission", prompt="?", request_id="1")


class ConversationBase(ConversationContract):
    talk: ClassVar[type[Talk]] = Talk

    @pytest.fixture
    def case(self) -> ConversationCase:
        return ConversationCase(plugin=self, agent="bad", prompt="work", ask="ask")

    @hookimpl
    def ebt_register_agents(self, register: Any) -> None:
        register("bad", "an agent")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command | None:
        argv = (sys.executable, "-ISc", TALKER)
        return Command(argv=argv, stdin="open", interpreter=self.talk(task.prompt))


class TestGoodConversation(ConversationBase):
    """Fails: nothing."""


class TestTakesOneLine(ConversationBase):
    """Fails: prompt_has_any_form."""

    talk = TalkInLines


class TestNamesNoTool(ConversationBase):
    """Fails: permission[allow] permission[deny]."""

    talk = TalkOfNoTool


class AnswerBase(AnswerContract):
    @pytest.fixture
    def case(self) -> AnswerCase:
        request = AgentInputRequired(kind="permission", prompt="?", request_id="1", tool="Read")
        return AnswerCase(plugin=self, answered=((request, Allow()),))

    @hookimpl
    def ebt_answer_agent(self, task: Task, request: AgentInputRequired) -> Any:
        return self.rule(request)

    def rule(self, request: AgentInputRequired) -> Any:
        return Allow() if request.tool == "Read" else None


class TestGoodRule(AnswerBase):
    """Fails: nothing."""


class TestAllowsOnlyOnce(AnswerBase):
    """Fails: rule_is_only_a_rule."""

    used = False

    def rule(self, request: AgentInputRequired) -> Any:
        if self.used:
            return None
        self.used = True
        return super().rule(request)


# ----------------------------------------------------------------------------------- output logs


class Store:
    """Keeps output in private files."""

    mode = 0o600

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name

    def open(self, *, separate_stderr: bool) -> LogFiles:
        self.directory.mkdir(exist_ok=True)
        paths = [self.directory / f"{self.name}-{number}" for number in (1, 2)]
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        out = os.open(paths[0], flags, self.mode)
        err = os.open(paths[1], flags, self.mode) if separate_stderr else None
        for descriptor in (out, err):
            if descriptor is not None:
                os.fchmod(descriptor, self.mode)
        return LogFiles(
            stdout=out,
            stderr=err,
            stdout_path=str(paths[0]),
            stderr_path=str(paths[1]) if separate_stderr else None,
        )


class StoreBase(OutputStoreContract):
    @pytest.fixture
    def case(self) -> StoreCase:
        return StoreCase(plugin=self)

    def store(self, task: Task) -> Any:
        return Store(task.project_dir / ".kept", task.uid)

    @hookimpl
    def ebt_output_log(self, task: Task) -> Any:
        return self.store(task)


class TestGoodStore(StoreBase):
    """Fails: nothing."""


class TestReadableByAll(StoreBase):
    """Fails: named_files_are_private."""

    def store(self, task: Task) -> Any:
        store = Store(task.project_dir / ".kept", task.uid)
        store.mode = 0o644
        return store


class TestOneFileForAll(StoreBase):
    """Fails: tasks_do_not_mix."""

    def store(self, task: Task) -> Any:
        return Store(task.project_dir / ".kept", "output")


class TestNoStoreAtAll(StoreBase):
    """Fails: store_is_asked."""

    def store(self, task: Task) -> Any:
        return str(task.project_dir / "output")


class TestPathForAStore(StoreBase):
    """Fails: every_byte_is_kept."""

    def store(self, task: Task) -> Any:
        return task.project_dir / "output"  # it has a method open(), but not that one


# -------------------------------------------------------------------------------------- journals


class KeptJournal:
    """Keeps the events in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def append(self, events: Sequence[TaskEvent]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(event.to_dict()) + "\n" for event in events)

    def finish(self, outcome: Outcome) -> None:
        pass

    def close(self) -> None:
        pass


class JournalBase(JournalContract):
    journal: ClassVar[Any] = KeptJournal

    @pytest.fixture
    def case(self) -> JournalCase:
        return JournalCase(plugin=self, read=self.read)

    def path(self, task: Task) -> Path:
        return task.project_dir / f"{task.uid}.jsonl"

    def read(self, task: Task) -> list[TaskEvent]:
        return [event_from_dict(json.loads(line)) for line in self.path(task).open()]

    @hookimpl
    def ebt_open_journal(self, task: Task) -> Any:
        return self.journal(self.path(task))


class TestGoodJournal(JournalBase):
    """Fails: nothing."""


class TestForgetsEvents(JournalBase):
    """Fails: journal_is_asked every_end_is_written[failure]."""

    class journal(KeptJournal):  # noqa: D106, N801
        def append(self, events: Sequence[TaskEvent]) -> None:
            super().append([event for event in events if event.name != "task.started"])


class TestTextOfOneKind(JournalBase):
    """Fails: any_text_is_written."""

    class journal(KeptJournal):  # noqa: D106, N801
        def append(self, events: Sequence[TaskEvent]) -> None:
            for event in events:
                event.task.name.encode("ascii")
            super().append(events)


class TestNoJournalAtAll(JournalBase):
    """Fails: object_has_every_method."""

    class journal:  # noqa: D106, N801
        def __init__(self, path: Path) -> None:
            self.append = KeptJournal(path).append


class TestOneJournalForAll(JournalBase):
    """Fails: journals_do_not_mix."""

    def path(self, task: Task) -> Path:
        return task.project_dir.parent / "all.jsonl"


# ------------------------------------------------------------------------------------- overrides


class TestReplacedWithoutReason(InterpreterBase):
    """Fails: overrides_have_a_reason."""

    def test_success(self, case: InterpreterCase) -> None:
        """Nothing is proven any more."""


class TestReplacedFurtherUp(TestReplacedWithoutReason):
    """Fails: overrides_have_a_reason."""


class TestReplacedByNothing(InterpreterBase):
    """Fails: overrides_have_a_reason."""

    test_success = None  # type: ignore[assignment]


class TestReplacedWithReason(InterpreterBase):
    """Fails: nothing."""

    @overrides_with_reason("the agent prints its answer only after it has exited")
    def test_success(self, case: InterpreterCase) -> None:
        """Nothing is proven any more."""

    @pytest.mark.xfail(reason="the format has no marks between lines")
    def test_nonsense_between_changes_nothing(self, case: InterpreterCase) -> None:
        """The plugin does not keep this part."""
        raise AssertionError

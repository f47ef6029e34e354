"""Conformance of what drives an agent: command builders and interpreters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from eventbus_tasks import (
    AgentActivity,
    Command,
    ConversationInterpreter,
    OutputInterpreter,
    ProcessExit,
    Reason,
    Send,
    Stream,
    Task,
    TaskRef,
    TaskStatus,
    Verdict,
    Withdraw,
    event_from_dict,
)
from eventbus_tasks.testing._contract import Bench, Contract, StandIn, open_bench

__all__ = ["BuilderCase", "CommandBuilderContract", "InterpreterCase", "InterpreterContract"]

_REFUSED: Final = (Reason.PLUGIN_ERROR, Reason.SPAWN_FAILED)


@dataclass(frozen=True, kw_only=True)
class BuilderCase:
    """A command builder to be tested, and a run of it that succeeds.

    Attributes:
        plugin: The plugin: a module or an object.
        agent: The agent that it drives.
        prompt: A prompt with which the agent ends by itself, and succeeds.
        env: Variables that the request has, for example a ``PATH`` with a fake agent.
        options: Options that the request has.
        tables: Settings of plugins: objects of the dataclasses that they have declared.
    """

    plugin: object
    agent: str
    prompt: str = "Say hello."
    env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[object, ...] = ()


class CommandBuilderContract(Contract):
    """What every plugin with ``ebt_build_command`` keeps.

    Subclass it, and give it a fixture ``case`` that returns a `BuilderCase`::

        class TestShout(CommandBuilderContract):
            @pytest.fixture
            def case(self) -> BuilderCase:
                return BuilderCase(plugin=ebt_shout, agent="shout")

    Every test runs real processes in a real engine, on asyncio and on trio.
    """

    async def _run(
        self, case: BuilderCase, bench: Bench, project: Path, prompt: str | None = None
    ) -> tuple[Task, Command]:
        """Run one task to its end; return it, and the command that is built for it."""
        task = await bench.engine.spawn_task(
            "conformance",
            case.prompt if prompt is None else prompt,
            project,
            agent=case.agent,
            env=case.env,
            options=case.options,
        )
        outcome = await task.wait()
        bench.check(task, outcome)
        assert outcome.reason not in _REFUSED, f"{outcome.reason}: {outcome.message}"
        command = await bench.ask("ebt_build_command", task)
        assert isinstance(command, Command), f"not a Command: {command!r}"
        command.validate()
        return task, command

    def _bench(self, case: BuilderCase, tmp_path: Path) -> Any:
        return open_bench({"tested": case.plugin}, tmp_path, case.tables)

    async def test_agent_succeeds(self, case: BuilderCase, project: Path, tmp_path: Path) -> None:
        """The agent is known by its name, runs, and completes."""
        async with self._bench(case, tmp_path) as bench:
            assert case.agent in bench.engine.plugins.agents, "name it in ebt_register_agents"
            task, _ = await self._run(case, bench, project)
            assert task.status is TaskStatus.COMPLETED, task.outcome

    async def test_other_agents_are_left_to_others(
        self, case: BuilderCase, project: Path, tmp_path: Path
    ) -> None:
        """A task of another agent is built by the one who drives that."""
        async with self._bench(case, tmp_path) as bench:
            argv = (sys.executable, "-I", "-S", "-c", "print('somebody else')")
            task = await bench.engine.spawn_task("other", argv=argv, project_dir=project)
            outcome = await task.wait()
            bench.check(task, outcome)
            assert task.output.tail() == ["somebody else"], "it was built by the tested plugin"

    async def test_prompt_is_no_argument(
        self, case: BuilderCase, project: Path, tmp_path: Path
    ) -> None:
        """The prompt is neither an argument nor a variable: everybody here can read those."""
        secret = "--xyzzy-2f9c41"
        async with self._bench(case, tmp_path) as bench:
            _, command = await self._run(case, bench, project, f"{secret} {case.prompt}")
            assert not any(secret in word for word in command.argv), command.argv
            variables = (command.env or {}).items()
            named = [name for name, value in variables if secret in value]
            assert not named, f"the prompt is in the variables {named}"

    @pytest.mark.parametrize("form", ["long", "dashes", "unicode", "lines"])
    async def test_any_prompt_is_accepted(
        self, case: BuilderCase, project: Path, tmp_path: Path, form: str
    ) -> None:
        """A prompt of any length and form starts the agent; an empty one may be refused."""
        prompt = {
            "long": "word " * 60_000,
            "dashes": "--help",
            "unicode": "größer \U0001f600 \u2028 \x1b[31m",
            "lines": "one\ntwo\r\n\n'three' \"$HOME\" `four`\n",
        }[form]
        async with self._bench(case, tmp_path) as bench:
            await self._run(case, bench, project, prompt)

    async def test_environment_of_the_request(
        self, case: BuilderCase, project: Path, tmp_path: Path
    ) -> None:
        """The variables of a request reach the agent."""
        env = {**case.env, "EVENTBUS_CONFORMANCE": "reaches it"}
        async with self._bench(case, tmp_path) as bench:
            task = await bench.engine.spawn_task(
                "env", case.prompt, project, agent=case.agent, env=env, options=case.options
            )
            bench.check(task, await task.wait())
            command = await bench.ask("ebt_build_command", task)
            assert command.env is not None, "start from os.environ, and add task.request.env"
            assert command.env.get("EVENTBUS_CONFORMANCE") == "reaches it"

    async def test_each_task_has_its_own_command(
        self, case: BuilderCase, project: Path, tmp_path: Path
    ) -> None:
        """Nothing is shared by the commands of two tasks, the interpreter least of all."""
        other = tmp_path / "other"
        other.mkdir()
        async with self._bench(case, tmp_path) as bench:
            _, first = await self._run(case, bench, project)
            _, second = await self._run(case, bench, other)
            assert first is not second
            if first.interpreter is not None:
                assert first.interpreter is not second.interpreter, "one object for each task"

    async def test_tasks_at_once(self, case: BuilderCase, project: Path, tmp_path: Path) -> None:
        """Tasks in several projects succeed side by side."""
        projects = [tmp_path / f"project-{number}" for number in range(3)]
        async with self._bench(case, tmp_path) as bench:
            tasks = []
            for directory in projects:
                directory.mkdir()
                tasks.append(
                    await bench.engine.spawn_task(
                        "many",
                        case.prompt,
                        directory,
                        agent=case.agent,
                        env=case.env,
                        options=case.options,
                    )
                )
            for task in tasks:
                outcome = await task.wait()
                bench.check(task, outcome)
                assert outcome.status is TaskStatus.COMPLETED, outcome

    async def test_cancel_at_once(self, case: BuilderCase, project: Path, tmp_path: Path) -> None:
        """A task that is cancelled at once ends, is called cancelled, and leaves nothing."""
        async with self._bench(case, tmp_path) as bench:
            task = await bench.engine.spawn_task(
                "cancel",
                case.prompt,
                project,
                agent=case.agent,
                env=case.env,
                options=case.options,
            )
            cancelled = await task.cancel(now=True)
            outcome = await task.wait()
            bench.check(task, outcome)
            assert cancelled or outcome.status is TaskStatus.COMPLETED, outcome
            assert outcome.survivors == ()


@dataclass(frozen=True, kw_only=True)
class InterpreterCase:
    """An interpreter to be tested, and the output of a run that has succeeded.

    Attributes:
        make: Makes a new one, as a command builder does for each task.
        lines: Everything the agent writes to standard output in a run that succeeds. Of an agent
            that is talked to: its answers to what a new interpreter tells it.
        result: The answer in it, or ``None``.
    """

    make: Callable[[], OutputInterpreter]
    lines: Sequence[bytes]
    result: str | None = None


_HOSTILE: Final[tuple[bytes, ...]] = (
    b"",
    b" ",
    b"\0\0\0",
    b"\xff\xfe broken",
    b"\xed\xa0\x80",
    b"{}",
    b"[]",
    b"null",
    b"0",
    b'"text"',
    b"NaN",
    b"{",
    b'{"type": null}',
    b'{"type": []}',
    b'{"type": {"type": {}}}',
    b'{"type": "result"}',
    b"1e999",
    b"9" * 5000,
    b"[" * 100_000,
    b'{"a":' * 5000,
    b"x" * 1_000_000,
    "\u2028\u2029 \U0001f600".encode(),
    b"\x1b[31mred",
)

_REF: Final = TaskRef(id=1, uid="u", name="n", agent="a", project_dir="/")


class InterpreterContract(Contract):
    """What every `OutputInterpreter` keeps.

    Subclass it, and give it a fixture ``case`` that returns an `InterpreterCase`. That of an agent
    that is talked to (`ConversationInterpreter`) is begun, and may return more than events.
    """

    def _make(self, case: InterpreterCase) -> OutputInterpreter:
        interpreter = case.make()
        if isinstance(interpreter, ConversationInterpreter):
            assert isinstance(interpreter.begin(), (bytes, Send))
        return interpreter

    def _feed(
        self, interpreter: OutputInterpreter, lines: Sequence[bytes], stream: Stream = "stdout"
    ) -> list[AgentActivity]:
        found = []
        for line in lines:
            for item in interpreter.interpret(line, stream):
                known = isinstance(item, (AgentActivity, Send, Withdraw))
                assert known, f"not an AgentActivity, and nothing to be done: {item!r}"
                if isinstance(item, AgentActivity):
                    found.append(item)
        return found

    def test_it_is_an_interpreter(self, case: InterpreterCase) -> None:
        """Each call makes a new object that has both methods."""
        first, second = case.make(), case.make()
        assert isinstance(first, OutputInterpreter)
        assert first is not second

    def test_success(self, case: InterpreterCase) -> None:
        """A run that has succeeded is judged so, and its answer is found."""
        interpreter = self._make(case)
        self._feed(interpreter, case.lines)
        verdict = interpreter.verdict(ProcessExit(return_code=0))
        assert verdict is None or isinstance(verdict, Verdict)
        assert verdict is None or verdict.reason is Reason.EXITED, verdict
        assert (verdict.result if verdict else None) == case.result

    def test_silence_is_no_success(self, case: InterpreterCase) -> None:
        """An agent that says nothing and exits with 0 has not succeeded."""
        verdict = case.make().verdict(ProcessExit(return_code=0))
        assert verdict is not None, "None lets exit status 0 be a success"
        assert verdict.reason.status is TaskStatus.FAILED, verdict
        assert verdict.message, "say in one sentence what is missing"

    @pytest.mark.parametrize("code", [1, 137, -9, -15, None])
    def test_bad_end_is_judged(self, case: InterpreterCase, code: int | None) -> None:
        """Whatever the exit status, there is a verdict, and without output it is no success."""
        verdict = case.make().verdict(ProcessExit(return_code=code))
        assert verdict is None or verdict.reason.status is TaskStatus.FAILED, verdict

    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    def test_nonsense_is_endured(self, case: InterpreterCase, stream: Any) -> None:
        """No line whatsoever makes it raise, and nonsense alone is no success."""
        interpreter = self._make(case)
        self._feed(interpreter, _HOSTILE, stream)
        verdict = interpreter.verdict(ProcessExit(return_code=1))
        assert verdict is None or verdict.reason.status is TaskStatus.FAILED, verdict

    def test_torn_lines_are_endured(self, case: InterpreterCase) -> None:
        """Lines that are cut off anywhere do not make it raise."""
        for line in case.lines:
            interpreter = self._make(case)
            for cut in {*range(0, len(line), max(1, len(line) // 50)), len(line)}:
                self._feed(interpreter, [line[:cut], line[cut:]])
            interpreter.verdict(ProcessExit(return_code=0))

    def test_nonsense_between_changes_nothing(self, case: InterpreterCase) -> None:
        """Lines of others between its own do not change the judgement."""
        interpreter = self._make(case)
        for line in case.lines:
            self._feed(interpreter, [b"warning: something else", line])
        plain = self._make(case)
        self._feed(plain, case.lines)
        end = ProcessExit(return_code=0)
        assert interpreter.verdict(end) == plain.verdict(end)

    def test_two_share_nothing(self, case: InterpreterCase) -> None:
        """What one has seen the other does not know."""
        first, second = self._make(case), self._make(case)
        self._feed(first, case.lines)
        end = ProcessExit(return_code=0)
        assert second.verdict(end) == self._make(case).verdict(end)

    def test_it_can_be_taken_over(self, case: InterpreterCase) -> None:
        """A host that takes the task over reads the same from the lines, without having begun."""
        begun, read = self._make(case), case.make()
        assert self._feed(read, case.lines) == self._feed(begun, case.lines)
        end = ProcessExit(return_code=0)
        assert read.verdict(end) == begun.verdict(end)

    def test_events_travel(self, case: InterpreterCase) -> None:
        """Each event becomes JSON and comes back equal."""
        for event in self._feed(self._make(case), case.lines):
            stamped = event.stamp(_REF, 1, datetime.now(UTC))
            data = json.loads(json.dumps(stamped.to_dict()))
            assert event_from_dict(data).to_dict() == stamped.to_dict(), event

    async def test_real_run(self, case: InterpreterCase, project: Path, tmp_path: Path) -> None:
        """In a real task its events and its judgement are those that the lines say."""
        output = tmp_path / "output"
        output.write_bytes(b"".join(line + b"\n" for line in case.lines))
        plain = self._make(case)
        wanted = self._feed(plain, case.lines)
        verdict = plain.verdict(ProcessExit(return_code=0))

        def command(task: Task) -> Command:
            made = case.make()
            return Command(
                argv=("cat", str(output)),
                interpreter=made,
                stderr="separate",
                stdin="open" if isinstance(made, ConversationInterpreter) else None,
            )

        plugins = {"stand-in": StandIn("stand-in", command)}
        async with open_bench(plugins, tmp_path) as bench:
            task = await bench.engine.spawn_task("real", "go", project, agent="stand-in")
            outcome = await task.wait()
            bench.check(task, outcome)
            seen = [item for item in bench.events_of(task) if isinstance(item, AgentActivity)]
            assert [type(item) for item in seen] == [type(item) for item in wanted]
            assert outcome.reason is (verdict.reason if verdict else Reason.EXITED), outcome
            assert outcome.result == (verdict.result if verdict else None)

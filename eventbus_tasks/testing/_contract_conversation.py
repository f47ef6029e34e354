"""Conformance of talking to agents: those who drive an agent that stays, those who answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from eventbus_tasks import (
    AgentAnswer,
    AgentInputAnswered,
    AgentInputRequired,
    AgentResult,
    Allow,
    Answer,
    Deny,
    Reason,
    Task,
    TaskEvent,
    TaskRef,
    TaskRequest,
)
from eventbus_tasks.testing._contract import Bench, Contract, open_bench

__all__ = ["AnswerCase", "AnswerContract", "ConversationCase", "ConversationContract"]

E = TypeVar("E", bound=TaskEvent)


@dataclass(frozen=True, kw_only=True)
class ConversationCase:
    """An agent that is talked to, and what makes it answer and ask.

    Attributes:
        plugin: The plugin: a module or an object.
        agent: The agent that it drives.
        prompt: A prompt that is answered with a result that is a success.
        ask: A prompt for which the agent asks a permission, and gives a result when it is answered,
            whatever the answer.
        env: Variables that the request has, for example a ``PATH`` with a fake agent.
        options: Options that the request has, above all those with which the agent stays.
        tables: Settings of plugins: objects of the dataclasses that they have declared.
    """

    plugin: object
    agent: str
    prompt: str
    ask: str
    env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[object, ...] = ()


class ConversationContract(Contract):
    """What every plugin keeps whose agent is talked to (`ConversationInterpreter`).

    Subclass it, and give it a fixture ``case`` that returns a `ConversationCase`. Every test runs
    real processes in a real engine, on asyncio and on trio.
    """

    def _bench(self, case: ConversationCase, tmp_path: Path, **settings: Any) -> Any:
        return open_bench({"tested": case.plugin}, tmp_path, case.tables, **settings)

    async def _begin(self, case: ConversationCase, bench: Bench, path: Path, prompt: str) -> Task:
        return await bench.engine.spawn_task(
            "conversation", prompt, path, agent=case.agent, env=case.env, options=case.options
        )

    async def _until(self, bench: Bench, task: Task, kind: type[E], count: int = 1) -> E:
        """Wait until there were so many events of a kind, and return the last of these."""
        with bench.engine.subscribe(TaskEvent, task=task, after=0) as stream:
            async for event in stream:
                if isinstance(event, kind):
                    count -= 1
                    if not count:
                        return event
        raise AssertionError(f"no {kind.__name__} came: {task.outcome}")

    async def _end(self, bench: Bench, task: Task) -> None:
        await task.close_input()
        bench.check(task, await task.wait())

    async def test_follow_up(self, case: ConversationCase, project: Path, tmp_path: Path) -> None:
        """It answers one prompt after the other, and ends well when its input ends."""
        async with self._bench(case, tmp_path) as bench:
            task = await self._begin(case, bench, project, case.prompt)
            assert (await self._until(bench, task, AgentResult)).ok
            await task.send(case.prompt)
            assert (await self._until(bench, task, AgentResult, 2)).ok
            await self._end(bench, task)
            assert task.outcome is not None
            assert task.outcome.reason is Reason.EXITED, task.outcome

    async def test_prompt_has_any_form(
        self, case: ConversationCase, project: Path, tmp_path: Path
    ) -> None:
        """A prompt with line endings and strange characters in it does not break the protocol."""
        async with self._bench(case, tmp_path) as bench:
            task = await self._begin(case, bench, project, case.prompt)
            await self._until(bench, task, AgentResult)
            await task.send(f"{case.prompt}\n\r\n\u2028\U0001f600 \x1b[31m \"'")
            await self._until(bench, task, AgentResult, 2)
            await task.send(case.prompt)
            assert (await self._until(bench, task, AgentResult, 3)).ok
            await self._end(bench, task)

    @pytest.mark.parametrize("answer", [Allow(), Deny("not now")], ids=["allow", "deny"])
    async def test_permission(
        self, case: ConversationCase, project: Path, tmp_path: Path, answer: AgentAnswer
    ) -> None:
        """It asks, says what for, takes the answer, and goes on."""
        async with self._bench(case, tmp_path) as bench:
            task = await self._begin(case, bench, project, case.ask)
            asked = await self._until(bench, task, AgentInputRequired)
            assert asked.kind == "permission", asked
            assert asked.request_id, "without a name nobody can answer it"
            assert asked.tool, "say for which tool: rules go by that"
            await task.answer(asked, answer)
            await self._until(bench, task, AgentResult)
            await self._end(bench, task)

    async def test_silence(self, case: ConversationCase, project: Path, tmp_path: Path) -> None:
        """What nobody answers is denied, and the agent goes on with that."""
        async with self._bench(case, tmp_path, answer_deadline=0.1) as bench:
            task = await self._begin(case, bench, project, case.ask)
            closed = await self._until(bench, task, AgentInputAnswered)
            assert (closed.answer, closed.by) == ("deny", "deadline"), closed
            await self._until(bench, task, AgentResult)
            await self._end(bench, task)

    async def test_cancel_while_it_asks(
        self, case: ConversationCase, project: Path, tmp_path: Path
    ) -> None:
        """A task that waits for an answer can be cancelled, and leaves nothing."""
        async with self._bench(case, tmp_path) as bench:
            task = await self._begin(case, bench, project, case.ask)
            await self._until(bench, task, AgentInputRequired)
            assert await task.cancel()
            outcome = await task.wait()
            bench.check(task, outcome)
            assert outcome.survivors == ()


@dataclass(frozen=True, kw_only=True)
class AnswerCase:
    """A plugin that answers agents by a rule, and requests for which the rule is known.

    Attributes:
        plugin: The plugin: a module or an object.
        answered: Requests that it answers, each with its answer.
        settings: Settings of the core that it goes by.
        tables: Settings of plugins: objects of the dataclasses that they have declared.
    """

    plugin: object
    answered: tuple[tuple[AgentInputRequired, AgentAnswer], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[object, ...] = ()


_STRANGE: Final[tuple[AgentInputRequired, ...]] = (
    AgentInputRequired(kind="permission", prompt="", request_id="r1"),
    AgentInputRequired(kind="permission", prompt="?", request_id="r1", tool="never heard of"),
    AgentInputRequired(kind="question", prompt="Which?", request_id="r1"),
    AgentInputRequired(kind="of the future", prompt="?", request_id="r1", tool="\x1b[31m\u2028"),
)

_REF: Final = TaskRef(id=1, uid="u", name="n", agent="stranger", project_dir="/")


class AnswerContract(Contract):
    """What every plugin with ``ebt_answer_agent`` keeps.

    Subclass it, and give it a fixture ``case`` that returns an `AnswerCase`. Requests are put to
    the plugin alone, without an agent.
    """

    async def _ask(
        self, case: AnswerCase, tmp_path: Path, request: AgentInputRequired
    ) -> AgentAnswer | None:
        async with open_bench(
            {"tested": case.plugin}, tmp_path, case.tables, **case.settings
        ) as bench:
            task = Task(
                ref=_REF,
                request=TaskRequest(name="n", project_dir=tmp_path, agent="stranger"),
                settings=bench.engine.settings,
                control=bench.engine,
            )
            answer = await bench.ask("ebt_answer_agent", task, request=request)
            assert answer is None or isinstance(answer, (Allow, Deny, Answer)), answer
            return answer

    async def test_rule(self, case: AnswerCase, tmp_path: Path) -> None:
        """What the rule is about is answered as it says."""
        for request, wanted in case.answered:
            assert await self._ask(case, tmp_path, request) == wanted, request

    async def test_rule_is_only_a_rule(self, case: AnswerCase, tmp_path: Path) -> None:
        """The same is answered the same again, for any task."""
        for request, wanted in case.answered * 2:
            assert await self._ask(case, tmp_path, request) == wanted, request

    @pytest.mark.parametrize("request_", _STRANGE, ids=lambda one: f"{one.kind}-{one.tool!a}")
    async def test_strangers_get_no_consent(
        self, case: AnswerCase, tmp_path: Path, request_: AgentInputRequired
    ) -> None:
        """What the rule does not know is left to people, or denied, and nothing raises."""
        answer = await self._ask(case, tmp_path, request_)
        assert answer is None or isinstance(answer, Deny), f"consent to {request_}: {answer}"

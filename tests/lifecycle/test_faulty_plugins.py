"""Plugins that fail: the task says so, its project is free, and everything else goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import anyio
import pytest

from eventbus_tasks import (
    Command,
    HandlerFailed,
    LogFiles,
    Outcome,
    PluginError,
    Reason,
    Task,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskStarted,
    TaskStopping,
    TerminationPolicy,
    hookimpl,
)

from .conftest import Stage, check_journal, check_story

pytestmark = pytest.mark.anyio


class PluginPanic(BaseException):
    """No `Exception`: what only careless code raises."""


@pytest.fixture
def hang() -> Iterator[Callable[[], None]]:
    """A function that returns only when the test is over."""
    over = threading.Event()
    yield lambda: void(over.wait(60))
    over.set()


def is_told(text: str | None) -> bool:
    """Whether a text names the failure; no coroutine can hand on a StopIteration as it is."""
    return text is not None and ("plugin says no" in text or "StopIteration" in text)


def void(_: object) -> None:
    """Forget a value."""


FAULTS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: RuntimeError("plugin says no"),
    "exit": lambda: SystemExit("plugin says no"),
    "panic": lambda: PluginPanic("plugin says no"),
    "stop-iteration": lambda: StopIteration("plugin says no"),
}


def hook(name: str, answer: Callable[[], Any]) -> object:
    """Return a plugin with one hook for tasks, that answers what `answer` returns or raises."""

    @hookimpl(specname=name)
    def implementation() -> Any:
        return answer()

    class Plugin:
        pass

    setattr(Plugin, name, staticmethod(implementation))
    return Plugin()


def raising(fault: str) -> Callable[..., Any]:
    """Return a function that raises."""

    def function(*_: Any, **__: Any) -> Any:
        error = FAULTS[fault]()
        raise error

    return function


async def run_true(stage: Stage, engine: TaskEngine) -> tuple[Task, Outcome]:
    """Run a task to its end, and another in the same project, which must be free."""
    task = await engine.spawn_task("t", argv=["echo", "hello"], project_dir=stage.project)
    outcome = await task.wait()
    assert task.status is outcome.status
    ends = stage.recorder.of(TaskEnded, task)
    assert [event.outcome for event in ends] == [outcome]
    from eventbus_tasks import Settings

    async with TaskEngine(Settings.load(), load_installed=False) as other:
        next_task = await other.spawn_task("n", argv=["true"], project_dir=stage.project)
        assert (await next_task.wait()).reason is Reason.EXITED
    return task, outcome


def failures(stage: Stage, name: str) -> list[HandlerFailed]:
    """Return the failures of a hook."""
    return [event for event in stage.recorder.of(HandlerFailed) if name in event.where]


# -- hooks that are asked per task ---------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
async def test_builder_that_raises(stage: Stage, fault: str) -> None:
    """A failing builder is named, and the next one, here the core's own, is asked."""
    plugin = hook("ebt_build_command", raising(fault))
    async with stage.engine(plugins={"bad": plugin}) as engine:
        task, outcome = await run_true(stage, engine)
    assert outcome.reason is Reason.EXITED
    (event,) = failures(stage, "ebt_build_command")
    assert event.task == task.ref
    assert "bad" in event.where
    assert is_told(event.error)
    stage.check(task)


class OnlyBuilder:
    """The only builder of the agent `mine`."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    @hookimpl
    def ebt_register_agents(self, register: Callable[[str, str], None]) -> None:
        register("mine", "for tests")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Any:
        return self._answer()


RUBBISH: dict[str, Any] = {
    "text": "echo hello",
    "list": ["echo", "hello"],
    "empty-argv": Command(argv=()),
    "text-argv": Command(argv="true"),  # type: ignore[arg-type]
    "number-argv": Command(argv=("true", 5)),  # type: ignore[arg-type]
    "nul": Command(argv=("true", "a\0b")),
    "bad-capture": Command(argv=("true",), capture="telepathy"),  # type: ignore[arg-type]
    "bad-stderr": Command(argv=("true",), stderr="maybe"),  # type: ignore[arg-type]
    "text-stdin": Command(argv=("true",), stdin="text"),  # type: ignore[arg-type]
    "bad-env-name": Command(argv=("true",), env={"A=B": "x"}),
    "bad-env-value": Command(argv=("true",), env={"A": 5}),  # type: ignore[dict-item]
    "env-list": Command(argv=("true",), env=["A"]),  # type: ignore[arg-type]
    "interpreter": Command(argv=("true",), interpreter=object()),  # type: ignore[arg-type]
    "interpreter-text": Command(argv=("true",), interpreter="x"),  # type: ignore[arg-type]
    "none": None,
}


async def test_builder_that_answers_rubbish(stage: Stage) -> None:
    """What cannot be executed is the plugin's error: the task fails for it, the project is free."""
    answers = iter(RUBBISH.values())
    plugin = OnlyBuilder(lambda: next(answers))
    tasks = []
    async with stage.engine(plugins={"mine": plugin}) as engine:
        for name in RUBBISH:
            task = await engine.spawn_task(name, "prompt", stage.project, agent="mine")
            outcome = await task.wait()
            assert outcome.reason is Reason.PLUGIN_ERROR, name
            assert outcome.message, name
            tasks.append(task)
        assert not stage.recorder.of(TaskStarted)
        again = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        assert (await again.wait()).reason is Reason.EXITED
    for task in tasks:
        stage.check(task)


@pytest.mark.parametrize("fault", FAULTS)
async def test_only_builder_raises(stage: Stage, fault: str) -> None:
    """Without any command the task fails as `plugin_error`, and says what the plugin said."""
    async with stage.engine(plugins={"mine": OnlyBuilder(raising(fault))}) as engine:
        task = await engine.spawn_task("t", "prompt", stage.project, agent="mine")
        outcome = await task.wait()
    assert outcome.reason is Reason.PLUGIN_ERROR
    assert is_told(outcome.message)
    assert stage.recorder.names(task) == ["task.accepted", "task.failed"]
    stage.check(task)


async def test_only_builder_hangs(stage: Stage, hang: Callable[[], None]) -> None:
    """A builder that never returns costs its deadline; the task fails, other tasks go on."""
    other = stage.new_project("other")
    async with stage.engine(plugins={"mine": OnlyBuilder(hang)}, hook_deadline=0.3) as engine:
        task = await engine.spawn_task("t", "prompt", stage.project, agent="mine")
        await (await engine.spawn_task("o", argv=["true"], project_dir=other)).wait()
        outcome = await task.wait()
        again = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        await again.wait()
    assert outcome.reason is Reason.PLUGIN_ERROR
    assert any(event.overran for event in failures(stage, "ebt_build_command"))
    stage.check(task)


async def test_cancel_while_a_builder_hangs(stage: Stage, hang: Callable[[], None]) -> None:
    """A task that is cancelled while its command is being built starts nothing."""
    entered = threading.Event()

    def answer() -> Command:
        entered.set()
        hang()
        return Command(argv=("true",))

    async with stage.engine(plugins={"mine": OnlyBuilder(answer)}, hook_deadline=0.5) as engine:
        task = await engine.spawn_task("t", "prompt", stage.project, agent="mine")
        await anyio.to_thread.run_sync(entered.wait)
        assert await task.cancel()
        assert task.outcome is not None
        assert task.outcome.reason is Reason.CANCELLED
    assert stage.recorder.names(task) == ["task.accepted", "task.cancelled"]
    stage.check(task)


async def test_async_hook_is_refused(stage: Stage) -> None:
    """A hook that is a coroutine function is named as such, and the next one is asked."""

    class Plugin:
        @hookimpl
        async def ebt_build_command(self, task: Task) -> Command:
            return Command(argv=("false",))

    async with stage.engine(plugins={"bad": Plugin()}) as engine:
        _, outcome = await run_true(stage, engine)
    assert outcome.reason is Reason.EXITED
    assert "synchronous" in failures(stage, "ebt_build_command")[0].error


HOOKS = ["ebt_termination_policy", "ebt_output_log", "ebt_open_journal", "ebt_next_task_id"]


@pytest.mark.parametrize("fault", ["exception", "panic"])
@pytest.mark.parametrize("name", HOOKS)
async def test_hook_that_raises(stage: Stage, name: str, fault: str) -> None:
    """A hook that raises is named, and the next answer applies: the task runs."""
    plugin = hook(name, raising(fault))
    async with stage.engine(plugins={"bad": plugin}) as engine:
        task, outcome = await run_true(stage, engine)
        assert task.output.text() == "hello\n"
    assert outcome.reason is Reason.EXITED
    assert is_told(failures(stage, name)[0].error)
    stage.check(task)


@pytest.mark.parametrize("name", HOOKS)
async def test_hook_that_hangs(stage: Stage, name: str, hang: Callable[[], None]) -> None:
    """A hook that hangs is named after its deadline, and the next answer applies."""
    async with stage.engine(plugins={"bad": hook(name, hang)}, hook_deadline=0.2) as engine:
        task, outcome = await run_true(stage, engine)
    assert outcome.reason is Reason.EXITED
    assert failures(stage, name)[0].overran
    stage.check(task)


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("answer", ["text", object()])
async def test_hook_that_answers_rubbish(stage: Stage, name: str, answer: Any) -> None:
    """An answer of a wrong kind is named, and the next answer applies."""
    async with stage.engine(plugins={"bad": hook(name, lambda: answer)}) as engine:
        task, outcome = await run_true(stage, engine)
    assert outcome.reason is Reason.EXITED
    assert outcome.persist_error is None
    assert failures(stage, name)
    stage.check(task)


async def test_policy_that_cannot_be_carried_out(stage: Stage) -> None:
    """An infinite timeout of a request is refused before anything is accepted, not later."""
    from eventbus_tasks import InvalidRequestError

    async with stage.engine() as engine:
        for timeout in (float("inf"), float("nan"), -1.0):
            with pytest.raises(InvalidRequestError):
                await engine.spawn_task(
                    "t", argv=["true"], project_dir=stage.project, timeout=timeout
                )
    assert not stage.recorder.of(TaskEvent)


async def test_policy_of_a_plugin_applies(stage: Stage) -> None:
    """The policy that a plugin answers is the one that is carried out."""
    policy = TerminationPolicy(timeout=0.2, steps=())
    plugin = hook("ebt_termination_policy", lambda: policy)
    async with stage.engine(plugins={"policy": plugin}) as engine:
        task = await engine.spawn_task("t", argv=["sleep", "1000"], project_dir=stage.project)
        assert (await task.wait()).reason is Reason.TIMED_OUT
    stage.check(task)


async def test_request_overrides_the_policy(stage: Stage) -> None:
    """What a request says about time and host wins; the rest of the plugin's policy stays."""
    policy = TerminationPolicy(timeout=500.0, drain=0.7)
    plugin = hook("ebt_termination_policy", lambda: policy)
    async with stage.engine(plugins={"policy": plugin}) as engine:
        task = await engine.spawn_task(
            "t",
            argv=["sleep", "1000"],
            project_dir=stage.project,
            timeout=0.2,
            on_host_death="detach",
        )
        assert (await task.wait()).reason is Reason.TIMED_OUT
    (stopping,) = stage.recorder.of(TaskStopping, task)
    wanted = policy.with_changes(timeout=0.2, on_host_death="detach")
    assert stopping.policy == wanted
    stage.check(task)


async def test_ids_of_a_plugin_apply(stage: Stage) -> None:
    """Numbers come from the plugin; one that is taken already is replaced."""
    numbers = iter([41, 42, 42])
    plugin = hook("ebt_next_task_id", lambda: next(numbers))
    async with stage.engine(plugins={"ids": plugin}) as engine:
        found = []
        for _ in range(3):
            task = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
            await task.wait()
            found.append(task.id)
    assert found[:2] == [41, 42]
    assert found[2] not in (41, 42)


# -- journals ------------------------------------------------------------------------------------


class BadJournal:
    """Fails in one of its methods."""

    def __init__(self, method: str, action: Callable[..., Any]) -> None:
        self.seen: list[TaskEvent] = []
        self.calls: list[str] = []
        self._method = method
        self._action = action

    def append(self, events: Sequence[TaskEvent]) -> None:
        self.calls.append("append")
        self.seen.extend(events)
        self._act("append")

    def finish(self, outcome: Outcome) -> None:
        self.calls.append("finish")
        self._act("finish")

    def close(self) -> None:
        self.calls.append("close")
        self._act("close")

    def _act(self, method: str) -> None:
        if method == self._method:
            self._action()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", ["append", "finish", "close"])
async def test_journal_that_raises(stage: Stage, method: str, fault: str) -> None:
    """A journal that fails costs no event and no run; the outcome says what was not kept."""
    journal = BadJournal(method, raising(fault))
    plugin = hook("ebt_open_journal", lambda: journal)
    async with stage.engine(plugins={"bad": plugin}) as engine:
        task, outcome = await run_true(stage, engine)
        assert task.output.text() == "hello\n"
    assert outcome.reason is Reason.EXITED
    if method != "close":
        assert is_told(outcome.persist_error)
    check_story(stage.recorder.of(TaskEvent, task), task)
    check_journal(journal.seen)
    assert journal.calls[-3:] == ["finish", "append", "close"]


async def test_journal_that_hangs_at_the_end(stage: Stage, hang: Callable[[], None]) -> None:
    """A journal that never becomes durable delays the end by its deadline, and is reported."""
    plugin = hook("ebt_open_journal", lambda: BadJournal("finish", hang))
    async with stage.engine(plugins={"bad": plugin}, journal_deadline=0.2) as engine:
        _, outcome = await run_true(stage, engine)
    assert outcome.reason is Reason.EXITED
    assert outcome.persist_error is not None


class DurableBadJournal(BadJournal):
    """Can make its terminal event durable, or fails at that."""

    def sync(self) -> None:
        self.calls.append("sync")
        self._act("sync")


async def test_end_is_durable_before_it_is_told(stage: Stage) -> None:
    """A journal is asked to make the terminal event durable between writing it and telling it."""
    journal = DurableBadJournal("none", lambda: None)
    told: list[list[str]] = []
    async with stage.engine(plugins={"good": hook("ebt_open_journal", lambda: journal)}) as engine:
        engine.signals.task_completed.connect(lambda _: told.append(journal.calls[-3:]))
        await run_true(stage, engine)
    assert told == [["finish", "append", "sync"]]
    assert journal.calls[-1] == "close"


@pytest.mark.parametrize("fault", FAULTS)
async def test_end_that_does_not_become_durable(stage: Stage, fault: str) -> None:
    """That the terminal event is not durable is said in the outcome that is told."""
    journal = DurableBadJournal("sync", raising(fault))
    async with stage.engine(plugins={"bad": hook("ebt_open_journal", lambda: journal)}) as engine:
        _, outcome = await run_true(stage, engine)
    assert outcome.reason is Reason.EXITED
    assert is_told(outcome.persist_error)


async def test_journal_is_written_before_anybody_is_told(stage: Stage) -> None:
    """When a receiver gets an event the journal has it already."""
    missing: list[TaskEvent] = []
    async with stage.engine() as engine:

        def look(event: TaskEvent) -> None:
            journal = stage.journal.journals[event.task.uid].events
            if not journal or journal[-1] != event:
                missing.append(event)

        engine.signals.any_event.connect(look)
        task, _ = await run_true(stage, engine)
    assert not missing
    calls = stage.journal.journals[task.uid].calls
    assert calls[-3:] == ["finish", "append", "close"]


# -- output stores -------------------------------------------------------------------------------


class BadStore:
    """Fails to open."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action

    def open(self, *, separate_stderr: bool) -> LogFiles:
        found: LogFiles = self._action()
        return found


@pytest.mark.parametrize("fault", FAULTS)
async def test_store_that_raises(stage: Stage, fault: str) -> None:
    """Without the store the bytes are in an unnamed file, and the outcome says so."""
    store = BadStore(raising(fault))
    plugin = hook("ebt_output_log", lambda: store)
    async with stage.engine(plugins={"bad": plugin}) as engine:
        task, outcome = await run_true(stage, engine)
        assert task.output.text() == "hello\n"
    assert outcome.reason is Reason.EXITED
    assert is_told(outcome.persist_error)
    stage.check(task)


@pytest.mark.parametrize("answer", [None, 5, "text", LogFiles(stdout=-1)])
async def test_store_that_answers_rubbish(stage: Stage, answer: Any) -> None:
    """A store that opens nothing usable costs the task nothing but its place on disk."""
    plugin = hook("ebt_output_log", lambda: BadStore(lambda: answer))
    async with stage.engine(plugins={"bad": plugin}) as engine:
        task, outcome = await run_true(stage, engine)
        assert task.output.text() == "hello\n"
    assert outcome.reason is Reason.EXITED
    assert outcome.persist_error is not None
    stage.check(task)


async def test_store_that_hangs(stage: Stage, hang: Callable[[], None]) -> None:
    """A store that hangs, as on a dead network disk, costs its deadline and is reported."""
    plugin = hook("ebt_output_log", lambda: BadStore(hang))
    async with stage.engine(plugins={"bad": plugin}, hook_deadline=0.2) as engine:
        _, outcome = await run_true(stage, engine)
    assert outcome.reason is Reason.EXITED
    assert outcome.persist_error is not None


async def test_store_that_opens_too_late(stage: Stage) -> None:
    """Files that a store opens after its deadline are closed: no descriptor is left."""
    release = threading.Event()

    def late() -> LogFiles:
        release.wait(60)
        return LogFiles(stdout=os.open(stage.directory / "late", os.O_CREAT | os.O_RDWR))

    plugin = hook("ebt_output_log", lambda: BadStore(late))
    async with stage.engine(plugins={"bad": plugin}, hook_deadline=0.2) as engine:
        _, outcome = await run_true(stage, engine)
        release.set()
    assert outcome.persist_error is not None


# -- hooks of the engine ------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["ebt_engine_started", "ebt_engine_stopping"])
async def test_engine_hook_that_raises(stage: Stage, name: str, fault: str) -> None:
    """A plugin that fails when an engine starts or stops is named; engine and others go on."""
    called: list[str] = []

    class Good:
        @hookimpl
        def ebt_engine_started(self, engine: TaskEngine) -> None:
            called.append("started")

        @hookimpl
        def ebt_engine_stopping(self, engine: TaskEngine) -> None:
            called.append("stopping")

    plugins = {"good": Good(), "bad": hook(name, raising(fault))}
    async with stage.engine(plugins=plugins) as engine:
        _, outcome = await run_true(stage, engine)
    assert outcome.reason is Reason.EXITED
    assert called == ["started", "stopping"]
    assert failures(stage, name)


@pytest.mark.parametrize("fault", ["exception", "exit"])
async def test_description_that_raises(stage: Stage, fault: str) -> None:
    """A plugin that cannot say an event leaves that to the next one."""
    plugin = hook("ebt_describe", raising(fault))
    async with stage.engine(plugins={"bad": plugin}) as engine:
        await run_true(stage, engine)
        (end, *_) = stage.recorder.of(TaskEnded)
        assert engine.describe(end) == "t is done"


@pytest.mark.parametrize("fault", FAULTS)
async def test_given_plugin_that_is_broken(stage: Stage, fault: str) -> None:
    """A plugin object that was given and is broken is an error at the start; nothing is left."""

    class Broken:
        @hookimpl
        def ebt_register_agents(self, register: Callable[[str, str], None]) -> None:
            error = FAULTS[fault]()
            raise error

    with pytest.raises(PluginError, match=r"says no|StopIteration"):
        async with stage.engine(plugins={"broken": Broken()}):
            pytest.fail("the engine has started")


async def test_interpreter_of_a_generator(stage: Stage) -> None:
    """Events that a generator yielded before it raised are kept."""
    from eventbus_tasks import AgentActivity, AgentMessage, ProcessExit, Verdict

    class Halfway:
        def interpret(self, line: bytes, stream: str) -> Iterable[AgentActivity]:
            yield AgentMessage(text="first")
            raise RuntimeError("plugin says no")

        def verdict(self, exit: ProcessExit) -> Verdict | None:
            return None

    command = Command(argv=("echo", "line"), interpreter=Halfway())
    async with stage.engine(plugins={"mine": OnlyBuilder(lambda: command)}) as engine:
        task = await engine.spawn_task("t", "prompt", stage.project, agent="mine")
        outcome = await task.wait()
    assert outcome.reason is Reason.EXITED
    assert [event.text for event in stage.recorder.of(AgentMessage)] == ["first"]
    assert stage.recorder.of(HandlerFailed)
    stage.check(task)


@pytest.mark.parametrize(
    "given",
    [{"reason": []}, {"reason": "exited"}, {"message": None}, {"result": 5}],
    ids=["unhashable", "text", "message", "result"],
)
async def test_verdict_of_which_no_outcome_can_be_made(stage: Stage, given: Any) -> None:
    """A verdict with something else in it than it may have fails its task, and not the engine."""
    from eventbus_tasks import Verdict

    class Judge:
        def interpret(self, line: bytes, stream: str) -> Iterable[Any]:
            return ()

        def verdict(self, exit: object) -> Verdict | None:
            return Verdict(**{"reason": Reason.EXITED, **given})

    command = Command(argv=("true",), interpreter=Judge())
    async with stage.engine(plugins={"mine": OnlyBuilder(lambda: command)}) as engine:
        task = await engine.spawn_task("t", "prompt", stage.project, agent="mine")
        outcome = await task.wait()
    assert outcome.reason is Reason.PLUGIN_ERROR
    assert next(iter(given)) in outcome.message
    stage.check(task)

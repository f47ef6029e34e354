"""What goes wrong while the end of a task is told ends no other task, and not the engine."""

from __future__ import annotations

import pkgutil
from typing import Any

import pytest

from eventbus_tasks import Reason, Task, TaskEngine, TaskEvent

from .conftest import Stage, check_story, until
from .test_faulty_plugins import BadJournal, hook, is_told, raising, run_true

pytestmark = pytest.mark.anyio


class Speechless(Exception):
    """An error that fails when it is to be said."""

    def __str__(self) -> str:
        raise RuntimeError("plugin says no")


class TurningJournal(BadJournal):
    """Has lost a method when the terminal event is written, after it was seen to have it."""

    def __init__(self, lost: str) -> None:
        super().__init__("none", lambda: None)
        self._lost = lost

    def __getattribute__(self, name: str) -> Any:
        state = super().__getattribute__("__dict__")
        if name == state.get("_lost") and "append" in state["calls"]:
            raise RuntimeError("plugin says no")
        return super().__getattribute__(name)


async def start_other(stage: Stage, engine: TaskEngine) -> Task:
    """Start a task that nothing of all this concerns."""
    return await engine.spawn_task(
        "other", argv=["sleep", "1000"], project_dir=stage.new_project("other")
    )


@pytest.mark.parametrize("lost", ["finish", "sync"])
async def test_journal_that_turns_bad(stage: Stage, lost: str) -> None:
    """A journal that has lost a method at the end does not end other tasks, nor keep it untold."""
    plugin = hook("ebt_open_journal", lambda: TurningJournal(lost))
    async with stage.engine(plugins={"bad": plugin}) as engine:
        other = await start_other(stage, engine)
        task, outcome = await run_true(stage, engine)
        assert other.is_running
    assert outcome.reason is Reason.EXITED
    # From Python 3.12 on, `isinstance` looks for a method without asking for it.
    assert is_told(outcome.persist_error) or lost == "sync"
    check_story(stage.recorder.of(TaskEvent, task), task)


@pytest.mark.parametrize("method", ["append", "finish"])
async def test_error_that_cannot_be_said(stage: Stage, method: str) -> None:
    """An error of a journal that fails even to be said is told by its type; other tasks go on."""

    def fail() -> None:
        raise Speechless

    plugin = hook("ebt_open_journal", lambda: BadJournal(method, fail))
    async with stage.engine(plugins={"bad": plugin}) as engine:
        other = await start_other(stage, engine)
        task, outcome = await run_true(stage, engine)
        assert other.is_running
    assert outcome.reason is Reason.EXITED
    assert outcome.persist_error is not None
    assert "Speechless" in outcome.persist_error
    check_story(stage.recorder.of(TaskEvent, task), task)


@pytest.mark.parametrize("broken", ["judge", "close_quietly"])
async def test_error_of_ours_at_the_end(
    stage: Stage, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the engine's own code ends the task in which it is, once, and no other."""
    plugin = hook("ebt_open_journal", lambda: BadJournal("none", lambda: None))
    async with stage.engine(plugins={"good": plugin}) as engine:
        other = await start_other(stage, engine)
        with monkeypatch.context() as patch:
            patch.setattr(f"eventbus_tasks._runner.{broken}", raising("exception"))
            task = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
            outcome = await task.wait()
        assert other.is_running
        next_task = await engine.spawn_task("n", argv=["true"], project_dir=stage.project)
        assert (await next_task.wait()).reason is Reason.EXITED
    assert outcome.reason is (Reason.PLUGIN_ERROR if broken == "judge" else Reason.EXITED)
    check_story(stage.recorder.of(TaskEvent, task), task)


@pytest.mark.parametrize(
    "broken",
    ["_turns.Admittance.release", "_process.handle.GuardianLink.close"],
)
async def test_error_of_ours_while_a_task_gives_back_what_it_had(
    stage: Stage, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error after a task has let go of something ends no other task, and changes no outcome."""
    path, _, name = f"eventbus_tasks.{broken}".rpartition(".")
    owner = pkgutil.resolve_name(path)
    real = getattr(owner, name)

    def fail(*arguments: Any) -> None:
        real(*arguments)
        raise RuntimeError("broken")

    async with stage.engine() as engine:
        other = await start_other(stage, engine)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            task = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
            outcome = await task.wait()
        assert other.is_running
        next_task = await engine.spawn_task("n", argv=["true"], project_dir=stage.project)
        assert (await next_task.wait()).reason is Reason.EXITED
    assert outcome.reason is Reason.EXITED
    check_story(stage.recorder.of(TaskEvent, task), task)


async def test_error_of_ours_while_a_task_is_given_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that the engine has lost track of, and cannot even stop, ends no other task."""
    async with stage.engine() as engine:
        other = await start_other(stage, engine)
        await until(lambda: other.pid is not None)
        with monkeypatch.context() as patch:
            for name in ("OutputFollower.follow", "_process.handle.GuardianLink.stop"):
                module = "_following." if name.startswith("Output") else ""
                patch.setattr(f"eventbus_tasks.{module}{name}", raising("exception"))
            task = await engine.spawn_task("t", argv=["sleep", "600"], project_dir=stage.project)
            outcome = await task.wait()
        assert other.is_running
    assert outcome.reason is Reason.PLUGIN_ERROR
    check_story(stage.recorder.of(TaskEvent, task), task)

"""What an engine accepts, refuses, finds and forgets; and several engines at once."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventbus_tasks import (
    EngineClosedError,
    InvalidRequestError,
    OutputUnavailableError,
    ProjectBusyError,
    Reason,
    Settings,
    Task,
    TaskActiveError,
    TaskEngine,
    TaskNotFoundError,
    TaskStatus,
    UnknownAgentError,
)

from .conftest import GUARD, QUICK, Stage, until

pytestmark = pytest.mark.anyio


# -- accepting and refusing ------------------------------------------------------------------------


async def test_spawn_returns_at_once(stage: Stage) -> None:
    """A task is PENDING when it is returned; its fields say what was asked for."""
    async with stage.engine() as engine:
        task = await engine.spawn_task(
            "name", "prompt", stage.project, argv=["true"], options={"a": 1}
        )
        assert task.status is TaskStatus.PENDING
        assert task.is_running
        assert (task.id, task.name, task.prompt, task.agent) == (1, "name", "prompt", "command")
        assert task.project_dir == stage.project
        assert task.request.options == {"a": 1}
        assert (task.pid, task.outcome, task.return_code) == (None, None, None)
        assert (task.started_at, task.completed_at) == (None, None)
        assert engine.tasks == (task,)
        assert engine.running_tasks == (task,)
        await task.wait()
        assert not engine.running_tasks
        assert not task.is_running


async def test_project_is_busy_while_pending(stage: Stage) -> None:
    """A second task is refused as soon as the first is accepted; the error names the holder."""
    async with stage.engine() as engine:
        task = await engine.spawn_task(
            "holder", argv=["sleep", "1000"], project_dir=stage.project, policy=QUICK
        )
        assert task.status is TaskStatus.PENDING
        with pytest.raises(ProjectBusyError, match="holder") as caught:
            await engine.spawn_task("second", argv=["true"], project_dir=stage.project)
        assert caught.value.project_dir == str(stage.project)
        assert caught.value.holder["task"] == task.id
        assert caught.value.holder["uid"] == task.uid
        assert engine.tasks == (task,)
        await task.cancel()
        next_task = await engine.spawn_task("next", argv=["true"], project_dir=stage.project)
        await next_task.wait()
    # A refusal leaves no trace.
    assert {event.task.uid for event in stage.recorder.events} == {task.uid, next_task.uid}


async def test_project_is_one_under_every_name(stage: Stage, monkeypatch: Any) -> None:
    """A symbolic link, a detour and a relative path are the same project."""
    link = stage.directory / "link"
    link.symlink_to(stage.project)
    monkeypatch.chdir(stage.directory)
    names = [link, stage.project / ".." / "project", Path("project"), Path("./link/.")]
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        for name in names:
            with pytest.raises(ProjectBusyError):
                await engine.spawn_task("second", argv=["true"], project_dir=name)
        puppet.exit()
        await task.wait()
        for name in names:
            await (await engine.spawn_task("n", argv=["true"], project_dir=name)).wait()


async def test_spawns_at_once_in_one_project(stage: Stage) -> None:
    """Of many who ask at the same time for one project exactly one gets it."""
    got: list[Task] = []
    refused: list[ProjectBusyError] = []
    async with stage.engine() as engine:
        async with anyio.create_task_group() as group:

            async def spawn() -> None:
                try:
                    got.append(
                        await engine.spawn_task(
                            "t", argv=["sleep", "1000"], project_dir=stage.project, policy=QUICK
                        )
                    )
                except ProjectBusyError as error:
                    refused.append(error)

            for _ in range(8):
                group.start_soon(spawn)
        assert (len(got), len(refused)) == (1, 7)
    stage.check(got[0])


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"argv": []}, "argv"),
    ({"name": " "}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"argv": ["true", "a\0b"]}, "argv[1]"),
    ({"argv": [""]}, "argv[0]"),
    ({"argv": ["x" * (128 * 1024)]}, "argv[0]"),
    ({"env": {"A": "x" * (128 * 1024)}}, "env['A']"),
    ({"env": {"A=B": "x"}}, "env['A=B']"),
    ({"env": {"": "x"}}, "env['']"),
    ({"env": {"A": 5}}, "env['A']"),
    ({"prompt": "a\0b"}, "prompt"),
    ({"timeout": -1}, "timeout"),
    ({"timeout": float("nan")}, "timeout"),
    ({"timeout": float("inf")}, "timeout"),
    ({"timeout": "5"}, "timeout"),
    ({"stdin": "text"}, "stdin"),
    ({"project_dir": "/no/such/directory"}, "project_dir"),
    ({"project_dir": __file__}, "project_dir"),
]


async def test_invalid_request(stage: Stage) -> None:
    """What cannot be carried out is refused by field before anything happens."""
    given = {"name": "n", "argv": ["true"], "project_dir": stage.project, "agent": "command"}
    async with stage.engine() as engine:
        for options, field in INVALID:
            with pytest.raises(InvalidRequestError) as caught:
                await engine.spawn_task(**{**given, **options})
            assert caught.value.field.startswith(field), options
            assert engine.tasks == ()
        await (await engine.spawn_task("n", argv=["true"], project_dir=stage.project)).wait()
    assert len({event.task.uid for event in stage.recorder.events}) == 1


async def test_unknown_agent(stage: Stage) -> None:
    """An agent that nobody drives is refused, with those that are known."""
    async with stage.engine() as engine:
        with pytest.raises(UnknownAgentError) as caught:
            await engine.spawn_task("n", "p", stage.project, agent="nobody")
        assert (caught.value.agent, caught.value.known) == ("nobody", ("command",))
        assert engine.tasks == ()


async def test_closed_engine_refuses(stage: Stage) -> None:
    """An engine accepts nothing before it is entered and after it has closed, and opens once."""
    engine = stage.engine()
    with pytest.raises(EngineClosedError):
        await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
    async with engine:
        task = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        await task.wait()
    with pytest.raises(EngineClosedError):
        await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
    with pytest.raises(EngineClosedError):
        await engine.__aenter__()
    # What it knows stays known.
    assert engine.tasks == (task,)
    assert engine.get_task(1) is task
    assert task.output.text() == ""


async def test_closing_engine_refuses(stage: Stage) -> None:
    """While an engine closes it accepts nothing any more."""
    errors: list[Exception] = []
    async with stage.engine() as engine:

        async def spawn(event: object) -> None:
            try:
                await engine.spawn_task("late", argv=["true"], project_dir=stage.project)
            except EngineClosedError as error:
                errors.append(error)

        engine.signals.task_cancelled.connect(spawn)
        await stage.start(engine)
    assert len(errors) == 1


# -- looking up and removing ------------------------------------------------------------


async def test_find_and_get(stage: Stage) -> None:
    """Tasks are found by number, reference and part of the name; exact names come first."""
    async with stage.engine() as engine:
        tasks = []
        for name in ("Auth tests", "auth", "Docs"):
            task = await engine.spawn_task(name, argv=["true"], project_dir=stage.project)
            await task.wait()
            tasks.append(task)
        assert engine.find_tasks("AUTH") == (tasks[1], tasks[0])
        assert engine.find_tasks("docs") == (tasks[2],)
        assert engine.find_tasks("nothing") == ()
        assert engine.get_task(2) is engine.get_task(tasks[1].ref) is tasks[1]
        with pytest.raises(TaskNotFoundError):
            engine.get_task(4)
        with pytest.raises(TaskNotFoundError):
            await engine.cancel_task(4)


async def test_remove_task(stage: Stage) -> None:
    """A running task cannot be removed; an ended one can, once, and its number is not reused."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        with pytest.raises(TaskActiveError) as caught:
            engine.remove_task(task.id)
        assert (caught.value.task_id, caught.value.status) == (1, TaskStatus.RUNNING)
        puppet.say("x" * 100_000)
        puppet.exit()
        outcome = await task.wait()
        assert engine.remove_task(task.ref) is outcome
        with pytest.raises(TaskNotFoundError):
            engine.remove_task(task.id)
        assert engine.tasks == ()
        assert task.outcome is outcome
        with pytest.raises(OutputUnavailableError):
            task.output.text()
        other = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        assert other.id == 2
        with pytest.raises(TaskNotFoundError):
            engine.get_task(task.ref)


async def test_removed_task_is_forgotten(stage: Stage) -> None:
    """Nothing holds on to a removed task."""
    async with TaskEngine(Settings.load(), load_installed=False) as engine:

        async def receive(event: object) -> None:
            pass

        engine.signals.any_event.connect(receive)
        engine.signals.output_line.connect(receive)
        task = await engine.spawn_task("t", argv=["echo", "x"], project_dir=stage.project)
        await task.wait()
        engine.remove_task(task.id)
        watcher = weakref.ref(task)
        del task
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        gc.collect()
        assert watcher() is None


async def test_collecting_garbage_ends_no_task(stage: Stage) -> None:
    """A task that nobody holds goes on, and its events come."""
    async with stage.engine() as engine:
        puppet = stage.puppet()
        await engine.spawn_task("t", argv=puppet.argv, project_dir=stage.project)
        await puppet.connected()
        gc.collect()
        puppet.say("still here")
        puppet.exit()
        from eventbus_tasks import TaskCompleted

        await stage.recorder.until(TaskCompleted)


# -- several engines -----------------------------------------------------------------------------


async def test_two_engines(stage: Stage) -> None:
    """Two engines of one process share projects, and nothing else."""
    other_stage = Stage(stage.new_project("elsewhere"))
    async with stage.engine() as one, other_stage.engine() as two:
        task, puppet = await stage.start(one)
        other = await two.spawn_task("t", argv=["true"], project_dir=other_stage.project)
        await other.wait()
        with pytest.raises(ProjectBusyError):
            await two.spawn_task("t", argv=["true"], project_dir=stage.project)
        assert task.id == other.id == 1
        assert task.uid != other.uid
        with pytest.raises(TaskNotFoundError):
            two.get_task(task.ref)
        puppet.exit()
        await task.wait()
        again = await two.spawn_task("t", argv=["true"], project_dir=stage.project)
        await again.wait()
    assert {event.task.uid for event in stage.recorder.events} == {task.uid}
    assert {event.task.uid for event in other_stage.recorder.events} == {other.uid, again.uid}
    other_stage.close()


async def test_inner_engine_closes_first(stage: Stage) -> None:
    """An engine that closes ends its own tasks only."""
    async with stage.engine() as one:
        task, puppet = await stage.start(one)
        async with TaskEngine(Settings.load(), load_installed=False) as two:
            other = await two.spawn_task(
                "t", argv=["sleep", "1000"], project_dir=stage.new_project("other")
            )
        assert other.outcome is not None
        assert other.outcome.reason is Reason.ENGINE_CLOSED
        assert task.is_running
        puppet.exit()
        assert (await task.wait()).reason is Reason.EXITED


async def test_engine_in_a_thread(stage: Stage, anyio_backend: Any) -> None:
    """An engine runs on a loop in any thread; its tasks outlive other threads and end with it."""
    name, options = anyio_backend
    found: list[Reason] = []

    async def host() -> None:
        async with TaskEngine(Settings.load(), load_installed=False) as engine:
            task = await engine.spawn_task("t", argv=["echo", "hi"], project_dir=stage.project)
            found.append((await task.wait()).reason)
            await engine.spawn_task("t", argv=["sleep", "1000"], project_dir=stage.project)

    def run() -> None:
        anyio.run(host, backend=name, backend_options=options)

    thread = threading.Thread(target=run)
    thread.start()
    with anyio.fail_after(GUARD):
        await anyio.to_thread.run_sync(thread.join)
    assert found == [Reason.EXITED]


async def test_many_tasks_at_once(stage: Stage) -> None:
    """Twenty tasks side by side each keep their own output and end, whoever is cancelled."""
    async with stage.engine() as engine:
        tasks = []
        for number in range(20):
            project = stage.new_project(f"p{number}")
            script = f"echo {number}; " + ("sleep 1000" if number % 2 else "exit 0")
            tasks.append(
                await engine.spawn_task(
                    f"t{number}", argv=["sh", "-c", script], project_dir=project, policy=QUICK
                )
            )
        for task in tasks[1::2]:
            await until(task.output.size)
            task.cancel_nowait()
        outcomes = [await task.wait() for task in tasks]
        assert [task.output.text() for task in tasks] == [f"{n}\n" for n in range(20)]
    reasons = [outcome.reason for outcome in outcomes]
    assert reasons == [Reason.EXITED, Reason.CANCELLED] * 10
    for task in tasks:
        stage.check(task)


async def test_leftovers_that_a_policy_keeps(stage: Stage) -> None:
    """With `after_exit="leave"` survivors are named, and the project stays taken by them."""
    policy = QUICK.with_changes(after_exit="leave")
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine, policy=policy)
        child = puppet.spawn(session=True, hold_output=False)
        puppet.exit(0)
        outcome = await task.wait()
        assert outcome.reason is Reason.EXITED
        assert [found.pid for found in outcome.survivors] == [child.pid]
        assert outcome.survivors[0].start_time == child.start_time
        with pytest.raises(ProjectBusyError):
            await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        assert child.is_alive
        child.kill(signal.SIGKILL)
        with anyio.fail_after(GUARD):
            while True:
                try:
                    again = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
                except ProjectBusyError:
                    await anyio.sleep(0.005)
                    continue
                await again.wait()
                break
    stage.check(task)


async def test_warden_is_replaced(stage: Stage) -> None:
    """When the warden is killed running tasks go on, and the next one gets a new warden."""
    other = stage.new_project("other")
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        guardian = puppet.identity.parent
        assert guardian is not None
        from eventbus_tasks.testing import Identity

        warden = Identity.of(guardian).parent
        assert warden is not None
        Identity.of(warden).kill()
        with anyio.fail_after(GUARD):
            while True:
                again = await engine.spawn_task("t", argv=["echo", "x"], project_dir=other)
                if (await again.wait()).reason is Reason.EXITED:
                    break
        puppet.say("still here\n")
        puppet.exit(5)
        outcome = await task.wait()
        assert (outcome.reason, outcome.return_code) == (Reason.EXIT_CODE, 5)
        assert task.output.text() == "still here\n"
    stage.check(task)


async def test_many_missing_programs(stage: Stage) -> None:
    """However quickly it fails, a program that does not exist is never taken for one that ran."""
    outcomes = []
    async with stage.engine() as engine, anyio.create_task_group() as group:

        async def fail_often(number: int) -> None:
            project = stage.new_project(f"p{number}")
            for _ in range(25):
                task = await engine.spawn_task("t", argv=["./none"], project_dir=project)
                outcomes.append(await task.wait())

        for number in range(8):
            group.start_soon(fail_often, number)
    assert len(outcomes) == 200
    assert {outcome.reason for outcome in outcomes} == {Reason.SPAWN_FAILED}


async def test_many_quick_programs(stage: Stage) -> None:
    """However quickly a program ends, it has started before, and all of its output is there."""
    async with stage.engine() as engine, anyio.create_task_group() as group:

        async def run_often(number: int) -> None:
            project = stage.new_project(f"p{number}")
            for _ in range(15):
                task = await engine.spawn_task("t", argv=["echo", "x"], project_dir=project)
                assert (await task.wait()).reason is Reason.EXITED
                assert task.output.text() == "x\n"

        for number in range(8):
            group.start_soon(run_often, number)
    for task in engine.tasks:
        stage.check(task)
        assert [name for name in stage.recorder.names(task) if name != "handler.failed"] == [
            "task.accepted",
            "task.started",
            "output.received",
            "task.completed",
        ]

"""Each event of the design, received through its own signal from a real run."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from datetime import UTC, datetime

import anyio
import pytest

from eventbus_tasks import (
    Command,
    HandlerFailed,
    Outcome,
    OutputDropped,
    OutputLine,
    OutputReceived,
    Reason,
    SignalSent,
    Step,
    Task,
    TaskAccepted,
    TaskCancelled,
    TaskCompleted,
    TaskEnded,
    TaskEvent,
    TaskFailed,
    TaskRemoved,
    TaskStarted,
    TaskStatus,
    TaskStopping,
    TerminationPolicy,
    event_from_dict,
    hookimpl,
)
from eventbus_tasks.testing import Puppet, PuppetGoneError

from .conftest import QUICK, Recorder, Stage

pytestmark = pytest.mark.anyio


async def test_accepted(stage: Stage) -> None:
    """`TaskAccepted` is the first event and carries the request, which hides its variables."""
    async with stage.engine() as engine:
        got = Recorder()
        engine.signals.task_accepted.connect(got)
        task = await engine.spawn_task(
            "name", argv=["true"], project_dir=stage.project, env={"SECRET": "s3cret"}, timeout=20
        )
        await task.wait()
    (event,) = got.of(TaskAccepted)
    assert event.request == task.request
    assert (event.request.name, event.request.timeout) == ("name", 20)
    assert (event.task, event.seq, event.name) == (task.ref, 1, "task.accepted")
    assert event.at.tzinfo is UTC
    assert "s3cret" not in json.dumps(event.to_dict())
    assert event_from_dict(event.to_dict()) == event
    stage.check(task)


async def test_started(stage: Stage) -> None:
    """`TaskStarted` carries the number of the program that runs, and its arguments."""
    async with stage.engine() as engine:
        got = Recorder()
        engine.signals.task_started.connect(got)
        task, puppet = await stage.start(engine)
        (event,) = got.of(TaskStarted)
        assert event.pid == puppet.identity.pid == task.pid
        assert event.argv == puppet.argv
        assert event.at == task.started_at
        assert task.status is TaskStatus.RUNNING
        puppet.exit()
        await task.wait()
    stage.check(task)


async def test_output_received(stage: Stage) -> None:
    """`OutputReceived` says where the bytes are; its data, text and lines are read on demand."""
    async with stage.engine() as engine:
        got = Recorder()
        engine.signals.output_received.connect(got)
        task, puppet = await stage.start(engine)
        puppet.say("one\ntw")
        first = await stage.recorder.until(OutputReceived, task)
        assert (first.stream, first.start, first.end, first.line_start) == ("stdout", 0, 6, 0)
        assert (first.data, first.text, first.lines) == (b"one\ntw", "one\ntw", ("one",))
        puppet.say("o\n")
        second = await stage.recorder.until(OutputReceived, task, count=2)
        assert (second.start, second.end, second.line_start) == (6, 8, 4)
        assert (second.data, second.lines, second.last) == (b"o\n", ("two",), False)
        puppet.say("end")
        puppet.exit()
        await task.wait()
        assert [line for event in got.of(OutputReceived) for line in event.lines] == [
            "one",
            "two",
            "end",
        ]
        assert got.of(OutputReceived)[-1].last
    stage.check(task)


async def test_output_line(stage: Stage) -> None:
    """`OutputLine` comes once for each line, numbered, also for one without a line ending."""
    async with stage.engine() as engine:
        sync, later = Recorder(), Recorder()

        async def receive(event: OutputLine) -> None:
            later(event)

        engine.signals.output_line.connect(sync)
        engine.signals.output_line.connect(receive)
        task, puppet = await stage.start(engine)
        puppet.say("one\r\n\ntwo\xe4\n".encode() + b"\xff\n")
        await stage.recorder.until(OutputReceived, task)
        puppet.say("end")
        puppet.exit()
        await task.wait()
    wanted = [(1, "one"), (2, ""), (3, "two\xe4"), (4, "\ufffd"), (5, "end")]
    for got in (sync, later):
        lines = got.of(OutputLine)
        assert [(line.number, line.text) for line in lines] == wanted
        assert {(line.stream, line.truncated, line.task) for line in lines} == {
            ("stdout", False, task.ref)
        }
    stage.check(task)


async def test_separate_streams(stage: Stage) -> None:
    """Streams that are kept apart have offsets and line numbers of their own."""

    class Builder:
        @hookimpl
        def ebt_build_command(self, task: Task) -> Command:
            return Command(argv=task.request.argv, stderr="separate")

    async with stage.engine(plugins={"builder": Builder()}) as engine:
        got = Recorder()
        engine.signals.output_line.connect(got)
        task, puppet = await stage.start(engine)
        puppet.say("out 1\nout 2\n")
        puppet.say("err 1\n", stream="stderr")
        puppet.exit()
        outcome = await task.wait()
        assert task.output.streams == ("stdout", "stderr")
        assert task.output.text() == "out 1\nout 2\n"
        assert task.output.text("stderr") == "err 1\n"
    assert outcome.output_bytes == {"stdout": 12, "stderr": 6}
    lines = sorted((line.stream, line.number, line.text) for line in got.of(OutputLine))
    assert lines == [("stderr", 1, "err 1"), ("stdout", 1, "out 1"), ("stdout", 2, "out 2")]
    stage.check(task)


async def test_output_dropped(stage: Stage) -> None:
    """`OutputDropped` names the bytes that a limit has cost, and the outcome counts them."""
    policy = QUICK.with_changes(max_output=64 * 1024, keep="tail")
    async with stage.engine() as engine:
        got = Recorder()
        engine.signals.output_dropped.connect(got)
        task, puppet = await stage.start(engine, policy=policy)
        puppet.say("0123456789abcde\n", times=64 * 1024)
        puppet.exit()
        outcome = await task.wait()
        tail = task.output.tail(2)
    events = got.of(OutputDropped)
    assert events
    assert {(event.stream, event.why) for event in events} == {("stdout", "retention")}
    assert all(event.start < event.end for event in events)
    assert sum(event.end - event.start for event in events) == outcome.lost_bytes["stdout"]
    assert outcome.output_bytes == {"stdout": 1024 * 1024}
    assert outcome.reason is Reason.EXITED
    assert tail == ["0123456789abcde"] * 2


async def test_stopping_and_signals(stage: Stage) -> None:
    """`TaskStopping` carries reason and policy, `SignalSent` each rung and whom it has reached."""
    policy = TerminationPolicy(
        steps=(
            Step(signal=signal.SIGINT, scope="leader", grace=0.05),
            Step(signal=signal.SIGTERM, scope="tree", grace=0.05),
        )
    )
    async with stage.engine() as engine:
        stopping, sent = Recorder(), Recorder()
        engine.signals.task_stopping.connect(stopping)
        engine.signals.signal_sent.connect(sent)
        task, puppet = await stage.start(engine, policy=policy)
        puppet.ignore(signal.SIGINT, signal.SIGTERM)
        child = puppet.spawn(session=True)
        assert await task.cancel()
        assert not puppet.living()
    (event,) = stopping.of(TaskStopping)
    assert (event.reason, event.policy) == ("cancelled", policy)
    assert event_from_dict(event.to_dict()) == event
    leader, both = {puppet.identity.pid}, {puppet.identity.pid, child.pid}
    rungs = [(rung.signal, set(rung.pids)) for rung in sent.of(SignalSent)]
    assert rungs[:2] == [(signal.SIGINT, leader), (signal.SIGTERM, both)]
    # SIGKILL reaches whoever is there; who is first may take others with it.
    assert {number for number, _ in rungs[2:]} == {signal.SIGKILL}
    assert puppet.identity.pid in set().union(*(pids for _, pids in rungs[2:]))
    stage.check(task)


async def test_completed(stage: Stage) -> None:
    """A task that exits with 0 has `TaskCompleted`, and that alone."""
    async with stage.engine() as engine:
        got = Recorder()
        engine.signals.task_completed.connect(got)
        task, puppet = await stage.start(engine)
        puppet.say("x")
        puppet.exit(0)
        outcome = await task.wait()
    (event,) = got.events
    assert isinstance(event, TaskCompleted)
    assert event.outcome == outcome == task.outcome
    assert outcome == Outcome(
        reason=Reason.EXITED, return_code=0, output_bytes={"stdout": 1}, lost_bytes={}
    )
    assert event.at == task.completed_at
    stage.check(task)


async def test_failed_by_exit_code(stage: Stage) -> None:
    """Another exit status is `TaskFailed`, with the status."""
    async with stage.engine() as engine:
        got = Recorder()
        engine.signals.task_failed.connect(got)
        task, puppet = await stage.start(engine)
        puppet.exit(7)
        outcome = await task.wait()
    (event,) = got.events
    assert isinstance(event, TaskFailed)
    assert (outcome.reason, outcome.return_code, task.return_code) == (Reason.EXIT_CODE, 7, 7)
    assert "7" in outcome.message
    stage.check(task)


async def test_failed_by_signal(stage: Stage) -> None:
    """A program that a signal ends from outside has failed with its negative number."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        os.kill(puppet.identity.pid, signal.SIGKILL)
        outcome = await task.wait()
    assert (outcome.reason, outcome.return_code) == (Reason.SIGNALLED, -signal.SIGKILL)
    assert "SIGKILL" in outcome.message
    stage.check(task)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["no-such-program"], "no-such-program"),
        (["./no-such-program"], "no-such-program"),
        (["/"], "/"),
    ],
)
async def test_failed_to_spawn(stage: Stage, argv: list[str], said: str) -> None:
    """A missing program is the outcome of an accepted task, names it, and frees the project."""
    async with stage.engine() as engine:
        task = await engine.spawn_task("missing", argv=argv, project_dir=stage.project)
        outcome = await task.wait()
        assert (outcome.reason, outcome.return_code) == (Reason.SPAWN_FAILED, None)
        assert said in outcome.message
        assert stage.recorder.names(task) == ["task.accepted", "task.failed"]
        await (await engine.spawn_task("next", argv=["true"], project_dir=stage.project)).wait()
    stage.check(task)


async def test_timed_out(stage: Stage) -> None:
    """A task that runs longer than its timeout is stopped and has failed for that reason."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine, timeout=0.3)
        outcome = await task.wait()
        assert outcome.reason is Reason.TIMED_OUT
        (event,) = stage.recorder.of(TaskStopping, task)
        assert event.reason == "timed_out"
        assert not puppet.living()
    stage.check(task)


async def test_idle(stage: Stage) -> None:
    """A task that writes nothing for its idle timeout has failed for that reason."""
    async with stage.engine() as engine:
        policy = QUICK.with_changes(idle_timeout=0.3)
        # Not a puppet, which on a busy machine would be ended before it has said that it is there.
        task = await engine.spawn_task("t", "", stage.project, argv=["sleep", "99"], policy=policy)
        assert (await task.wait()).reason is Reason.IDLE
    stage.check(task)


async def test_output_limit(stage: Stage) -> None:
    """A task that writes more than its limit has failed for that reason."""
    async with stage.engine() as engine:
        policy = QUICK.with_changes(max_output=1000)
        task, puppet = await stage.start(engine, policy=policy)
        with contextlib.suppress(PuppetGoneError):  # it may be ended before it can answer
            puppet.say("x" * 1001)
        assert (await task.wait()).reason is Reason.OUTPUT_LIMIT
    stage.check(task)


async def test_cancelled(stage: Stage) -> None:
    """A cancelled task has `TaskCancelled`, and `TaskStopping` before it."""
    async with stage.engine() as engine:
        got = Recorder()
        engine.signals.task_cancelled.connect(got)
        task, puppet = await stage.start(engine)
        child = puppet.spawn(daemon=True, wipe_environment=True)
        assert await task.cancel()
        assert not child.is_alive
        assert not puppet.living()
    (event,) = got.events
    assert isinstance(event, TaskCancelled)
    assert event.outcome.reason is Reason.CANCELLED
    assert stage.recorder.names(task) == [
        "task.accepted",
        "task.started",
        "task.stopping",
        "task.signal_sent",
        "task.cancelled",
    ]
    stage.check(task)


async def test_guardian_lost(stage: Stage) -> None:
    """When its guardian is killed the family is ended, the task has failed, the project is free."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        puppet.say("before\n")
        await stage.recorder.until(OutputReceived, task)
        puppet.spawn(daemon=True, wipe_environment=True, ignore=[signal.SIGTERM])
        guardian = puppet.identity.parent
        assert guardian is not None
        os.kill(guardian, signal.SIGKILL)
        outcome = await task.wait()
        assert outcome.reason is Reason.GUARDIAN_LOST
        assert not puppet.living()
        assert task.output.text() == "before\n"
        await (await engine.spawn_task("next", argv=["true"], project_dir=stage.project)).wait()
    stage.check(task)


async def test_removed(stage: Stage) -> None:
    """`TaskRemoved` follows a removal, is not journaled, and the task is gone from the engine."""
    async with stage.engine() as engine:
        got = Recorder()
        engine.signals.task_removed.connect(got)
        task = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        outcome = await task.wait()
        last = stage.recorder.of(TaskEnded, task)[0].seq
        assert engine.remove_task(task.id) == outcome
        assert engine.tasks == ()
    (event,) = got.events
    assert isinstance(event, TaskRemoved)
    assert (event.task, event.seq) == (task.ref, last)
    assert "task.removed" not in [item.name for item in stage.journal.of(task)]


async def test_handler_failed(stage: Stage) -> None:
    """`HandlerFailed` names the receiver, the exception and the task; it is not journaled."""
    async with stage.engine() as engine:
        got = Recorder()

        def broken(event: TaskEvent) -> None:
            raise ZeroDivisionError("oh")

        engine.signals.handler_failed.connect(got)
        engine.signals.task_started.connect(broken)
        task, puppet = await stage.start(engine)
        puppet.exit()
        await task.wait()
    (event,) = got.of(HandlerFailed)
    assert event.task == task.ref
    assert "broken" in event.where
    assert event.error == "ZeroDivisionError: oh"
    assert not event.overran
    started = stage.recorder.of(TaskStarted, task)[0]
    assert event.seq == started.seq
    assert "handler.failed" not in [item.name for item in stage.journal.of(task)]
    stage.check(task)


async def test_handler_that_blocks_is_named(stage: Stage) -> None:
    """A receiver that blocks the loop longer than it may is named."""
    async with stage.engine(overrun_after=0.0) as engine:
        got = Recorder()
        engine.signals.task_started.connect(lambda event: sum(range(1000)))
        with engine.signals.handler_failed.connect(got):
            task, puppet = await stage.start(engine)
            puppet.exit()
            await task.wait()
    assert got.of(HandlerFailed)
    assert all(event.overran for event in got.of(HandlerFailed))


async def test_custom_event(stage: Stage) -> None:
    """A signal of an event that a plugin defines is found by class and by wire name."""
    async with stage.engine() as engine:
        assert engine.signals.of("task.started") is engine.signals.task_started
        assert engine.signals.of(TaskStarted) is engine.signals.task_started
        with pytest.raises(KeyError):
            engine.signals.of("no.such.event")


async def test_times_are_in_order(stage: Stage) -> None:
    """A task's times are aware, in UTC, and in the order of its life."""
    async with stage.engine() as engine:
        before = datetime.now(UTC)
        task = await engine.spawn_task("t", argv=["true"], project_dir=stage.project)
        await task.wait()
        after = datetime.now(UTC)
    assert task.started_at is not None
    assert task.completed_at is not None
    times = [before, task.created_at, task.started_at, task.completed_at, after]
    assert times == sorted(times)
    assert all(time.tzinfo is UTC for time in times)


async def test_stdin_of_a_megabyte(stage: Stage) -> None:
    """Standard input of any size arrives whole, and then ends."""
    data = os.urandom(1024 * 1024 + 7)
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine, stdin=data)
        assert puppet.read_stdin(1000) == data[:1000]
        assert puppet.read_stdin() == data[1000:]
        puppet.exit()
        await task.wait()


async def test_no_stdin_is_empty(stage: Stage) -> None:
    """Without standard input a program reads the end of it, and waits for nobody."""
    async with stage.engine() as engine:
        task, puppet = await stage.start(engine)
        assert puppet.read_stdin() == b""
        puppet.exit()
        await task.wait()


async def test_surroundings(stage: Stage) -> None:
    """A program has the project as its directory, its variables, a session, three descriptors."""
    old = os.umask(0o027)
    try:
        async with stage.engine() as engine:
            task, puppet = await stage.start(engine, env={"EXTRA": "w\xe4rd"})
            found = puppet.describe()
            puppet.exit()
            await task.wait()
    finally:
        os.umask(old)
    assert found["cwd"] == str(stage.project)
    assert found["env"]["EXTRA"] == "w\xe4rd"
    assert found["env"]["PATH"] == os.environ["PATH"]
    assert found["env"]["EBT_TASK"] == task.uid
    assert found["session"] == puppet.identity.pid
    assert found["umask"] == 0o027
    # 3 is the puppet's own socket, 4 the directory that it lists.
    assert found["fds"] == [0, 1, 2, 3, 4]


async def test_soft_limit_of_files_is_the_usual_one(stage: Stage) -> None:
    """What the warden raises for itself is not handed on to the program."""
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    async with stage.engine() as engine:
        task = await engine.spawn_task(
            "t", argv=[sys.executable, "-I", "-S", "-c", code], project_dir=stage.project
        )
        await task.wait()
        assert task.output.tail() == [str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]


async def test_five_megabyte_line(stage: Stage) -> None:
    """A line of five megabytes comes whole, and the next line after it."""
    async with stage.engine() as engine:
        got = Recorder()
        engine.signals.output_line.connect(got)
        task, puppet = await stage.start(engine)
        puppet.say("x" * 1024, times=5 * 1024)
        puppet.say("\nnext\n")
        puppet.exit()
        await task.wait()
    first, second = got.of(OutputLine)
    assert (len(first.text), first.number) == (5 * 1024 * 1024, 1)
    assert (second.text, second.number) == ("next", 2)
    stage.check(task)


async def test_puppet_without_an_engine() -> None:
    """A puppet does what it is told, says who it has started, and its book can be closed."""
    with Puppet() as puppet:
        async with await anyio.open_process(puppet.argv, start_new_session=True) as process:
            await puppet.connected()
            puppet.spawn(session=True)
            assert len(puppet.living()) == 2
            puppet.stop()
            assert puppet.identity.is_stopped
            puppet.identity.kill(signal.SIGCONT)
            puppet.exit(4)
            assert await process.wait() == 4
            assert len(puppet.living()) == 1
    puppet.wait_until_gone()

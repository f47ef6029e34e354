"""Hosts, guardians and wardens die, stop or hang, and nothing is left behind, nothing is untrue."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventbus_tasks import (
    Outcome,
    OutputReceived,
    Reason,
    SignalSent,
    Step,
    Task,
    TaskEngine,
    TaskEvent,
    TaskStatus,
    TerminationPolicy,
)

if TYPE_CHECKING:
    from .conftest import Project, Stage

FAMILIES = (
    ("stubborn", "session", "daemon"),
    ("stubborn", "session", "stopped"),
    ("session", "daemon", "forking"),
    ("stubborn", "session", "daemon", "leaver"),
    (),
)
WORST = ("stubborn", "session", "daemon", "stopped")
SHORT = TerminationPolicy(steps=(Step(signal=signal.SIGTERM, grace=0.3),))
PHASES = ("imported", "entered", "accepted", "started", "whole", "whole", "stopping", "again")


def whole_family(project: Project, count: int = 5) -> bool:
    """Whether so many have written themselves into the book, and the leader into its ledger."""
    return len(project.members) >= count and len(project.ledgers) >= 1


# ------------------------------------------------------------------- the host dies by a signal


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_moment(stage: Stage, seed: int) -> None:
    """Whenever a host is killed: its tasks' processes end, then projects are free, helpers gone."""
    chance = random.Random(seed)
    families = chance.sample(FAMILIES, 4)
    phase = PHASES[seed % len(PHASES)]
    delay = chance.uniform(0, 0.6) ** 2
    backend = chance.choice(["asyncio", "trio"])
    print(f"{seed=} {families=} {phase=} {delay=:.4f} {backend=}")
    host = stage.host("churn", families, backend=backend)
    for _ in range(chance.randint(1, 4)):
        host.hear(phase)
        if phase in ("imported", "entered"):
            break  # that comes only once
    time.sleep(delay)  # this is the random moment, not a wait for anything
    print("alive at that moment:", [len(project.alive) for project in stage.projects])
    host.signal(signal.SIGKILL)
    assert host.wait() == -signal.SIGKILL
    stage.assert_all_gone()


@pytest.mark.slow
def test_killed_with_the_default_policy(stage: Stage) -> None:
    """With the default policy and its grace of 5 seconds all is gone in time, too."""
    host = stage.host("rest", [WORST, ("stubborn", "session")], grace=None)
    host.hear("ready")
    until_whole(stage)
    host.signal(signal.SIGKILL)
    host.wait()
    stage.assert_all_gone()


def until_whole(stage: Stage) -> None:
    """Wait until every leader has written a line and everybody is in the book."""
    limit = time.monotonic() + 30
    while not all(whole_family(project, 1) for project in stage.projects):
        assert time.monotonic() < limit, "the families did not come"
        time.sleep(0.01)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGABRT])
def test_other_signals(stage: Stage, number: signal.Signals, backend: str) -> None:
    """A host that ends by any other signal leaves nothing behind either."""
    host = stage.host("rest", [WORST, ("session",)], backend=backend)
    host.hear("ready")
    until_whole(stage)
    host.signal(number)
    assert host.wait() != 0
    stage.assert_all_gone()


# ------------------------------------------------------------------ the host ends from inside


@pytest.mark.parametrize(
    ("plan", "style", "status"),
    [
        ("_exit", "engine", 7),
        ("_exit", "manager", 7),
        ("sys.exit", "engine", 7),
        ("sys.exit", "manager", 7),
        ("raise", "engine", 1),
        ("raise", "manager", 1),
        ("return", "manager", 0),
        ("open loop", "manager", 7),
        ("thread", "manager", 0),
    ],
)
def test_ends_from_inside(stage: Stage, plan: str, style: str, status: int) -> None:
    """However a program ends that has closed nothing, with its own status: nothing is left."""
    host = stage.host(plan, [WORST, ("session",)], style=style)
    host.hear("ready")
    until_whole(stage)
    host.go()
    assert host.wait() == status
    stage.assert_all_gone()


@pytest.mark.parametrize("plan", ["sys.exit", "raise"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_block_is_left_by_an_exception(stage: Stage, plan: str, backend: str) -> None:
    """A program that leaves the engine's block by an exception does not end before its tasks."""
    host = stage.host(plan, [WORST, ("session",)], backend=backend)
    host.hear("ready")
    until_whole(stage)
    host.go()
    assert host.wait() != 0
    assert not [project.alive for project in stage.projects if project.alive]
    assert stage.strangers() == []
    assert all(project.is_free() for project in stage.projects)


def test_copy_of_the_host_does_not_keep_its_tasks(stage: Stage) -> None:
    """A forked copy of a host that lives on is no host: the tasks end with the real one."""
    host = stage.host("fork", [WORST, ("session",)])
    host.hear("ready")
    until_whole(stage)
    host.go()
    copy = int(host.hear("forked"))
    stage.copies.add(copy)
    host.signal(signal.SIGKILL)
    host.wait()
    stage.assert_all_gone()
    os.kill(copy, 0)


def test_death_of_a_copy_harms_nobody(stage: Stage) -> None:
    """When a forked copy of a host ends, the tasks of the real one go on."""
    host = stage.host("fork", [("stubborn", "session")])
    host.hear("ready")
    host.go()
    copy = int(host.hear("forked"))
    stage.copies.add(copy)
    os.kill(copy, signal.SIGKILL)
    (project,) = stage.projects
    before = dict(project.ledgers)
    limit = time.monotonic() + 30
    while not before or project.ledgers == before:
        before = before or dict(project.ledgers)
        assert time.monotonic() < limit, "the family does not work any more"
        time.sleep(0.01)
    assert not project.is_free()
    host.signal(signal.SIGKILL)
    host.wait()
    stage.assert_all_gone()


# --------------------------------------------------------------------- the host stops or hangs


def assert_truth(outcome: dict[str, Any]) -> None:
    """Check the outcome of a stubborn family that was cancelled."""
    assert outcome["mine"] is True
    assert (outcome["status"], outcome["reason"]) == ("cancelled", "cancelled")
    assert outcome["return_code"] == -signal.SIGKILL
    assert outcome["survivors"] == []


def test_host_stopped_during_a_cancel(stage: Stage) -> None:
    """The ladder goes on while its host is stopped; once continued, the host tells the truth."""
    host = stage.host("cancel", [WORST, ("stubborn",)], grace=0.5)
    host.hear("ready")
    until_whole(stage)
    host.go()
    for _ in stage.projects:
        host.hear("stopping")
    host.signal(signal.SIGSTOP)
    limit = time.monotonic() + 10
    while host.state != "T" or not all(project.is_free() for project in stage.projects):
        assert time.monotonic() < limit, "the families live on"
        time.sleep(0.01)
    assert host.state == "T"
    host.signal(signal.SIGCONT)
    for _ in stage.projects:
        assert_truth(json.loads(host.hear("outcome")))
    assert host.wait() == 0
    stage.assert_all_gone()


def test_stopped_host_is_killed(stage: Stage) -> None:
    """A host that is killed while it is stopped leaves nothing behind."""
    host = stage.host("rest", [WORST])
    host.hear("ready")
    until_whole(stage)
    host.signal(signal.SIGSTOP)
    host.signal(signal.SIGKILL)
    host.wait()
    stage.assert_all_gone()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_receiver_blocks_the_loop_during_a_cancel(stage: Stage, backend: str) -> None:
    """The ladder goes on while a receiver blocks the loop; the receiver is named for it."""
    release = stage.directory / "release"
    os.mkfifo(release)
    host = stage.host("block", [WORST], grace=0.5, release=str(release), backend=backend)
    host.hear("ready")
    until_whole(stage)
    host.go()
    host.hear("blocking")
    blocked_at = time.monotonic()
    limit = blocked_at + 10
    (project,) = stage.projects
    while not project.is_free():
        assert time.monotonic() < limit, "the family lives on"
        time.sleep(0.01)
    time.sleep(max(0.0, blocked_at + 3 - time.monotonic()))  # so long it blocks the loop
    release.write_text("")  # opening it is what the receiver waits for
    assert_truth(json.loads(host.hear("outcome")))
    assert host.wait() == 0
    failures = [line for line in host.heard if line.startswith("failed")]
    assert failures == ["failed receiver __main__.signal_sent True"]
    stage.assert_all_gone()


# ------------------------------------------------------------ guardian and warden die (any loop)


def parent_of(pid: int) -> int:
    """Return the number of a process's parent."""
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


async def soon(condition: Callable[[], object]) -> None:
    """Look until something is true, while the loop goes on."""
    while not condition():  # noqa: ASYNC110 - of other processes there is no event
        await anyio.sleep(0.01)


def kill_and_see(pid: int) -> None:
    """Kill a child of this process, and return when it is a zombie, before the loop goes on."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def start(engine: TaskEngine, project: Project, *habits: str) -> Task:
    """Start a hostile family and wait until its leader works."""
    task = await engine.spawn_task(
        "hostile", argv=project.argv(*habits), project_dir=project.directory, policy=SHORT
    )
    await soon(lambda: project.ledgers and task.pid)
    return task


async def outcome_of(engine: TaskEngine, project: Project, script: str) -> Outcome:
    """Run a short task to its end."""
    task = await engine.spawn_task(
        "short", argv=["sh", "-c", script], project_dir=project.directory
    )
    return await task.wait()


@pytest.mark.anyio
async def test_guardian_killed(stage: Stage) -> None:
    """A task whose guardian was killed ends as guardian_lost, family gone, project free; once."""
    events: list[TaskEvent] = []
    projects = [stage.project(), stage.project()]
    async with TaskEngine(load_installed=False) as engine:
        engine.signals.any_event.connect(events.append)
        other = await start(engine, projects[1], "session")
        task = await start(engine, projects[0], *WORST)
        assert task.pid is not None
        os.kill(parent_of(task.pid), signal.SIGKILL)
        outcome = await task.wait()
        assert (outcome.reason, outcome.status) == (Reason.GUARDIAN_LOST, TaskStatus.FAILED)
        assert projects[0].is_free()
        assert projects[0].alive == []
        mine = [event for event in events if event.task == task.ref]
        assert [event.name for event in mine].count("task.failed") == 1
        assert mine[-1].name == "task.failed"
        assert (await outcome_of(engine, projects[0], "exit 0")).reason is Reason.EXITED
        assert other.is_running
        assert await other.cancel()
    assert other.outcome is not None
    assert other.outcome.return_code == -signal.SIGTERM
    stage.assert_all_gone()


@pytest.mark.anyio
@pytest.mark.parametrize("size", [10, 60_000])
async def test_guardian_killed_with_bytes_in_the_pipe(stage: Stage, size: int) -> None:
    """What the program had written is delivered, although the guardian was killed before it."""
    project = stage.project()
    heard: list[bytes] = []

    def on_output(event: OutputReceived) -> None:
        heard.append(event.data)

    script = f"echo begun; read x < fifo; head -c {size} /dev/zero; touch done; exec sleep 600"
    os.mkfifo(project.directory / "fifo")
    async with TaskEngine(load_installed=False) as engine:
        engine.signals.output_received.connect(on_output)
        task = await engine.spawn_task(
            "writer", argv=["sh", "-c", script], project_dir=project.directory
        )
        await soon(lambda: b"".join(heard) == b"begun\n")
        assert task.pid is not None
        guardian = parent_of(task.pid)
        os.kill(guardian, signal.SIGSTOP)
        (project.directory / "fifo").write_text("go\n")
        await soon((project.directory / "done").exists)
        os.kill(guardian, signal.SIGKILL)
        outcome = await task.wait()
        assert outcome.reason is Reason.GUARDIAN_LOST
        assert project.is_free()
        assert b"".join(heard) == task.output.read() == b"begun\n" + bytes(size)
        assert outcome.output_bytes == {"stdout": size + 6}
        assert outcome.lost_bytes == {}
    stage.assert_all_gone()


@pytest.mark.anyio
async def test_guardian_killed_during_a_cancel(stage: Stage) -> None:
    """A guardian that is killed in the middle of the ladder leaves no one; the truth is told."""
    project = stage.project()
    begun = anyio.Event()

    def on_signal(event: SignalSent) -> None:
        begun.set()

    async with TaskEngine(load_installed=False) as engine:
        engine.signals.signal_sent.connect(on_signal)
        task = await engine.spawn_task(
            "hostile",
            argv=project.argv(*WORST),
            project_dir=project.directory,
            policy=TerminationPolicy(steps=(Step(signal=signal.SIGTERM, grace=600),)),
        )
        await soon(lambda: project.ledgers and task.pid)
        task.cancel_nowait()
        await begun.wait()
        assert task.pid is not None
        os.kill(parent_of(task.pid), signal.SIGKILL)
        outcome = await task.wait()
        assert outcome.reason is Reason.GUARDIAN_LOST
        assert project.is_free()
        assert project.alive == []
    stage.assert_all_gone()


@pytest.mark.anyio
async def test_warden_killed(stage: Stage) -> None:
    """When the warden is killed, tasks go on and end as they would; new ones can be started."""
    projects = [stage.project() for _ in range(4)]
    async with TaskEngine(load_installed=False) as engine:
        stubborn = await start(engine, projects[0], *WORST)
        ends = await engine.spawn_task(
            "ends",
            argv=["sh", "-c", "echo ready; until test -e go; do sleep 0.01; done; echo b; exit 3"],
            project_dir=projects[1].directory,
        )
        await soon(ends.output.tail)
        assert stubborn.pid is not None
        warden = parent_of(parent_of(stubborn.pid))
        assert warden != os.getpid()
        kill_and_see(warden)
        assert (await outcome_of(engine, projects[2], "exit 0")).reason is Reason.EXITED
        after = await start(engine, projects[3], "session")
        assert stubborn.is_running
        assert not projects[0].is_free()
        (projects[1].directory / "go").touch()
        outcome = await ends.wait()
        assert (outcome.reason, outcome.return_code) == (Reason.EXIT_CODE, 3)
        assert ends.output.tail() == ["ready", "b"]
        assert await stubborn.cancel()
        assert stubborn.outcome is not None
        assert stubborn.outcome.return_code == -signal.SIGKILL
        assert projects[0].alive == []
        assert (await outcome_of(engine, projects[0], "exit 0")).reason is Reason.EXITED
        assert await after.cancel()
    stage.assert_all_gone()


@pytest.mark.anyio
async def test_warden_killed_again_and_again(stage: Stage) -> None:
    """Every spawn works, or its task ends with a true reason, however often wardens are killed."""
    project = stage.project()
    async with TaskEngine(load_installed=False) as engine:
        for _ in range(5):
            task = await start(engine, project, "session")
            assert task.pid is not None
            warden = parent_of(parent_of(task.pid))
            kill_and_see(warden)
            assert await task.cancel()
            project.forget()
    stage.assert_all_gone()


@pytest.mark.anyio
async def test_warden_killed_while_tasks_start(stage: Stage) -> None:
    """Tasks that are under way to a warden that dies end with a true reason; no spawn hangs."""
    projects = [stage.project() for _ in range(8)]
    async with TaskEngine(load_installed=False) as engine:
        first = await start(engine, projects[0])
        assert first.pid is not None
        warden = parent_of(parent_of(first.pid))
        tasks = [
            await engine.spawn_task(
                str(number), argv=["sh", "-c", "exit 0"], project_dir=project.directory
            )
            for number, project in enumerate(projects[1:])
        ]
        os.kill(warden, signal.SIGKILL)
        reasons = {(await task.wait()).reason for task in tasks}
        assert reasons <= {Reason.EXITED, Reason.GUARDIAN_LOST, Reason.SPAWN_FAILED}
        assert all(project.is_free() for project in projects[1:])
        assert await first.cancel()
    stage.assert_all_gone()


@pytest.mark.anyio
async def test_warden_dies_before_it_takes_a_launch(stage: Stage) -> None:
    """A task that a dying warden never took is started by the next one, or was never started."""
    projects = [stage.project(), stage.project()]
    async with TaskEngine(load_installed=False) as engine:
        first = await start(engine, projects[0])
        assert first.pid is not None
        warden = parent_of(parent_of(first.pid))
        os.kill(warden, signal.SIGSTOP)
        task = await engine.spawn_task("late", argv=["true"], project_dir=projects[1].directory)
        await soon(lambda: task.status is TaskStatus.STARTING)
        kill_and_see(warden)
        outcome = await task.wait()
        # Not guardian_lost: there was no guardian, and no family that could have been ended.
        assert outcome.reason in (Reason.EXITED, Reason.SPAWN_FAILED), outcome
        assert projects[1].is_free()
        assert await first.cancel()
    stage.assert_all_gone()


@pytest.mark.anyio
async def test_warden_and_guardian_killed(stage: Stage) -> None:
    """When nobody is left who could sweep, nothing lives on, or the outcome names who does."""
    project = stage.project()
    async with TaskEngine(load_installed=False) as engine:
        task = await start(engine, project, "stubborn", "session")
        assert task.pid is not None
        guardian = parent_of(task.pid)
        os.kill(parent_of(guardian), signal.SIGKILL)
        os.kill(guardian, signal.SIGKILL)
        outcome = await task.wait()
        assert outcome.reason is Reason.GUARDIAN_LOST
        named = {(survivor.pid, survivor.start_time) for survivor in outcome.survivors}
        assert set(project.alive) <= named, "alive, and not named"

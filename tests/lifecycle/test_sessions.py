"""Going on with a session of an agent: who can, who must not, and never two at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from eventbus_tasks import (
    AgentActivity,
    AgentSession,
    Command,
    InvalidRequestError,
    ProcessExit,
    Reason,
    SessionBusyError,
    Stream,
    Task,
    TaskEnded,
    TaskQueued,
    Verdict,
    hookimpl,
)
from eventbus_tasks._process import visit
from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.sessions import claim_session, release_session

from .conftest import Stage, until

pytestmark = pytest.mark.anyio


class Interpreter:
    """Each line of a puppet is the name of a session."""

    def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity]:
        return [AgentSession(session_id=line.decode())]

    def verdict(self, exit: ProcessExit) -> Verdict:
        return Verdict(reason=Reason.EXITED)


class Plugin:
    """Runs what the option ``argv`` says, as two agents of which one has sessions."""

    def __init__(self) -> None:
        self.options: list[Mapping[str, Any]] = []

    @hookimpl
    def ebt_register_agents(self, register: Callable[..., None]) -> None:
        register("talker", "has sessions", resumes=True)
        register("mayfly", "has none")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command | None:
        if task.agent not in ("talker", "mayfly"):
            return None
        options = task.request.options
        self.options.append(options)
        return Command(
            argv=tuple(options["argv"]),
            interpreter=Interpreter(),
            session_id=options.get("begin", ""),
        )


async def spawn(engine: Any, project: Path, argv: Iterable[str] = ("true",), **more: Any) -> Task:
    """Start a task of an agent."""
    options = {"argv": list(argv), **more.pop("options", {})}
    more.setdefault("agent", "talker")
    task: Task = await engine.spawn_task("talk", "go", project, options=options, **more)
    return task


async def test_session_reaches_the_plugin(stage: Stage) -> None:
    """A session is in the request and in the options, however it was asked for."""
    plugin = Plugin()
    async with stage.engine(plugins={"talker": plugin}) as engine:
        for asked in ({"resume": "s-1"}, {"options": {"resume": "s-1"}}):
            task = await spawn(engine, stage.project, **asked)
            await task.wait()
            assert task.request.resume == task.session_id == "s-1"
            assert plugin.options[-1]["resume"] == "s-1"
        with pytest.raises(InvalidRequestError, match="another session: 's-2'"):
            await spawn(engine, stage.project, resume="s-1", options={"resume": "s-2"})


async def test_task_to_go_on_with(stage: Stage) -> None:
    """A task stands for its agent and the session that it has told last."""
    argv = ("printf", "s-1\\ns-2\\n")
    async with stage.engine(plugins={"talker": Plugin()}) as engine:
        first = await spawn(engine, stage.project, argv)
        await first.wait()
        assert first.session_id == "s-2"
        second = await spawn(engine, stage.project, agent=None, resume=first)
        await second.wait()
        assert (second.agent, second.request.resume) == ("talker", "s-2")
        with pytest.raises(InvalidRequestError, match="agent 'talker', not 'mayfly'"):
            await spawn(engine, stage.project, agent="mayfly", resume=first)
        silent = await spawn(engine, stage.project)
        await silent.wait()
        with pytest.raises(InvalidRequestError, match="has told no session"):
            await spawn(engine, stage.project, resume=silent)


@pytest.mark.parametrize("agent", ["mayfly", "command"])
async def test_agent_without_sessions(stage: Stage, agent: str) -> None:
    """Who cannot go on with a session is not started with one."""
    async with stage.engine(plugins={"talker": Plugin()}) as engine:
        with pytest.raises(InvalidRequestError, match=f"{agent!r} cannot go on with a session"):
            await engine.spawn_task(
                "t", "", stage.project, agent=agent, argv=["true"], resume="s-1"
            )
        assert engine.tasks == ()


@pytest.mark.parametrize(
    "more",
    [{"resume": "s-1"}, {"options": {"begin": "s-1"}}, {}],
    ids=["asked", "begun", "told"],
)
async def test_one_task_for_each_session(stage: Stage, more: dict[str, Any]) -> None:
    """A session that a task works in is refused to others, by name, until that task has ended."""
    puppet = stage.puppet()
    other = stage.new_project("other")
    plugin = Plugin()
    async with (
        stage.engine(plugins={"talker": plugin}) as engine,
        stage.engine(plugins={"talker": Plugin()}) as neighbour,
    ):
        first = await spawn(engine, stage.project, puppet.argv, **more)
        await puppet.connected()
        if not more:
            puppet.say("s-1\n")
            await stage.recorder.until(AgentSession)
            claims = engine.settings.state_dir / "sessions"
            await until(lambda: list(claims.glob("*.json")))
        with pytest.raises(SessionBusyError, match=f"task {first.id} 'talk' of process") as caught:
            await spawn(neighbour, other, resume="s-1")
        assert caught.value.holder["uid"] == first.uid
        assert neighbour.tasks == ()
        elsewhere = await spawn(neighbour, other, resume="s-2")
        await elsewhere.wait()
        puppet.exit(0)
        await first.wait()
        again = await spawn(neighbour, other, resume="s-1")
        assert (await again.wait()).reason is Reason.EXITED
    assert not list((engine.settings.state_dir / "sessions").glob("*.json"))


async def test_free_when_the_end_is_told(stage: Stage) -> None:
    """Whoever hears of the end of a task can go on with its session at once."""
    refused: list[Exception] = []
    other = stage.new_project("other")
    async with stage.engine(plugins={"talker": Plugin()}) as engine:

        async def go_on(event: TaskEnded) -> None:
            if engine.get_task(event.task).project_dir == stage.project:
                try:
                    await spawn(engine, other, resume="s-1")
                except SessionBusyError as error:
                    refused.append(error)

        engine.signals.task_ended.connect(go_on)
        await (await spawn(engine, stage.project, resume="s-1")).wait()
        await engine.tasks[-1].wait()
        assert len(engine.tasks) == 2
    assert not refused


async def test_queued_behind_its_own_session(stage: Stage) -> None:
    """A task that waits for the directory gets the session that is free when it starts."""
    puppet = stage.puppet()
    async with stage.engine(plugins={"talker": Plugin()}) as engine:
        first = await spawn(engine, stage.project, puppet.argv, resume="s-1")
        await puppet.connected()
        second = await spawn(engine, stage.project, resume="s-1", when_busy="queue")
        await stage.recorder.until(TaskQueued, second)
        puppet.exit(0)
        await first.wait()
        assert (await second.wait()).reason is Reason.EXITED


async def test_builder_that_chooses_a_busy_session(stage: Stage) -> None:
    """A session that only the builder knows is refused before anything is started."""
    puppet = stage.puppet()
    other = stage.new_project("other")
    async with stage.engine(plugins={"talker": Plugin()}) as engine:
        first = await spawn(engine, stage.project, puppet.argv, resume="s-1")
        await puppet.connected()
        second = await spawn(engine, other, options={"begin": "s-1"})
        outcome = await second.wait()
        assert outcome.reason is Reason.SPAWN_FAILED
        assert "another task works in the session 's-1'" in outcome.message
        puppet.exit(0)
        assert (await first.wait()).reason is Reason.EXITED


def _own_start() -> int:
    found = read_process(os.getpid())
    assert found is not None
    return found.start_time


def holders(state: Path) -> list[str]:
    """Return whose claims there are."""
    files = (state / "sessions").glob("*.json")
    return [json.loads(file.read_text())["uid"] for file in files]


def test_claims_of_the_dead(private_state: Path) -> None:
    """A claim holds while the host or the guardian lives, and is nobody's after both."""
    child = subprocess.Popen([sys.executable, "-ISc", "input()"], stdin=subprocess.PIPE)
    try:
        process = read_process(child.pid)
        assert process is not None
        theirs = {"uid": "u1", "host": [child.pid, process.start_time]}
        ours = {"uid": "u2", "host": [os.getpid(), _own_start()]}
        assert claim_session(private_state, "a", "s", theirs) is None
        assert claim_session(private_state, "a", "s", theirs) is None
        assert (claim_session(private_state, "a", "s", ours) or {})["uid"] == "u1"
        assert claim_session(private_state, "b", "s", ours) is None
        place = visit.make_place(private_state, "u1")
    finally:
        child.kill()
        child.communicate()
    assert (claim_session(private_state, "a", "s", ours) or {})["uid"] == "u1"
    place.remove()
    assert claim_session(private_state, "a", "s", ours) is None
    release_session(private_state, "a", "s", "u1")  # not theirs any more
    assert holders(private_state) == ["u2", "u2"]


def test_old_claims_are_removed(private_state: Path) -> None:
    """What the dead have left is removed after a day, whoever comes; the living keep theirs."""
    dead = {"uid": "u1", "host": [os.getpid(), 1]}
    living = {"uid": "u2", "host": [os.getpid(), _own_start()]}
    claim_session(private_state, "a", "s1", dead)
    claim_session(private_state, "a", "s2", living)
    for path in (private_state / "sessions").glob("*.json"):
        os.utime(path, (1, 1))
    claim_session(private_state, "a", "s3", living)
    assert holders(private_state) == ["u2", "u2"]

"""However a task of the real Claude Code ends, nothing is left of it, and its reason is true."""

from __future__ import annotations

import json
import os
import shlex
import signal

import anyio
import pytest

from eventbus_tasks import Reason, SignalSent, TaskCancelled, TaskEngine, TaskStarted
from eventbus_tasks.testing import Puppet

from .conftest import Stage, marked

pytestmark = pytest.mark.slow

PATIENCE = 30.0
"""Seconds until a process that does not end is given up; nothing is measured by it."""

GONE_WITHIN = 10.0
"""Seconds after the death of a host within which all of it must be gone: a promise.

More for a family that ignores every polite signal, when the ladder of the policy takes longer.
"""

ONE_LOOP = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])


def grow(puppet: Puppet, *, stubborn: bool = False) -> None:
    """Have a tool's program start a family that is hard to find, or to end."""
    ignored = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if stubborn else []
    puppet.spawn(session=True, ignore=ignored)
    puppet.spawn(daemon=True, ignore=ignored)
    puppet.spawn(daemon=True, wipe_environment=True, hold_output=False, ignore=ignored)


# ------------------------------------------------------------------------------------- cancel


@pytest.mark.anyio
@pytest.mark.parametrize("now", [False, True], ids=["politely", "now"])
async def test_cancel_while_a_tool_runs(stage: Stage, now: bool) -> None:
    """A cancel in the middle of a tool ends everybody whom the tool has started, in any session."""
    puppet = stage.puppet()
    signals: list[SignalSent] = []
    async with TaskEngine() as engine:
        engine.signals.signal_sent.connect(signals.append)
        task = await stage.spawn(engine, f"fake:shell {shlex.join(puppet.argv)}\nfake:text no")
        await puppet.connected()
        grow(puppet)
        assert len(puppet.living()) == 4
        assert await task.cancel(now=now)
        # Not a moment later: a task has ended when its family has.
        assert not puppet.living()
        assert not marked(task.uid)
        assert task.outcome is not None
        assert task.outcome.reason is Reason.CANCELLED
        assert task.outcome.survivors == ()
    if not now:
        assert signals[0].signal == signal.SIGINT
        assert signals[0].pids == (task.pid,)


@pytest.mark.anyio
@ONE_LOOP
async def test_cancel_of_a_stubborn_family(stage: Stage) -> None:
    """A family that ignores every polite signal is ended all the same."""
    puppet = stage.puppet()
    async with TaskEngine() as engine:
        task = await stage.spawn(engine, f"fake:shell {shlex.join(puppet.argv)}\nfake:text no")
        await puppet.connected()
        puppet.ignore(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        grow(puppet, stubborn=True)
        assert await task.cancel()
        assert not puppet.living()
        assert not marked(task.uid)


@pytest.mark.anyio
@pytest.mark.parametrize("scenario", ["stall", "silent", "slow 1000 0.1"])
@ONE_LOOP
async def test_cancel_while_the_model_answers(stage: Stage, scenario: str) -> None:
    """A cancel lets go of the model, whether it answers slowly, has stopped, or never began."""
    ended: list[TaskCancelled] = []
    async with TaskEngine() as engine:
        engine.signals.task_cancelled.connect(ended.append)
        task = await stage.spawn(engine, f"fake:{scenario}")
        await anyio.to_thread.run_sync(stage.api.wait_until, lambda api: api.open_exchanges)
        assert await task.cancel()
        await anyio.to_thread.run_sync(stage.api.wait_idle)
    assert [exchange.state for exchange in stage.api.exchanges] == ["cut"]
    assert len(ended) == 1


@pytest.mark.anyio
@ONE_LOOP
async def test_cancel_at_the_start(stage: Stage) -> None:
    """A cancel as soon as Claude was executed, before it can handle a signal, is a cancel."""
    async with TaskEngine() as engine:
        with engine.subscribe(TaskStarted) as stream:
            task = await stage.spawn(engine, "fake:stall")
            await anext(aiter(stream))
            assert await task.cancel()
        assert not marked(task.uid)


@pytest.mark.anyio
@ONE_LOOP
async def test_timeout(stage: Stage) -> None:
    """A task that takes too long has timed out, and lets go of its model."""
    run = await stage.run("fake:silent", timeout=4.0)
    assert run.outcome.reason is Reason.TIMED_OUT
    assert [exchange.state for exchange in stage.api.exchanges] == ["cut"]


@pytest.mark.anyio
@ONE_LOOP
async def test_interrupt_from_outside(stage: Stage) -> None:
    """A SIGINT from somebody else is no success, though Claude exits with 0, and no cancel."""
    async with TaskEngine() as engine:
        task = await stage.spawn(engine, "fake:stall")
        await anyio.to_thread.run_sync(stage.api.wait_until, lambda api: api.open_exchanges)
        assert task.pid is not None
        os.kill(task.pid, signal.SIGINT)
        outcome = await task.wait()
    assert outcome.reason is Reason.AGENT_ERROR, outcome
    assert "interrupted" in outcome.message


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@ONE_LOOP
async def test_kill_from_outside(stage: Stage, number: signal.Signals) -> None:
    """Claude killed in the middle of a tool: a failure, and the tool's family is swept."""
    puppet = stage.puppet()
    async with TaskEngine() as engine:
        task = await stage.spawn(engine, f"fake:shell {shlex.join(puppet.argv)}\nfake:text no")
        await puppet.connected()
        grow(puppet)
        assert task.pid is not None
        os.kill(task.pid, number)
        outcome = await task.wait()
        assert not puppet.living()
        assert not marked(task.uid)
    assert outcome.reason is Reason.NO_RESULT, outcome
    assert outcome.return_code in (-number, 128 + number)


# ------------------------------------------------------------------------------- a normal end


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["nohup", "setsid", "setsid setsid", "env -i setsid"])
async def test_leftovers_of_a_success(stage: Stage, how: str) -> None:
    """What a tool has left in the background is gone when the successful task has ended."""
    puppet = stage.puppet()
    ready = stage.directory / "ready"
    start = f"{how} {shlex.join(puppet.argv)} </dev/null >/dev/null 2>&1 & echo started"
    wait = f"until [ -e {ready} ]; do sleep 0.05; done"
    async with TaskEngine() as engine:
        task = await stage.spawn(engine, f"fake:shell {start}\nfake:shell {wait}\nfake:text Done")
        await puppet.connected()
        grow(puppet, stubborn=True)
        ready.touch()
        outcome = await task.wait()
        assert not puppet.living()
        assert not marked(task.uid)
    assert (outcome.reason, outcome.result) == (Reason.EXITED, "Done"), outcome
    assert outcome.survivors == ()


# --------------------------------------------------------------------------- the command line


def test_ebt_run(stage: Stage) -> None:
    """`ebt run --agent claude` prints the answer, exits with 0, and the task is in the list."""
    process = stage.ebt("run", "--agent", "claude", "fake:text It is done.")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert "It is done." in out
    listed, _ = stage.ebt("ls", "--json").communicate(timeout=PATIENCE)
    (item,) = json.loads(listed)
    assert (item["agent"], item["status"]) == ("claude", "completed")


def test_ebt_run_with_a_tool_as_json(stage: Stage) -> None:
    """`ebt run --json` writes each event as a line, those of the agent included."""
    target = stage.project() / "x.txt"
    process = stage.ebt(
        "run", "--agent=claude", "--json", "-o", 'allowed_tools=["Write"]', f"fake:write {target} y"
    )
    out, _ = process.communicate(timeout=PATIENCE)
    events = [json.loads(line) for line in out.splitlines()]
    names = [event["event"] for event in events]
    for name in ("agent.session", "agent.tool_started", "agent.tool_finished", "agent.result"):
        assert name in names
    assert names[-1] == "task.completed"
    assert process.returncode == 0
    assert target.read_text() == "y"


def test_ebt_run_that_fails(stage: Stage) -> None:
    """`ebt run` exits with 1 when the agent fails, and says why on standard error."""
    process = stage.ebt("run", "--agent", "claude", "fake:error 400")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "400" in err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_ebt_run_is_stopped(stage: Stage, number: signal.Signals, status: int) -> None:
    """Ctrl-C, or another polite signal, ends the agent, its tools, and then `ebt` itself."""
    puppet = stage.puppet()
    process = stage.ebt(
        "run", "--agent=claude", "-o", "allowed_tools=Bash", f"fake:shell {shlex.join(puppet.argv)}"
    )
    puppet.connect()
    grow(puppet)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert not puppet.living()
    assert process.returncode == status


@pytest.mark.parametrize("stubborn", [False, True])
def test_host_is_killed(stage: Stage, stubborn: bool) -> None:
    """When the host is killed in the middle of a tool, nothing is left after ten seconds."""
    puppet = stage.puppet()
    process = stage.ebt(
        "run", "--agent=claude", "-o", "allowed_tools=Bash", f"fake:shell {shlex.join(puppet.argv)}"
    )
    puppet.connect()
    uid = puppet.describe()["env"]["EBT_TASK"]
    if stubborn:
        puppet.ignore(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    grow(puppet, stubborn=stubborn)
    assert marked(uid)
    process.kill()
    process.communicate()
    puppet.wait_until_gone(GONE_WITHIN)
    assert not marked(uid)
    stage.api.wait_idle(GONE_WITHIN)

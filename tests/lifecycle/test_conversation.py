"""Agents that are talked to: prompts, interrupts and the end, in both directions."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import anyio
import pytest

from eventbus_tasks import (
    AgentInputAnswered,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    Allow,
    HandlerFailed,
    InputClosedError,
    Reason,
    SignalSent,
    Step,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskStatus,
    TaskStopping,
    TerminationPolicy,
)

from .conftest import GUARD
from .talker import Scene, engine_with, mute_engine, spawn

pytestmark = pytest.mark.anyio


async def test_interpreter_speaks_by_itself(tmp_path: Path) -> None:
    """An interpreter begins, reacts to lines, and closes the input; nobody else does anything."""
    async with engine_with(stays=False) as engine:
        scene = await spawn(engine, tmp_path, "work")
        outcome = await scene.task.wait()
    assert outcome.status is TaskStatus.COMPLETED
    got = [line for line in scene.task.output.text().splitlines() if line.startswith("got")]
    assert got == ["got hello  0", "got prompt work 4", "got bye  0"]


async def test_prompts_follow_each_other(tmp_path: Path) -> None:
    """Prompts arrive in their order, whenever they are sent, also before the agent is ready."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "first")
        await scene.task.send("second")
        for text in ("first", "second"):
            assert (await scene.next(AgentResult)).text == text
        await scene.task.send("third")
        assert (await scene.next(AgentResult)).text == "third"
        assert await scene.end() is TaskStatus.COMPLETED


async def test_input_ends_behind_what_was_sent(tmp_path: Path) -> None:
    """However slowly it reads, the agent gets every byte of every prompt before the end."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "wait")
        await scene.next(AgentMessage)
        assert scene.task.pid is not None
        os.kill(scene.task.pid, signal.SIGSTOP)  # it reads nothing before everything was sent
        async with anyio.create_task_group() as group:
            for letter in "abc":
                group.start_soon(scene.task.send, letter * 200_000)
                await anyio.wait_all_tasks_blocked()
            group.start_soon(scene.task.close_input)
            await anyio.wait_all_tasks_blocked()
            os.kill(scene.task.pid, signal.SIGCONT)
        with anyio.fail_after(GUARD):
            await scene.task.wait()
    got = [line.split()[2:] for line in scene.task.output.text().splitlines() if "200000" in line]
    assert got == [[letter * 20, "200000"] for letter in "abc"]


async def test_refused_prompt(tmp_path: Path) -> None:
    """What the interpreter refuses goes to the caller, and disturbs nobody."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "first")
        await scene.next(AgentResult)
        with pytest.raises(ValueError, match="no such prompt"):
            await scene.task.send("unheard of")
        await scene.task.send("second")
        assert (await scene.next(AgentResult)).text == "second"
        assert await scene.end() is TaskStatus.COMPLETED
    assert not scene.told(HandlerFailed)


async def test_interrupt(tmp_path: Path) -> None:
    """An interrupt reaches the agent, closes what is open, and the session goes on."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "ask")
        await scene.next(AgentInputRequired)
        await scene.task.interrupt()
        assert (await scene.next(AgentInputAnswered)).by == "interrupt"
        assert (await scene.next(AgentResult)).text == "interrupted"
        await scene.task.send("next")
        assert (await scene.next(AgentResult)).text == "next"
        assert await scene.end() is TaskStatus.COMPLETED


async def test_protocol_as_the_first_rung(tmp_path: Path) -> None:
    """A ladder whose first rung is 0 interrupts the agent; what ends by that gets no signal."""
    policy = TerminationPolicy(steps=(Step(signal=0, grace=2 * GUARD), Step(signal=15)))
    async with engine_with(stays=False) as engine:
        with engine.subscribe(TaskEvent) as stream:
            task = await engine.spawn_task("t", "wait", tmp_path, agent="talker", policy=policy)
            scene = Scene(task, stream)
            await scene.next(AgentMessage)
            with anyio.fail_after(GUARD):
                assert await task.cancel()
            await scene.next(TaskEnded)
    assert [event.signal for event in scene.told(SignalSent)] == [0]
    assert [event.text for event in scene.told(AgentResult)] == ["interrupted"]


async def test_no_turn_begins_while_it_is_being_ended(tmp_path: Path) -> None:
    """Once stopping has begun, a prompt is refused, also one that was waiting to be written."""
    policy = TerminationPolicy(steps=(Step(signal=0, grace=2 * GUARD),))
    ends: dict[str, str] = {}

    async def send(letter: str) -> None:
        try:
            await scene.task.send(letter * 200_000)
        except InputClosedError as error:
            ends[letter] = str(error)

    async with engine_with() as engine:
        stream = engine.subscribe(TaskEvent)
        task = await engine.spawn_task("t", "wait", tmp_path, agent="talker", policy=policy)
        scene = Scene(task, stream)
        await scene.next(AgentMessage)
        assert task.pid is not None
        os.kill(task.pid, signal.SIGSTOP)  # it reads nothing: a part of the first fills the pipe
        async with anyio.create_task_group() as group:
            for letter in "ab":
                group.start_soon(send, letter)
                await anyio.wait_all_tasks_blocked()
            task.cancel_nowait()
            await scene.next(TaskStopping)
            await send("c")
            task.cancel_nowait(now=True)
        await scene.next(TaskEnded)
    # Only the rest of the first one follows, so that the agent can read what comes behind it.
    assert sorted(letter for letter, why in ends.items() if "no turn begins" in why) == ["b", "c"]


async def test_no_first_word(tmp_path: Path) -> None:
    """An agent that got no prompt, since its interpreter has failed, does not wait for ever."""
    async with mute_engine("begin") as engine:
        scene = await spawn(engine, tmp_path, "wait")
        outcome = (await scene.next(TaskEnded)).outcome
    assert (outcome.reason, "no first word" in outcome.message) == (Reason.PLUGIN_ERROR, True)


async def test_no_last_word(tmp_path: Path) -> None:
    """An agent that cannot be told that nothing follows does not stay for ever."""
    async with mute_engine("encode_close") as engine:
        scene = await spawn(engine, tmp_path, "wait")
        await scene.next(AgentMessage)
        with pytest.raises(RuntimeError, match="no last word"):
            await scene.task.close_input()
        outcome = (await scene.next(TaskEnded)).outcome
    assert (outcome.reason, "no last word" in outcome.message) == (Reason.PLUGIN_ERROR, True)


async def test_native_cancellation_loses_nothing(tmp_path: Path, anyio_backend_name: str) -> None:
    """Whatever tasks of the loop are cancelled natively, each prompt arrives once, and in whole."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no other cancellation than by scopes")
    others = asyncio.all_tasks()  # those of the tests themselves
    async with engine_with(answer_deadline=0.5) as engine:
        scene = await spawn(engine, tmp_path, "first")
        await scene.next(AgentResult)
        for number in range(20):
            text = f"{number} " + "x" * (100_000 if number % 3 == 0 else 10)
            sending = asyncio.ensure_future(scene.task.send(text))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - others - {sending}:
                task.cancel()
            await asyncio.wait_for(sending, GUARD)
            assert (await scene.next(AgentResult)).text.startswith(f"{number} ")
        await scene.task.send("ask")
        await scene.next(AgentInputRequired)
        for task in asyncio.all_tasks() - others:
            task.cancel()
        assert (await scene.next(AgentInputAnswered)).by == "deadline"
        assert await scene.end() is TaskStatus.COMPLETED
    got = [line.split()[-1] for line in scene.task.output.text().splitlines() if "xxx" in line]
    assert [size for size in got if size.isdigit()] == [
        str(len(f"{number} ") + (100_000 if number % 3 == 0 else 10)) for number in range(20)
    ]


async def test_after_the_end(tmp_path: Path) -> None:
    """A task that has ended takes nothing, and says so."""
    async with engine_with() as engine:
        scene = await spawn(engine, tmp_path, "first")
        await scene.end()
        with pytest.raises(InputClosedError, match="has ended"):
            await scene.task.send("second")
        with pytest.raises(InputClosedError, match="has ended"):
            await scene.task.interrupt()
        await scene.task.close_input()


async def test_programs_are_not_talked_to(tmp_path: Path) -> None:
    """A plain program takes bytes, but neither prompts nor answers."""
    async with TaskEngine(load_installed=False) as engine:
        task = await engine.spawn_task("cat", "", tmp_path, argv=["cat"], stdin="open")
        with pytest.raises(InputClosedError, match="nobody is talked to"):
            await task.send("text")
        with pytest.raises(InputClosedError, match="nobody is talked to"):
            await task.answer("r1", Allow())
        await task.send(b"bytes")
        await task.close_input()
        assert (await task.wait()).status is TaskStatus.COMPLETED
        assert task.output.text() == "bytes"

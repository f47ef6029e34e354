"""A program that uses the engine, and dies in the way it is told to.

Usage: ``host.py OPTIONS``, with options as JSON: ``style`` (``engine`` in its block, or
``manager``), ``backend``, ``grace`` (seconds; null: the default policy), ``plugins`` (whether to
load those that are installed), ``capture`` (of commands), ``tasks`` (lists of ``[directory,
argv]``), ``plan``.

It tells on standard output, a word or two per line, what has happened. The plan is carried out
once all tasks have started and a line has come on standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import anyio

from eventbus_tasks import (
    Command,
    HandlerFailed,
    SignalSent,
    Step,
    Task,
    TaskEngine,
    TaskManager,
    TaskStarted,
    TaskStopping,
    TerminationPolicy,
    hookimpl,
)

OPTIONS: dict[str, Any] = json.loads(sys.argv[1])
PLAN: str = OPTIONS["plan"]
GRACE: float | None = OPTIONS.get("grace", 0.3)


class PlannedError(Exception):
    """What the plan `raise` raises."""


def tell(*words: object) -> None:
    """Say something to the test."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def policy() -> TerminationPolicy | None:
    """Return the policy of every task."""
    if GRACE is None:
        return None
    return TerminationPolicy(steps=(Step(signal=15, grace=GRACE),), exit_grace=0.1)


class CaptureFile:
    """Builds commands whose standard output is the log itself, as agents have it."""

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command:
        """Answer for every command."""
        return Command(argv=task.request.argv, capture="file")


Spawn = Callable[..., Awaitable[Any]]


async def spawn_all(spawn: Spawn) -> list[Any]:
    """Accept every task of the options."""
    tasks = []
    for number, (directory, argv) in enumerate(OPTIONS["tasks"], 1):
        task = await spawn(f"task {number}", "", directory, argv=argv, policy=policy())
        tell("accepted", task.id)
        tasks.append(task)
    return tasks


async def wait_started(tasks: list[Any]) -> None:
    """Wait until every program runs, or has run."""
    while any(task.started_at is None for task in tasks):
        await anyio.sleep(0.002)


def end_now() -> None:
    """Carry out the plans that end the program from inside of it."""
    match PLAN:
        case "_exit":
            os._exit(7)
        case "sys.exit":
            sys.exit(7)
        case "raise":
            raise PlannedError


async def with_manager() -> None:
    """Use the manager of the process, which nobody closes."""
    tasks = await spawn_all(TaskManager().spawn_task)
    await wait_started(tasks)
    tell("ready")
    await anyio.wait_readable(sys.stdin)
    end_now()


async def with_engine() -> None:
    """Use an engine in its block."""
    plugins = {"capture": CaptureFile()} if OPTIONS.get("capture") == "file" else {}
    engine = TaskEngine(plugins=plugins, load_installed=OPTIONS.get("plugins", False))
    engine.signals.task_started.connect(started)
    engine.signals.task_stopping.connect(stopping)
    engine.signals.signal_sent.connect(signal_sent)
    engine.signals.handler_failed.connect(handler_failed)
    tell("entering")
    async with engine:
        tell("entered")
        if PLAN == "churn":
            await churn(engine)
        tasks: list[Task] = await spawn_all(engine.spawn_task)
        await wait_started(tasks)
        tell("ready")
        await anyio.wait_readable(sys.stdin)
        end_now()
        if PLAN == "fork":
            fork()
        if PLAN in ("cancel", "block"):
            async with anyio.create_task_group() as group:
                for task in tasks:
                    group.start_soon(cancel, task)
            return
        await anyio.sleep_forever()


def started(event: TaskStarted) -> None:
    """Tell of a start."""
    tell("started", event.task.id)


def stopping(event: TaskStopping) -> None:
    """Tell of a ladder."""
    tell("stopping", event.task.id)


def signal_sent(event: SignalSent) -> None:
    """Block the loop at the first signal, if that is the plan, until the test opens a pipe."""
    if PLAN == "block" and event.signal == 15:
        tell("blocking", event.task.id)
        with open(OPTIONS["release"]) as release:
            release.read()


def handler_failed(event: HandlerFailed) -> None:
    """Tell who is named for it."""
    tell("failed", event.where, event.overran)


async def cancel(task: Task) -> None:
    """Cancel a task and tell its end."""
    mine = await task.cancel()
    assert task.outcome is not None
    tell("outcome", json.dumps({"mine": mine, **task.outcome.to_dict()}))


def ledgers() -> list[int]:
    """Return how many processes have written lines so far, for each task."""
    books = [Path(directory, "book") for directory, _ in OPTIONS["tasks"]]
    return [len(list(book.glob("ledger-*"))) for book in books]


async def churn(engine: TaskEngine) -> NoReturn:
    """Start and cancel the tasks again and again."""
    while True:
        before = ledgers()
        tasks: list[Task] = await spawn_all(engine.spawn_task)
        await wait_started(tasks)
        # Of what other processes write there is no event.
        while any(t.is_running and ledgers()[n] == before[n] for n, t in enumerate(tasks)):
            await anyio.sleep(0.005)
        tell("whole")
        await anyio.sleep(0.1)
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(task.cancel)
        tell("again")


def fork() -> None:
    """Make a copy of this process that never executes anything, and outlives it."""
    pid = os.fork()
    if not pid:
        while True:
            threading.Event().wait(600)
    tell("forked", pid)


def run_in_daemon_thread() -> None:
    """Let the program end while its loop still runs in another thread."""
    ready = threading.Event()

    async def serve() -> None:
        await wait_started(await spawn_all(TaskManager().spawn_task))
        ready.set()
        await anyio.sleep_forever()

    threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
    ready.wait()
    tell("ready")
    sys.stdin.readline()


def leave_loop_open() -> None:
    """Let the program end with a loop that nobody has closed."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(with_manager())
    sys.exit(7)


def main() -> None:
    """Do what the options say."""
    tell("imported")
    if PLAN == "thread":
        run_in_daemon_thread()
    elif PLAN == "open loop":
        leave_loop_open()
    elif OPTIONS.get("style") == "manager":
        asyncio.run(with_manager())
    else:
        anyio.run(with_engine, backend=OPTIONS.get("backend", "asyncio"))


main()

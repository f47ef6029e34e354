"""Code of users that a type checker must accept, and mistakes that it must find.

Never executed: mypy reads it. A mistake that is no longer found is an unused ignore, and so an
error.
"""

from __future__ import annotations

from pathlib import Path

from eventbus_tasks import (
    AgentActivity,
    Command,
    EventSignal,
    Outcome,
    OutputLine,
    Step,
    Task,
    TaskCompleted,
    TaskEnded,
    TaskEngine,
    TaskManager,
    TaskStarted,
    TerminationPolicy,
    hookimpl,
)


def on_completed(event: TaskCompleted) -> None:
    """Take the event of its signal."""
    outcome: Outcome = event.outcome
    print(event.task.name, outcome.reason)


def on_ended(event: TaskEnded) -> None:
    """Take the events of a whole family."""


async def on_line(event: OutputLine) -> None:
    """Be async."""
    print(event.number, event.text)


def on_activity(event: AgentActivity) -> None:
    """Take what agents say."""


async def use_engine(engine: TaskEngine) -> None:
    """Connect, spawn, wait, subscribe."""
    signals = engine.signals
    signals.task_completed.connect(on_completed)
    signals.task_completed.connect(on_ended)
    signals.output_line.connect(on_line)
    signals.agent_activity.connect(on_activity)
    signals.task_started.connect(on_completed)  # type: ignore[arg-type]
    signals.task_ended.connect(on_completed)  # type: ignore[arg-type]
    signals.output_line.connect(42)  # type: ignore[arg-type]
    mine: EventSignal[TaskStarted] = signals.of(TaskStarted)
    with mine.connect(lambda event: print(event.pid)):
        pass
    mine.connect(lambda event: print(event.outcome))  # type: ignore[attr-defined]
    task: Task = await engine.spawn_task("tests", argv=["pytest"], project_dir=Path())
    await engine.spawn_task("tests", argv=["pytest"], timeout="soon")  # type: ignore[arg-type]
    async for event in engine.subscribe(TaskStarted, task=task):
        print(event.pid)
        print(event.outcome)  # type: ignore[attr-defined]
    outcome: Outcome = await task.wait()
    outcome.reason = "done"  # type: ignore[misc,assignment]


async def use_manager() -> None:
    """Use the names of the process-wide convenience."""
    manager = TaskManager()
    manager.on("on_task_complete", print)
    task = await manager.spawn_task("auth", "Refactor the auth module", Path("/project"))
    lines: list[str] = task.output_lines
    process = task.process
    print(lines, process.pid)  # type: ignore[union-attr]


@hookimpl
def ebt_build_command(task: Task) -> Command | None:
    """Build a command."""
    return Command(argv=("echo", task.prompt), capture="fifo")  # type: ignore[arg-type]


POLICY = TerminationPolicy(steps=(Step(signal=2, scope="leader", grace=2.0),), timeout=60)
WRONG = TerminationPolicy(steps=("SIGTERM",))  # type: ignore[arg-type]

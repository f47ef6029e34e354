"""What all conformance classes stand on: guard of overrides, backends, a bench to run tasks."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import anyio
import pytest

from eventbus_tasks import (
    Command,
    HandlerFailed,
    Outcome,
    Settings,
    Task,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    hookimpl,
)
from eventbus_tasks.testing.leaks import leak_guard

__all__ = ["PATIENCE", "Bench", "Contract", "StandIn", "open_bench", "overrides_with_reason"]

PATIENCE: Final = 60.0
"""Seconds that one test may take: a guard against a hang, sized for a slow, busy machine."""

# A failed `assert` in a contract shows its values, as it does in test files.
pytest.register_assert_rewrite(
    *(
        f"eventbus_tasks.testing._contract_{kind}"
        for kind in ("command", "conversation", "policy", "storage")
    )
)

F = TypeVar("F", bound=Callable[..., Any])

_REASON: Final = "_override_reason"
_GUARD: Final = "test_overrides_have_a_reason"


def overrides_with_reason(reason: str) -> Callable[[F], F]:
    """Mark a test that replaces one of a contract, and say why it must.

    Args:
        reason: One sentence: what of the contract the plugin does not keep, and why.

    Raises:
        ValueError: The reason is empty.
    """
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError("say why the test is replaced")

    def mark(function: F) -> F:
        setattr(function, _REASON, reason)
        return function

    return mark


def _has_reason(test: object) -> bool:
    marks = getattr(test, "pytestmark", ())
    excused = any(mark.name in ("xfail", "skip") and mark.kwargs.get("reason") for mark in marks)
    return bool(getattr(test, _REASON, "")) or excused


@dataclass
class Bench:
    """A running engine, and everything it has said.

    Attributes:
        engine: The engine.
        events: All its events so far, in order.
    """

    engine: TaskEngine
    events: list[TaskEvent] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """What hooks, journals, stores and interpreters have done wrong."""
        return [
            f"{event.where}: {event.error}"
            for event in self.events
            if isinstance(event, HandlerFailed) and "_contract.Bench" not in event.where
        ]

    def events_of(self, task: Task) -> list[TaskEvent]:
        """Return the events of one task, in order."""
        return [event for event in self.events if event.task.uid == task.uid]

    async def ask(self, hook: str, task: Task, **more: Any) -> Any:
        """Ask one hook for a task, as the engine does.

        Args:
            hook: Its name.
            task: The task.
            more: What else it is asked with.

        Raises:
            AssertionError: An implementation failed.
        """
        failed: list[str] = []
        answer = await self.engine.plugins.ask(
            hook,
            {"task": task, **more},
            failed=lambda where, what, overran: failed.append(f"{where}: {what}"),
        )
        assert not failed, "; ".join(failed)
        return answer

    def check(self, task: Task, outcome: Outcome) -> None:
        """Check what is true of every task that has ended, whatever its plugins are.

        Raises:
            AssertionError: Says what is not as it must be.
        """
        assert not self.failures, "; ".join(self.failures)
        ends = [event for event in self.events_of(task) if isinstance(event, TaskEnded)]
        assert len(ends) == 1, f"{len(ends)} terminal events instead of one: {ends}"
        assert ends[0].outcome == outcome, "the terminal event carries another outcome"


@contextlib.asynccontextmanager
async def open_bench(
    plugins: Mapping[str, object],
    directory: Path,
    tables: tuple[object, ...] = (),
    **settings: Any,
) -> AsyncIterator[Bench]:
    """Run an engine that has these plugins only, and no setting of the person at the machine.

    Args:
        plugins: Plugins by name; the last one is asked first.
        directory: Where its state is kept.
        tables: Settings of plugins: objects of the dataclasses that they have declared.
        settings: Settings of the core.
    """
    known = Settings(state_dir=directory / "state", **settings).with_tables(*tables)
    bench = Bench(TaskEngine(known, plugins=plugins, load_installed=False))
    bench.engine.signals.any_event.connect(bench.events.append)
    with anyio.fail_after(PATIENCE):
        async with bench.engine:
            yield bench


class StandIn:
    """A plugin that drives an agent by a command of the test's own.

    Args:
        agent: Name of the agent.
        command: Makes the answer to ``ebt_build_command``.
    """

    def __init__(self, agent: str, command: Callable[[Task], Command]) -> None:
        self._agent = agent
        self._command = command

    @hookimpl
    def ebt_register_agents(self, register: Callable[[str, str], None]) -> None:
        """Name the agent."""
        register(self._agent, "stands in for the agent in a test")

    @hookimpl(tryfirst=True)
    def ebt_build_command(self, task: Task) -> Command | None:
        """Answer for the agent."""
        return self._command(task) if task.agent == self._agent else None


_BACKENDS: Final = [
    pytest.param("asyncio", id="asyncio"),
    pytest.param(
        "trio",
        id="trio",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("trio") is None, reason="trio is not installed"
        ),
    ),
]


class Contract:
    """Base of the conformance classes: subclass one of those, and give it the fixture ``case``."""

    pytestmark: ClassVar[pytest.MarkDecorator] = pytest.mark.anyio

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Refuse a class that does away with the guard of overrides.

        Raises:
            TypeError: It does.
        """
        super().__init_subclass__(**keywords)
        if _GUARD in vars(cls):
            raise TypeError(f"{cls.__name__} must not replace {_GUARD}")

    @pytest.fixture(params=_BACKENDS)
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Run each test on asyncio and on trio."""
        return request.param

    @pytest.fixture(autouse=True)
    def _hermetic(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        """Hide the settings of the person at the machine; fail if something is left behind."""
        for variable in [name for name in os.environ if name.startswith("EBT_")]:
            monkeypatch.delenv(variable)
        monkeypatch.setenv("EBT_CONFIG", str(tmp_path / "no-config.toml"))
        monkeypatch.setenv("EBT_STATE_DIR", str(tmp_path / "state"))
        with leak_guard():
            yield

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        """Return an empty project directory."""
        directory = tmp_path / "project"
        directory.mkdir()
        return directory

    @pytest.fixture
    def case(self) -> Any:
        """Say what is tested; each subclass has its own."""
        pytest.fail(f"{type(self).__name__} needs a fixture named 'case'", pytrace=False)

    def test_overrides_have_a_reason(self) -> None:
        """A test of the contract is replaced only with a reason that can be read."""
        classes = type(self).__mro__
        wrong = []
        for position, cls in enumerate(classes):
            for name, test in vars(cls).items():
                if not name.startswith("test_") or _has_reason(test):
                    continue
                later = classes[position + 1 :]
                if any(issubclass(base, Contract) and name in vars(base) for base in later):
                    wrong.append(f"{cls.__name__}.{name}")
        assert not wrong, (
            f"{', '.join(wrong)}: a test of the contract is replaced without a reason; "
            'add @overrides_with_reason("…") or pytest.mark.xfail(reason="…")'
        )

"""Whatever users, programs and the system do: the invariants of a task's life, on real processes.

A hypothesis state machine drives an engine on a loop of its own, and puppets as its tasks. Each
rule returns when the engine has seen its effect, so that nothing depends on who is quicker. The
names I1 to I10 are those of the invariants in the design.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from eventbus_tasks import (
    HandlerFailed,
    Outcome,
    OutputReceived,
    ProjectBusyError,
    Reason,
    Settings,
    Step,
    Task,
    TaskActiveError,
    TaskEnded,
    TaskEngine,
    TaskEvent,
    TaskNotFoundError,
    TaskRemoved,
    TaskStarted,
    TaskStatus,
    TerminationPolicy,
    hookimpl,
)
from eventbus_tasks.lifecycle import TRANSITIONS
from eventbus_tasks.testing import Puppet
from eventbus_tasks.testing.leaks import leak_guard

PATIENCE = 30.0
PROJECTS = 3
POLICY = TerminationPolicy(
    steps=(Step(signal=signal.SIGTERM, grace=0.05),), exit_grace=0.0, drain=0.05
)


@dataclass(eq=False)
class Life:
    """What the model knows of one task."""

    task: Task
    puppet: Puppet
    project: int
    said: bytearray = field(default_factory=bytearray)
    frozen: bool = False
    expected: Reason | None = None
    code: int | None = None
    removed: bool = False
    events_at_end: int | None = None


class Journal:
    """Keeps each task's events; what is told must be in here before."""

    def __init__(self) -> None:
        self.events: dict[str, list[TaskEvent]] = {}
        self.finished: dict[str, Outcome] = {}

    @hookimpl
    def ebt_open_journal(self, task: Task) -> _TaskJournal:
        return _TaskJournal(self, task.uid)


class _TaskJournal:
    def __init__(self, journal: Journal, uid: str) -> None:
        self._events = journal.events.setdefault(uid, [])
        self._finished = journal.finished
        self._uid = uid

    def append(self, events: Sequence[TaskEvent]) -> None:
        self._events.extend(events)

    def finish(self, outcome: Outcome) -> None:
        assert self._uid not in self._finished
        self._finished[self._uid] = outcome

    def close(self) -> None:
        pass


class Witness:
    """A receiver that notes every event, and in which state the task was then."""

    def __init__(self, journal: Journal) -> None:
        self.engine: TaskEngine | None = None
        self.journal = journal
        self.events: dict[str, list[TaskEvent]] = {}
        self.states: dict[str, list[TaskStatus]] = {}
        self.unjournaled: list[TaskEvent] = []
        self.failures = 0

    def __call__(self, event: TaskEvent) -> None:
        if isinstance(event, HandlerFailed):
            self.failures += 1
            return
        self.events.setdefault(event.task.uid, []).append(event)
        if isinstance(event, TaskRemoved):
            return
        assert self.engine is not None
        self.states.setdefault(event.task.uid, []).append(self.engine.get_task(event.task).status)
        if event != self.journal.events[event.task.uid][-1]:
            self.unjournaled.append(event)


def lifecycle_machine(backend: str, options: dict[str, Any]) -> type[RuleBasedStateMachine]:
    """Return the machine for a backend."""

    class TaskLifecycle(RuleBasedStateMachine):
        live: Bundle[Life] = Bundle("live")
        ended: Bundle[Life] = Bundle("ended")
        receivers: Bundle[Any] = Bundle("receivers")

        def __init__(self) -> None:
            super().__init__()
            self.directory = Path(tempfile.mkdtemp(prefix="ebt-m-"))
            self.lives: list[Life] = []
            self.holders: dict[int, Life] = {}
            self.guard = leak_guard()
            self.guard.__enter__()
            self.journal = Journal()
            self.witness = Witness(self.journal)
            for number in range(PROJECTS):
                (self.directory / f"p{number}").mkdir()
            self.portal_context = start_blocking_portal(backend, options)
            self.portal = self.portal_context.__enter__()
            self.engine = self.portal.call(self.make_engine)
            self.witness.engine = self.engine
            self.engine_context = self.portal.wrap_async_context_manager(self.engine)
            self.engine_context.__enter__()

        async def make_engine(self) -> TaskEngine:
            # Settings whose logs are where the machine's directory is.
            engine = TaskEngine(
                replace(
                    Settings.load(), state_dir=self.directory / "state", receiver_deadline=0.05
                ),
                plugins={"journal": self.journal},
                load_installed=False,
            )
            engine.signals.any_event.connect(self.witness)
            return engine

        # -- helpers ------------------------------------------------------------------------------

        def wait(self, condition: Callable[[], object]) -> None:
            deadline = time.monotonic() + PATIENCE
            while not condition():
                assert time.monotonic() < deadline, "the engine has not seen it"
                time.sleep(0.0005)

        def told(self, life: Life, kind: type[TaskEvent]) -> list[TaskEvent]:
            events = self.witness.events.get(life.task.uid, [])
            return [event for event in events if isinstance(event, kind)]

        def outcome(self, life: Life) -> Outcome:
            async def wait() -> Outcome:
                with anyio.fail_after(PATIENCE):
                    return await life.task.wait()

            return self.portal.call(wait)

        def over(self, life: Life, reason: Reason, code: int | None = None) -> None:
            """The task must be over now, for this reason."""
            life.expected, life.code = reason, code
            outcome = self.outcome(life)
            assert outcome.reason is reason, outcome
            assert outcome.return_code == code or reason is Reason.CANCELLED, outcome
            life.events_at_end = len(self.told(life, TaskEvent))
            del self.holders[life.project]

        async def spawn_in(self, project: int, argv: Sequence[str]) -> Task:
            return await self.engine.spawn_task(
                "puppet", argv=argv, project_dir=self.directory / f"p{project}", policy=POLICY
            )

        # -- rules: spawning ----------------------------------------------------------------------

        @initialize(target=live, project=st.integers(0, PROJECTS - 1))
        def first(self, project: int) -> Any:
            return self.begin(project)

        @rule(target=live, project=st.integers(0, PROJECTS - 1))
        def spawn(self, project: int) -> Any:
            """Start a task, or be refused where there is one (I3)."""
            if project in self.holders:
                with pytest.raises(ProjectBusyError) as caught:
                    self.portal.call(self.spawn_in, project, ["true"])
                assert caught.value.holder["uid"] == self.holders[project].task.uid
                return multiple()
            return self.begin(project)

        def begin(self, project: int) -> Life:
            puppet = Puppet()
            task = self.portal.call(self.spawn_in, project, puppet.argv)
            puppet.connect()
            life = Life(task, puppet, project)
            self.lives.append(life)
            self.holders[project] = life
            self.wait(lambda: self.told(life, TaskStarted))
            return life

        @rule(target=ended, project=st.integers(0, PROJECTS - 1))
        def spawn_and_cancel_at_once(self, project: int) -> Any:
            """Cancel a task in the very step in which it was accepted."""
            if project in self.holders:
                return multiple()
            puppet = Puppet()

            async def both() -> Task:
                task = await self.spawn_in(project, puppet.argv)
                assert task.cancel_nowait()
                return task

            life = Life(self.portal.call(both), puppet, project)
            self.lives.append(life)
            self.holders[project] = life
            self.over(life, Reason.CANCELLED)
            return life

        @rule(target=ended, project=st.integers(0, PROJECTS - 1))
        def spawn_nothing(self, project: int) -> Any:
            """Start a program that does not exist."""
            if project in self.holders:
                return multiple()
            puppet = Puppet()
            life = Life(self.portal.call(self.spawn_in, project, ["./none"]), puppet, project)
            self.lives.append(life)
            self.holders[project] = life
            self.over(life, Reason.SPAWN_FAILED)
            return life

        # -- rules: what the program does ---------------------------------------------------------

        @rule(
            life=live,
            data=st.sampled_from([b"line\n", b"no ending", b"\xff\xc3", b"\n\n", b"\r\n"]),
            times=st.sampled_from([1, 1, 20_000]),
        )
        def say(self, life: Life, data: bytes, times: int) -> None:
            if not life.frozen:
                life.puppet.say(data, times=times)
                life.said += data * times
                self.wait(lambda: life.task.output.size() == len(life.said))

        @rule(
            life=live,
            session=st.booleans(),
            daemon=st.booleans(),
            wipe=st.booleans(),
            stubborn=st.booleans(),
            hold=st.booleans(),
        )
        def spawn_child(
            self, life: Life, session: bool, daemon: bool, wipe: bool, stubborn: bool, hold: bool
        ) -> None:
            if not life.frozen:
                life.puppet.spawn(
                    session=session,
                    daemon=daemon,
                    wipe_environment=wipe,
                    ignore=[signal.SIGTERM] if stubborn else [],
                    hold_output=hold,
                )

        @rule(life=live)
        def ignore_terminate(self, life: Life) -> None:
            if not life.frozen:
                life.puppet.ignore(signal.SIGTERM)

        @rule(life=live)
        def close_output(self, life: Life) -> None:
            if not life.frozen:
                life.puppet.close_output()
                life.frozen = True  # it says nothing any more, which would go nowhere

        @rule(life=live)
        def freeze(self, life: Life) -> None:
            if not life.frozen:
                life.puppet.stop()
                life.frozen = True

        @rule(target=ended, life=consumes(live), code=st.sampled_from([0, 0, 1, 255]))
        def exit(self, life: Life, code: int) -> Life:
            """It exits; a frozen one is killed instead."""
            if life.frozen:
                life.puppet.identity.kill()
                self.over(life, Reason.SIGNALLED, -signal.SIGKILL)
            else:
                life.puppet.exit(code)
                self.over(life, Reason.EXITED if code == 0 else Reason.EXIT_CODE, code)
            return life

        @rule(target=ended, life=consumes(live))
        def kill_from_outside(self, life: Life) -> Life:
            life.puppet.identity.kill()
            self.over(life, Reason.SIGNALLED, -signal.SIGKILL)
            return life

        @rule(target=ended, life=consumes(live))
        def kill_guardian(self, life: Life) -> Life:
            guardian = life.puppet.identity.parent
            assert guardian is not None
            os.kill(guardian, signal.SIGKILL)
            self.over(life, Reason.GUARDIAN_LOST)
            return life

        # -- rules: what users do -----------------------------------------------------------------

        @rule(target=ended, life=consumes(live), now=st.booleans())
        def cancel(self, life: Life, now: bool) -> Life:
            async def cancel() -> bool:
                return await life.task.cancel(now=now)

            assert self.portal.call(cancel)
            self.over(life, Reason.CANCELLED)
            return life

        @rule(target=ended, life=consumes(live), callers=st.integers(2, 3), now=st.booleans())
        def cancel_together(self, life: Life, callers: int, now: bool) -> Life:
            """Several cancel at once; all of them learn that the task was cancelled."""

            async def cancel(now: bool) -> bool:
                return await life.task.cancel(now=now)

            futures: list[Future[bool]] = [
                self.portal.start_task_soon(cancel, now and number == 1)
                for number in range(callers)
            ]
            assert [future.result(PATIENCE) for future in futures] == [True] * callers
            self.over(life, Reason.CANCELLED)
            return life

        @rule(life=ended, now=st.booleans())
        def cancel_late(self, life: Life, now: bool) -> None:
            """A cancel after the end changes nothing and says so (I4)."""

            async def cancel() -> bool:
                return life.task.cancel_nowait(now=now) or await life.task.cancel(now=now)

            if life.expected is not Reason.CANCELLED:
                assert not self.portal.call(cancel)

        @rule(life=live)
        def remove_too_early(self, life: Life) -> None:
            with pytest.raises(TaskActiveError):
                self.portal.call(self.engine.remove_task, life.task.id)

        @rule(life=ended)
        def remove(self, life: Life) -> None:
            if life.removed:
                with pytest.raises(TaskNotFoundError):
                    self.portal.call(self.engine.remove_task, life.task.ref)
                return
            self.portal.call(self.engine.remove_task, life.task.id)
            life.removed = True

        # -- rules: what plugins and subscribers do -----------------------------------------------

        @rule(
            target=receivers,
            kind=st.sampled_from(["raise", "exit", "hang", "raise-async"]),
            signal_name=st.sampled_from(
                ["any_event", "output_line", "output_received", "task_ended", "task_started"]
            ),
        )
        def bad_receiver(self, kind: str, signal_name: str) -> Any:
            def sync(event: TaskEvent) -> None:
                raise SystemExit(1) if kind == "exit" else RuntimeError("no")

            async def later(event: TaskEvent) -> None:
                if kind == "hang":
                    await anyio.sleep_forever()
                raise RuntimeError("no")

            async def connect() -> Any:
                receiver = sync if kind in ("raise", "exit") else later
                return getattr(self.engine.signals, signal_name).connect(receiver)

            return self.portal.call(connect)

        @rule(subscription=consumes(receivers))
        def disconnect(self, subscription: Any) -> None:
            self.portal.call(subscription.close)

        # -- invariants ---------------------------------------------------------------------------

        @invariant()
        def books_agree(self) -> None:
            """I3, I8: the engine's lists are those of the model; one running task per project."""
            running = self.portal.call(lambda: self.engine.running_tasks)
            assert {task.uid for task in running} == {
                life.task.uid for life in self.holders.values()
            }
            projects = [task.project_dir for task in running]
            assert len(set(projects)) == len(projects)
            known = self.portal.call(lambda: self.engine.tasks)
            assert {task.uid for task in known} == {
                life.task.uid for life in self.lives if not life.removed
            }
            for life in self.lives:
                assert (life.task.outcome is not None) == life.task.status.is_terminal
                assert life.task.is_running == (life.expected is None)

        @invariant()
        def states_are_allowed(self) -> None:
            """I1, I2: a task goes forward only, and only as the table says."""
            for states in self.witness.states.values():
                for before, after in itertools.pairwise(states):
                    allowed = _reachable(before)
                    assert after is before or after in allowed, (before, after)

        @invariant()
        def one_end(self) -> None:
            """I4, I5: one terminal event, the last one; started at most once, before all output."""
            for life in self.lives:
                events = [e for e in self.told(life, TaskEvent) if not isinstance(e, TaskRemoved)]
                ends = [event for event in events if isinstance(event, TaskEnded)]
                assert len(ends) == (life.expected is not None)
                if ends:
                    assert events[-1] is ends[0]
                    assert ends[0].outcome is life.task.outcome
                    assert len(events) == life.events_at_end
                    assert self.journal.finished[life.task.uid] == replace(
                        ends[0].outcome, persist_error=None
                    )
                names = [event.name for event in events]
                assert names[0] == "task.accepted"
                assert names.count("task.started") <= 1
                if "output.received" in names:
                    assert names.index("task.started") < names.index("output.received")

        @invariant()
        def nothing_is_lost(self) -> None:
            """I6: the log has what was written, and the events cover all of it, once."""
            for life in self.lives:
                position = 0
                for event in self.told(life, OutputReceived):
                    assert isinstance(event, OutputReceived)
                    assert event.start == position
                    position = event.end
                if life.expected is not None:
                    assert position == len(life.said)
                    assert life.task.outcome is not None
                    assert life.task.outcome.output_bytes.get("stdout", 0) == len(life.said)
                    assert not life.task.outcome.lost_bytes
                if not life.removed:
                    # Large logs are compared by their ends: this runs after each step.
                    tail = bytes(life.said[-4096:])
                    start = max(0, len(life.said) - 4096)
                    assert life.task.output.read(start) == tail
                    assert life.task.output.read(0, 100) == bytes(life.said[:100])

        @invariant()
        def journal_has_no_gap(self) -> None:
            """I7: numbers are contiguous, and what was told had been written down before."""
            assert not self.witness.unjournaled
            for events in self.journal.events.values():
                assert [event.seq for event in events] == list(range(1, len(events) + 1))

        @invariant()
        def nothing_is_left(self) -> None:
            """I9: of a task that has ended nobody lives."""
            for life in self.lives:
                if life.expected is not None:
                    assert not life.puppet.living()

        @invariant()
        def reasons_are_true(self) -> None:
            """I10: every outcome has the reason that the model knows, and it stays."""
            for life in self.lives:
                if life.expected is not None:
                    assert life.task.outcome is not None
                    assert life.task.outcome.reason is life.expected
                    assert not life.task.outcome.survivors
                    if life.code is not None:
                        assert life.task.outcome.return_code == life.code

        def teardown(self) -> None:
            """Leave the engine: what still runs ends as `engine_closed`, and nothing stays."""
            try:
                self.engine_context.__exit__(None, None, None)
                self.check_the_end()
            finally:
                self.portal_context.__exit__(None, None, None)
                for life in self.lives:
                    life.puppet.close()
                shutil.rmtree(self.directory, ignore_errors=True)
                self.forget_everything()
            self.guard.__exit__(None, None, None)

        def check_the_end(self) -> None:
            for life in self.lives:
                assert not life.puppet.living()
                assert life.task.outcome is not None
                if life.expected is None:
                    assert life.task.outcome.reason is Reason.ENGINE_CLOSED
                    assert life.task.output.read() == bytes(life.said)
                for event in self.told(life, TaskEvent):
                    json.dumps(event.to_dict())

        def forget_everything(self) -> None:
            """Logs that were kept whole are descriptors for as long as anybody holds the task."""
            self.lives.clear()
            self.holders.clear()
            self.witness.events.clear()
            self.witness.engine = None
            self.journal.events.clear()
            self.bundles.clear()
            self.names_to_values.clear()
            del self.engine, self.engine_context

    return TaskLifecycle


def _reachable(status: TaskStatus) -> set[TaskStatus]:
    """Return every status that may follow, directly or later: events do not show each step."""
    found: set[TaskStatus] = set()
    queue = [status]
    while queue:
        for following in TRANSITIONS[queue.pop()]:
            if following not in found:
                found.add(following)
                queue.append(following)
    return found


BACKENDS = [("asyncio", {"debug": True}), ("trio", {})]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "options"), BACKENDS, ids=[name for name, _ in BACKENDS])
def test_lifecycle(backend: str, options: dict[str, Any]) -> None:
    """Whatever users, programs and receivers do, the invariants of a task's life hold."""
    run_state_machine_as_test(lifecycle_machine(backend, options), settings=hypothesis_settings())

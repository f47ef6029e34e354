"""Whole lives: a plan drawn from a seed, carried out, and judged by what the kernel knows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final, TypeVar

from eventbus_tasks._chronicle import Chronicle
from eventbus_tasks._process import wire
from eventbus_tasks._process.guardian import Guardian
from eventbus_tasks._process.ladder import Policy, Rung
from eventbus_tasks._runner import TaskRun
from eventbus_tasks.events import TaskEvent
from eventbus_tasks.lifecycle import TRANSITIONS, Facts, Input, LifeState
from eventbus_tasks.lifecycle import step as real_step
from eventbus_tasks.outcome import Outcome, Reason, TaskStatus
from eventbus_tasks.policies import TerminationPolicy
from eventbus_tasks.request import TaskRef

from .actors import SimulatedGuardian, SimulatedWarden, make_guardian
from .invariants import Wrong, check
from .kernel import GUARDIAN, TERM, GuardianDeath, Kernel, NeverAgain, Traits
from .launching import CALLS, Launch
from .machine import MACHINE

T = TypeVar("T")

HORIZON: Final = 60.0
"""Seconds of simulated time after which a long life is over, whatever still resists."""
SHORT_HORIZON: Final = 20.0
"""The same for other lives.

By then everything has been said; what still comes is one round of SIGKILL like the other.
"""
LONG_EVERY: Final = 16
"""One seed of so many is that of a long life, in which those who resist do it twice as long."""
_FAIL_REPORT: Final = b'{"stage": "exec", "errno": 2, "path": "/x", "message": "not there"}'
_REF: Final = TaskRef(id=1, uid="u", name="n", agent="command", project_dir="/p")
_BORN: Final = LifeState()
_UNKNOWN: Final = Facts()
_ENDS: Final = frozenset(status for status in TaskStatus if status.is_terminal)
_LAST_WORDS: Final = frozenset((wire.Ended, wire.SpawnFailed, wire.GuardianLost))
_LETTING_GO: Final = frozenset((wire.Released, wire.Unswept))
_rung: Final = functools.cache(Rung)


@dataclass
class Parts:
    """The code under test; mutants replace some of it."""

    guardian: type[Guardian] = SimulatedGuardian
    warden: type[SimulatedWarden] = SimulatedWarden
    run: type[SimulatedRun] = field(default_factory=lambda: SimulatedRun)
    step: Callable[..., LifeState] = real_step


def _nothing(*_: Any, **__: Any) -> None:
    return None


async def _nothing_at_once() -> None: ...


async def _run_at_once(function: Callable[[], Any], **_: Any) -> Any:
    return function()


class Plan:
    """Everything that will happen in one life, drawn before it begins."""

    def __init__(self, random: Random, *, long: bool) -> None:
        pick = random.random

        def choice(options: Sequence[T]) -> T:
            return options[int(pick() * len(options))]

        self.jitter = choice((0.0, 0.0001, 0.002))
        rungs = [
            _rung(
                choice((TERM, TERM, 2)),
                choice(("tree", "tree", "tree", "group", "leader")),
                choice((0.0, 0.2, 1.0, 3.0)),
            )
            for _ in range(choice((0, 1, 1, 1, 2)))
        ]
        self.policy = Policy(
            rungs=tuple(rungs),
            kill_wait=choice((0.5, 2.0 if long else 1.0)),
            drain=choice((0.05, 0.3)),
            exit_grace=choice((0.0, 0.2)),
            after_exit="kill" if pick() < 0.9 else "leave",
            on_host_death="kill" if pick() < 0.85 else "detach",
            timeout=choice((0.5, 4.0)) if pick() < 0.15 else None,
            idle_timeout=choice((0.4, 2.0)) if pick() < 0.1 else None,
            max_output=100_000 if pick() < 0.1 else None,
        )
        self.fork_fails = pick() < 0.01
        self.exec_fails = _FAIL_REPORT if pick() < 0.04 else b""
        self.exec_delay = 0.0 if pick() < 0.8 else choice((0.01, 0.5))
        self.horizon = HORIZON if long else SHORT_HORIZON
        self.leader = _draw_traits(pick, choice, long=long, leader=True)
        self.ends_at = choice((0.0, 0.05, 1.0, 5.0)) if pick() < 0.7 else None
        self.end_code = choice((0, 0, 0, 1, 255, -11, -9))
        self.members = [
            (choice((0.0, 0.0, 0.5, 2.0)), _draw_traits(pick, choice, long=long))
            for _ in range(choice((0, 0, 1, 1, 2, 3)))
        ]
        self.writes = [
            (choice((0.0, 0.05, 0.6, 1.0, 5.0)), choice((1, 100, 90_000, 200_000)))
            for _ in range(choice((0, 1, 2, 3)))
        ]
        self.disk_full = (0.2, choice((0.5, 1e9))) if pick() < 0.1 else (1e9, 1e9)
        self.outside = pick() < 0.03
        self.recycle = pick() < 0.5
        moments = (0.0, 0.005, 0.05, 0.5, 1.0, 1.2, 2.5)
        self.stops: list[tuple[float, Reason, bool]] = []
        for _ in range(choice((0, 0, 1, 1, 2, 3))):
            reason = Reason.CANCELLED if pick() < 0.85 else Reason.ENGINE_CLOSED
            self.stops.append((choice(moments) + pick() * 0.01, reason, pick() < 0.15))
        if self.ends_at is None and not self.stops:
            self.stops.append((6.0, Reason.CANCELLED, False))
        self.stops.sort(key=lambda stop: stop[0])
        self.cancelled_before = pick() < 0.02
        self.host_dies = choice(moments) + pick() if pick() < 0.08 else None
        self.hangs_up = choice(moments) if pick() < 0.02 else None
        self.guardian_dies = choice(moments) + pick() if pick() < 0.08 else None
        self.warden_dies = choice(moments) + pick() if pick() < 0.06 else None
        self.terminated = choice(moments) if pick() < 0.02 else None
        self.journal_fails = pick() < 0.03
        self.stalled = (1e9, 1e9)  # from when to when the guardian does not come to do anything
        if self.guardian_dies is not None:
            self.stalled = (self.guardian_dies - choice((0.0, 0.3, 1.0)), 1e9)
        elif pick() < 0.1:
            begin = choice(moments)
            self.stalled = (begin, begin + choice((0.3, 2.0, 8.0)))
        # When the warden gets SIGTERM: while it runs, or before which call of its launch.
        self.warden_terminated = choice(moments) + pick() if pick() < 0.03 else None
        self.launch_terminated = int(pick() * 2 * CALLS) if pick() < 0.03 else None
        signalled = (self.terminated, self.warden_terminated, self.launch_terminated)
        self.signalled = signalled != (None, None, None)
        # What follows from that: whether somebody cannot be ended, or not in time; until when
        # successors are forked; and how long the ladder is.
        self.resists = bool(self.leader.stuck)
        self.hopping = self.graces = 0.0
        for _, traits in self.members:
            self.resists = self.resists or traits.foreign or bool(traits.stuck)
            self.hopping = max(self.hopping, traits.hops * traits.pause)
        for rung in rungs:
            self.graces += rung.grace

    def begin(self, kernel: Kernel) -> None:
        """What the program does, from its exec on."""
        leader = kernel.leader
        assert leader is not None
        for size_at, size in self.writes:
            kernel.at(kernel.now + size_at, lambda size=size: kernel.write(size))  # type: ignore[misc]
        for born_at, traits in self.members:

            def bear(traits: Traits = traits) -> None:
                if leader.alive and leader.state == "S":
                    kernel.fork(leader, traits)

            if born_at:
                kernel.at(kernel.now + born_at, bear)
            else:
                bear()
        if self.ends_at is not None:

            def end() -> None:
                if leader.alive and not leader.doomed:
                    kernel.die(leader, self.end_code)

            kernel.at(kernel.now + self.ends_at, end)


def _draw_traits(
    pick: Callable[[], float],
    choice: Callable[[Sequence[Any]], Any],
    *,
    long: bool,
    leader: bool = False,
) -> Traits:
    traits = Traits()
    traits.ignores = pick() < 0.3
    traits.delay = choice((0.0, 0.0, 0.05, 0.15, 2.0))
    if not leader:
        traits.own_group = pick() < 0.5
        traits.daemon = pick() < 0.4
        traits.stopped = pick() < 0.15
        traits.holds = pick() < 0.7
        traits.foreign = pick() < 0.02
        traits.wiped = pick() < 0.3
        if pick() < 0.1:
            traits.hops, traits.pause = choice(((3, 0.01), (10, 0.003)))
    if pick() < 0.02:
        traits.stuck = choice((1.0, 30.0 if long else 15.0))
    return traits


class SimulatedTask:
    """A `Task` without an event loop; writes down every state."""

    ref = _REF
    uid = "u"
    output = SimpleNamespace(end=_nothing, grown=_nothing)
    pid: int | None = None
    started_at: Any = None
    completed_at: Any = None
    _outcome: Outcome | None = None
    _return_code: int | None = None
    _settled = _delivered = SimpleNamespace(set=_nothing)

    def __init__(self, step: Callable[..., LifeState]) -> None:
        self.events: list[TaskEvent] = []
        self._life = _BORN
        self._real_step = step

    def _step(self, happened: Input, reason: Reason | None = None) -> None:
        before = self._life
        after = self._real_step(before, happened, reason)
        if after is before:
            return
        if before.status is not after.status and after.status not in TRANSITIONS[before.status]:
            raise Wrong(f"I2 {before.status} -> {after.status}")
        if before.status in _ENDS:
            raise Wrong(f"I4 changed after its end: {before} -> {after}")
        self._life = after


class _Link:
    """The host's end of the guardian: what is sent is in its inbox at once."""

    eventfd = 0

    def __init__(self) -> None:
        self.pipes: list[tuple[str, int]] = []

    def stop(self, reason: str, *, now: bool = False, steps: Any = None) -> None:
        MACHINE.inbox.append(wire.Stop(reason=reason, now=now))
        if MACHINE.warden is not None and not MACHINE.kernel.warden_dead:
            MACHINE.warden._watch_stop(wire.StopAsked(task=1, reason=reason, now=now))


def _keep(event: TaskEvent, task: SimulatedTask) -> tuple[()]:
    task.events.append(event)
    return ()


_SERVICES: Final = SimpleNamespace(
    bus=SimpleNamespace(emit=_keep),
    pump=SimpleNamespace(wake=_nothing),
    plugins=SimpleNamespace(run=_run_at_once),
    settings=SimpleNamespace(journal_deadline=1.0),
    retain=_nothing,
)


class _Chronicle(Chronicle):
    """The real one, which nobody asks for earlier events."""

    def tell(self, event: TaskEvent) -> list[Any]:
        return self._bus.emit(event, self._task)


class SimulatedRun(TaskRun):
    """The real `TaskRun` from its launch on, with its messages and its judgement."""

    sessions = SimpleNamespace(release=_nothing_at_once)  # type: ignore[assignment]
    _admittance = SimpleNamespace(interrupt=_nothing)  # type: ignore[assignment]
    _policy = TerminationPolicy()
    _output = SimpleNamespace(  # type: ignore[assignment]
        add_gap=_nothing,
        verdict=_nothing,
        positions=MappingProxyType({}),
        end=_nothing,
        logs=_nothing,
        dialogue=None,
    )

    _services = _SERVICES  # type: ignore[assignment]

    def __init__(self, task: Any, journal_fails: bool) -> None:
        self.task = task
        self.events: list[TaskEvent] = task.events
        self.chronicle = _Chronicle(task, _SERVICES.bus, self._failed_to_persist)
        self.chronicle.journal = self if journal_fails else None
        self._persist_error = None
        self.link = _Link()
        self._link = self.link  # type: ignore[assignment]
        self._argv = ("program",)
        self._executed = self._heard = self._warden_lost = self._orphaned = False
        self._over = self._complete = False
        self._leader = None
        self._facts = _UNKNOWN
        self._survivors = ()
        self._sizes = {}
        self._lost = {}
        # What the guardian link knows.
        self.final = self.released = False

    def append(self, _: Any) -> None:
        raise OSError(28, "No space left on device")

    def finish(self, _: Any) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None: ...

    async def _await_receivers(self, deliveries: Any) -> None: ...

    def _failed_to_persist(self, problem: str) -> None:
        self._persist_error = self._persist_error or problem

    def hear(self, message: Any) -> None:
        """A message of guardian or warden, in the order that `GuardianLink.poll` gives."""
        kind = type(message)
        if kind in _LAST_WORDS:
            if self.final and kind is wire.GuardianLost:
                return
            self.final = True
        elif kind in _LETTING_GO:
            self.released = self.released or kind is wire.Released
            self.link.pipes += [(stream, 0) for stream in message.pipes]
        self._take(message)

    def conclude(self) -> Outcome:
        """Run the real end of the task, which never waits here."""
        if self._over:
            _at_once(self._follow_messages())
        _at_once(self._finish())
        assert self.task._outcome is not None
        return self.task._outcome


def _at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run what never waits here."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the end of a task waits for something")


class Life:
    """One life, from the launch to the last process."""

    def __init__(self, seed: int, parts: Parts) -> None:
        self.random = Random(seed)
        self.plan = plan = Plan(self.random, long=seed % LONG_EVERY == 0)
        self.parts = parts
        self.kernel = kernel = Kernel(self.random, recycle=plan.recycle, horizon=plan.horizon)
        kernel.disk_full = plan.disk_full
        kernel.outside = plan.outside
        self.task = SimulatedTask(parts.step)
        self.machine = MACHINE
        self.machine.begin(kernel, plan, self._told)
        self.run_ = parts.run(self.task, plan.journal_fails)
        self.accepted: list[tuple[float, Reason, bool, bool]] = []
        self.told_at: dict[type, float] = {}
        self.ended_at: float | None = None
        self.freed: tuple[float, int] | None = None
        self.host_died_at: float | None = None
        self.guardian_killed_at: float | None = None
        self.left_at_end: list[int] | None = None
        self.outcome: Outcome | None = None
        self.never = self.refused = False
        self.guardian: Guardian | None = None
        self.machine.lock_freed = self._freed
        self.machine.terminate = self._wake_by_sigterm

    def live(self) -> None:
        """Live it, then check every invariant."""
        if self.plan.cancelled_before:
            self.task._step(Input.STOP, Reason.CANCELLED)
            self.run_._facts = Facts(stop_reason=Reason.CANCELLED)
            self.outcome = self.run_.conclude()
            if self.outcome.reason is not Reason.CANCELLED:
                raise Wrong(f"I10 cancelled before its start, and {self.outcome.reason}")
            return
        self.task._step(Input.LAUNCH)
        self.machine.warden = self.warden = self.parts.warden()
        if self.plan.launch_terminated is None:
            self.warden.take_charge()
        else:
            when, waits = divmod(self.plan.launch_terminated, 2)
            Launch(self.machine, when, self._terminate_warden, waits=bool(waits)).run()
        self._schedule()
        try:
            if self.warden._guardians:
                self._be_guardian()
            else:
                self.refused = True
            self._be_warden()
        except NeverAgain:
            self.never = True
        self._be_host()
        check(self)
        self._loosen()

    def _loosen(self) -> None:
        """Cut what goes round in circles, so that the next life has the memory of this one."""
        self.machine.tell = self.machine.lock_freed = self.machine.terminate = _nothing
        self.kernel.leader_gone = _nothing
        self.kernel.events.clear()
        del self.run_.chronicle
        if self.guardian is not None:
            self.guardian._captures.clear()
            del self.guardian._shared
        del self.warden._stand_in

    # -- what happens to it --------------------------------------------------------------------

    def _schedule(self) -> None:
        plan, kernel = self.plan, self.kernel
        for when, reason, now in plan.stops:
            kernel.at(when, lambda reason=reason, now=now: self._ask(reason, now))  # type: ignore[misc]
        for moment, what in (
            (plan.host_dies, self._host_dies),
            (plan.hangs_up, self._hang_up),
            (plan.guardian_dies, self._guardian_dies),
            (plan.warden_dies, self._warden_dies),
            (plan.terminated, self._terminate),
            (plan.warden_terminated, self._terminate_warden),
        ):
            if moment is not None:
                kernel.at(moment, what)

    def _ask(self, reason: Reason, now: bool) -> None:
        if self.kernel.host_dead or self.machine.hung_up or self.outcome is not None:
            return
        can = self.run_.request_stop(reason, now=now)
        self.accepted.append((self.kernel.now, reason, now, can))

    def _host_dies(self) -> None:
        if self.ended_at is None and not self.machine.hung_up:
            self.kernel.host_dead = True
            self.host_died_at = self.kernel.now
            if (stand_in := self.machine.stand_in) is not None:
                stand_in.lose_host(GUARDIAN, 1, self.machine.slot)

    def _hang_up(self) -> None:
        if self.ended_at is None and not self.kernel.host_dead:
            self.machine.hung_up = True
            self.host_died_at = self.kernel.now

    def _guardian_dies(self) -> None:
        if self.machine.acting == GUARDIAN:
            self.guardian_killed_at = self.kernel.now
            self.kernel.kill_guardian()

    def _warden_dies(self) -> None:
        self.kernel.kill_warden()
        self.machine.close_lock(120)
        if not self.run_.released and not self.machine.hung_up:
            self.run_.hear(wire.WardenLost(at=self.kernel.now))

    def _terminate(self) -> None:
        if self.machine.acting == GUARDIAN and not self.kernel.guardian_dead:
            self._wake_by_sigterm()
            self.accepted.append((self.kernel.now, Reason.CANCELLED, False, True))

    def _wake_by_sigterm(self) -> None:
        if self.guardian is None:
            self.machine.terminated_early = True
        else:
            self.guardian._on_terminate()
            self.kernel.sigchld = True  # the signal wakes it like any other

    def _terminate_warden(self) -> None:
        if self.kernel.warden_dead:
            return
        if self.machine.acting == GUARDIAN and not self.kernel.guardian_dead:
            self.accepted.append((self.kernel.now, Reason.CANCELLED, False, True))
        self.warden._on_terminate()

    def _told(self, message: Any) -> None:
        kind = type(message)
        if kind not in self.told_at:
            self.told_at[kind] = self.kernel.now
        elif kind is wire.Stopping and self.plan.stalled[0] < self.plan.horizon:
            return  # as `GuardianLink.poll` has it: guardian and warden may both say it
        self.run_.hear(message)
        if self.run_._over and self.left_at_end is None and self.guardian_killed_at is not None:
            self.left_at_end = [proc.pid for proc in self.kernel.family()]

    def _freed(self) -> None:
        if self.freed is None:
            self.freed = (self.kernel.now, len(self.kernel.family()))

    # -- who acts ------------------------------------------------------------------------------

    def _be_guardian(self) -> None:
        kernel, machine = self.kernel, self.machine
        self.guardian = guardian = make_guardian(self.parts.guardian)
        try:
            guardian.run()
            machine.guardian_ended = True
        except GuardianDeath:
            machine.close_lock(106)
        if machine.end_record is not None and self.ended_at is None:
            self.ended_at = machine.end_record.at
        process = kernel.procs[GUARDIAN]
        process.end(-9 if kernel.guardian_dead else 0)
        if not kernel.guardian_dead:
            kernel.guardian_dead = True
            machine.close_lock(106)
            for child in tuple(process.children):
                kernel._reparent(child)

    def _be_warden(self) -> None:
        kernel = self.kernel
        if not kernel.warden_dead:
            self.machine.acting = 2
            self.warden.live_on()
        if kernel.warden_dead and not self.run_.released:
            # As `GuardianLink.poll` has it: end of file, and nobody else is left to say it.
            if not self.run_.final:
                self.run_.hear(wire.GuardianLost(code=None, at=kernel.now))
            self.run_.hear(wire.Released(at=kernel.now))
            if self.run_._orphaned:
                self._sweep_marked()

    def _sweep_marked(self) -> None:
        for proc in self.kernel.family():
            if not proc.traits.wiped:
                self.kernel.send(proc, 9)

    def _be_host(self) -> None:
        if self.kernel.host_dead or self.machine.hung_up:
            return  # nobody is left to conclude anything
        if self.run_._over:
            self.outcome = self.run_.conclude()

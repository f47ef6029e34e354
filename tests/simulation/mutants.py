"""Planted faults: each is one mistake that somebody could make, and the simulation must find it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from eventbus_tasks import _runner
from eventbus_tasks._process import climbing, signalling, wire
from eventbus_tasks._process.ladder import Ladder, Rung
from eventbus_tasks.lifecycle import Facts, Input, LifeState, judge
from eventbus_tasks.lifecycle import step as real_step
from eventbus_tasks.outcome import Reason, TaskStatus

from .actors import SimulatedGuardian, SimulatedWarden
from .launching import Launch
from .machine import MACHINE
from .world import Parts, SimulatedRun

__all__ = ["MUTANTS", "Mutant"]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One planted fault.

    Attributes:
        parts: The code under test, with the fault.
        patches: Names in modules that have to be replaced, too.
    """

    parts: Callable[[], Parts]
    patches: tuple[tuple[Any, str, Any], ...] = ()

    @contextlib.contextmanager
    def planted(self) -> Iterator[Parts]:
        """Have the fault in force."""
        with pytest.MonkeyPatch.context() as patch:
            for module, name, value in self.patches:
                patch.setattr(module, name, value)
            yield self.parts()


def _guardian(**methods: Any) -> Callable[[], Parts]:
    return lambda: Parts(guardian=type("Mutant", (SimulatedGuardian,), methods))


def _run(**methods: Any) -> Callable[[], Parts]:
    return lambda: Parts(run=type("Mutant", (SimulatedRun,), methods))


def _ladder(**methods: Any) -> Mutant:
    ladder = type("MutantLadder", (Ladder,), methods)
    return Mutant(Parts, ((climbing, "Ladder", ladder),))


# -- the guardian ---------------------------------------------------------------------------------


def _trusts_leader(self: Any) -> bool:
    """The family has ended when the leader has."""
    if self._return_code is not None and not self._reaped:
        MACHINE.waitpid(self._leader, 0)
        self._reaped = True
    return self._return_code is not None


def _no_sweep(self: Any, now: float) -> None:
    self._leave_or_kill_at = None
    SimulatedGuardian._check_limits(self, now)


def _leader_only(self: Any, rung: Rung) -> bool:
    return SimulatedGuardian._signal(self, Rung(rung.signal, "leader", rung.grace))


def _late_reason(self: Any, reason: str, rungs: tuple[Rung, ...], **more: Any) -> None:
    SimulatedGuardian._stop(self, reason, rungs, **more)
    self._reason = reason


def _ladder_anew(self: Any, reason: str, rungs: tuple[Rung, ...], **more: Any) -> None:
    if self._drain_until is None:
        self._ladder = None
    SimulatedGuardian._stop(self, reason, rungs, **more)


def _forgets_host(self: Any) -> None:
    self._host_lost = True


def _no_drain(self: Any, now: float) -> bool:
    if not self._gone():
        return False
    if not self._ended:
        self._end()
    return True


def _reaps_early(self: Any) -> None:
    before = self._return_code
    SimulatedGuardian._check_leader(self)
    if before is None and self._return_code is not None:
        MACHINE.waitpid(self._leader, 0)
        self._reaped = True


def _signals_dead_group(self: Any, rung: Rung) -> bool:
    if self._leader:
        with contextlib.suppress(OSError):
            MACHINE.killpg(self._leader, rung.signal)
    return SimulatedGuardian._signal(self, rung)


def _wrong_code(self: Any) -> None:
    before = self._return_code
    SimulatedGuardian._check_leader(self)
    if before is None and self._return_code is not None:
        self._return_code = abs(self._return_code)


def _no_timeout(self: Any, now: float) -> None:
    self._time_limit = None
    SimulatedGuardian._check_limits(self, now)


def _deaf_in_spawn(self: Any) -> None:
    if self._report >= 0:
        MACHINE.inbox.clear()
    SimulatedGuardian._read_control(self)


def _forgets_dropped(self: Any, stream: str, start: int, end: int, why: str) -> None: ...


def _never_gives_up(self: Any, now: float) -> bool:
    return False


# -- signals and numbers --------------------------------------------------------------------------


def _by_number_only(pid: int, start_time: int, number: int) -> bool:
    kernel = MACHINE.kernel
    # It looks, and signals a moment later: by then the number may belong to another.
    kernel.now += 0.005
    while kernel.events and kernel.events[0][0] <= kernel.now:
        kernel.step(kernel.now)
    MACHINE.check_alive()
    proc = kernel.procs.get(pid)
    return proc is not None and kernel.send(proc, number)


def _without_continue(pid: int, start_time: int, number: int) -> bool:
    if number == signal.SIGCONT:
        return True
    return MACHINE.signal_process(pid, start_time, number)


# -- the warden -----------------------------------------------------------------------------------


class _ForgetfulWarden(SimulatedWarden):
    """It lets go of the lock of a guardian that was killed, without looking for orphans."""

    def _sweep(self) -> None:
        for charge in self._sweeping:
            self._release(charge)
        self._sweeping.clear()


class _SilentWarden(SimulatedWarden):
    """It says nothing about guardians that were killed."""

    def _tell(self, task: int, message: wire.Message, pipes: Sequence[int] = ()) -> None:
        if not isinstance(message, wire.GuardianLost):
            super()._tell(task, message, pipes)


class _PatientWarden(SimulatedWarden):
    """It sweeps for ever, and names nobody who resists."""

    def _report(self, charge: Any, resisting: Any) -> None:
        charge.report_at = None


class _IdleWarden(SimulatedWarden):
    """It lets guardians hang."""

    def __init__(self) -> None:
        super().__init__()
        self._stand_in.look = self._forget  # type: ignore[method-assign]

    def _forget(self) -> None:
        self._stand_in._watches.clear()
        self._stand_in.next_look = math.inf


class _LateWarden(SimulatedWarden):
    """Told to end, it tells those guardians only that have settled."""

    def _on_terminate(self, *_: Any) -> None:
        everybody = self._guardians
        settled = self._pids.values()
        self._guardians = {pid: one for pid, one in everybody.items() if pid in settled}
        super()._on_terminate()
        self._guardians = everybody


class _HastyWarden(SimulatedWarden):
    """Told to end in the middle of a launch, it launches all the same."""

    _closing = property(lambda _: False, lambda *_: None)


def _blocks_nothing(self: Any, **_: Any) -> None:
    """Signals reach the warden while it forks."""
    self._call()


def _overlooks_the_warden(self: Any) -> None:
    """It begins its ladder at the first rung, whatever the warden has done meanwhile."""
    self._slot.taken = False


# -- the ladder -----------------------------------------------------------------------------------


def _impatient(self: Any, rungs: Any, *, kill_wait: float, now: float) -> None:
    Ladder.__init__(
        self, [Rung(r.signal, r.scope, 0.0) for r in rungs], kill_wait=kill_wait, now=now
    )


def _lengthens(self: Any, rungs: Any, now: float) -> None:
    Ladder.shorten(self, rungs, now)
    self.deadline = now + sum(rung.grace for rung in rungs) + 5.0


def _kills_once(self: Any, now: float) -> Rung | None:
    rung = Ladder.advance(self, now)
    if self._killing_since is not None and not self._rungs:
        self.deadline = now + 1e6
    return rung


def _skips_all(self: Any, now: float) -> Rung | None:
    self._rungs.clear()
    return Ladder.advance(self, now)


# -- lifecycle ------------------------------------------------------------------------------------


def _code_first(facts: Facts) -> tuple[Reason, str]:
    """A clean exit counts more than our own stop."""
    if facts.return_code == 0:
        facts = dataclasses.replace(facts, stop_reason=None)
    return judge(facts)


def _lost_is_fine(facts: Facts) -> tuple[Reason, str]:
    return judge(dataclasses.replace(facts, guardian_lost=False))


def _skips_a_state(state: LifeState, happened: Input, reason: Reason | None = None) -> LifeState:
    if happened is Input.EXECUTED and state.status is TaskStatus.STARTING:
        return dataclasses.replace(state, status=TaskStatus.COMPLETED, reason=Reason.EXITED)
    return real_step(state, happened, reason)


# -- the host -------------------------------------------------------------------------------------


def _second_end(self: Any) -> Any:
    outcome = SimulatedRun.conclude(self)
    self.chronicle.tell(self.events[-1])
    return outcome


def _loses_code(self: Any, message: wire.Ended) -> None:
    SimulatedRun._take_end(self, dataclasses.replace(message, return_code=0))


def _loses_gaps(self: Any, message: Any) -> None:
    if not isinstance(message, wire.Dropped):
        SimulatedRun._take(self, message)


def _warden_is_guardian(self: Any, message: Any) -> None:
    if isinstance(message, wire.WardenLost):
        self._facts = dataclasses.replace(self._facts, guardian_lost=True)
    SimulatedRun._take(self, message)


async def _forgets_the_pipe(self: Any, link: Any) -> None: ...


def _double_number(self: Any, event: Any, **options: Any) -> Any:
    told = SimulatedRun._emit(self, event, **options)
    if event.name == "task.stopping":
        self.chronicle.seq -= 1
    return told


MUTANTS: dict[str, Mutant] = {
    "trusts the leader": Mutant(_guardian(_gone=_trusts_leader)),
    "skips the sweep after an exit": Mutant(_guardian(_check_limits=_no_sweep)),
    "signals the leader only": Mutant(_guardian(_signal=_leader_only)),
    "takes a late reason": Mutant(_guardian(_stop=_late_reason)),
    "begins the ladder anew": Mutant(_guardian(_stop=_ladder_anew)),
    "forgets the host's death": Mutant(_guardian(_lose_host=_forgets_host)),
    "does not drain": Mutant(_guardian(_check_family=_no_drain)),
    "reaps the leader early": Mutant(
        _guardian(_check_leader=_reaps_early, _signal=_signals_dead_group)
    ),
    "reports another exit status": Mutant(_guardian(_check_leader=_wrong_code)),
    "forgets the timeout": Mutant(_guardian(_check_limits=_no_timeout)),
    "loses a stop during the spawn": Mutant(_guardian(_read_control=_deaf_in_spawn)),
    "does not tell lost bytes": Mutant(_guardian(_dropped=_forgets_dropped)),
    "signals by number": Mutant(Parts, ((signalling, "signal_process", _by_number_only),)),
    "continues nobody": Mutant(Parts, ((signalling, "signal_process", _without_continue),)),
    "frees the project before the sweep": Mutant(lambda: Parts(warden=_ForgetfulWarden)),
    "does not tell a lost guardian": Mutant(lambda: Parts(warden=_SilentWarden)),
    "does not name orphans that resist": Mutant(lambda: Parts(warden=_PatientWarden)),
    "lets guardians hang": Mutant(lambda: Parts(warden=_IdleWarden)),
    "does not tell who has not settled": Mutant(lambda: Parts(warden=_LateWarden)),
    "launches after it was told to end": Mutant(lambda: Parts(warden=_HastyWarden)),
    "blocks no signals while it forks": Mutant(Parts, ((Launch, "_mask", _blocks_nothing),)),
    "climbs what the warden has climbed": Mutant(_guardian(_resume=_overlooks_the_warden)),
    "kills before the grace": _ladder(__init__=_impatient),
    "lengthens when it should shorten": _ladder(shorten=_lengthens),
    "kills only once": _ladder(advance=_kills_once),
    "kills at once": _ladder(advance=_skips_all),
    "never gives up": _ladder(given_up=_never_gives_up),
    "calls a stopped task a success": Mutant(Parts, ((_runner, "judge", _code_first),)),
    "overlooks a lost guardian": Mutant(Parts, ((_runner, "judge", _lost_is_fine),)),
    "takes a state that may not follow": Mutant(lambda: Parts(step=_skips_a_state)),
    "ends twice": Mutant(_run(conclude=_second_end)),
    "loses the return code": Mutant(_run(_take_end=_loses_code)),
    "loses gaps": Mutant(_run(_take=_loses_gaps)),
    "takes the warden for the guardian": Mutant(_run(_take=_warden_is_guardian)),
    "leaves bytes in the pipe": Mutant(_run(_rescue=_forgets_the_pipe)),
    "gives a number twice": Mutant(_run(_emit=_double_number)),
}
"""Every planted fault by name."""

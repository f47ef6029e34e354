"""The real guardian and the real warden, made without what they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final

from eventbus_tasks._process.board import Slot
from eventbus_tasks._process.descriptors import PLACES, Descriptors
from eventbus_tasks._process.guardian import Guardian
from eventbus_tasks._process.launch import LaunchRequest
from eventbus_tasks._process.orphans import Ownership
from eventbus_tasks._process.standin import StandIn
from eventbus_tasks._process.warden import Warden, _Charge

from .kernel import GUARDIAN
from .machine import (
    BELL,
    CONTROL,
    HOST,
    LOCK,
    LOG,
    MACHINE,
    PIPE,
    SPEC,
    STDIN,
    WAKE,
    WARDEN_LOCK,
    WARDEN_PIPE,
)
from .standins import OUT


def _nothing(*_: Any) -> None: ...


class SimulatedGuardian(Guardian):
    """The real guardian, prepared without reading a specification from a descriptor."""

    __slots__ = ()

    def _prepare_signals(self) -> None:
        self._wake = WAKE
        if MACHINE.terminated_early:
            self._on_terminate()


_DESCRIPTORS: Final = Descriptors(
    control=CONTROL,
    bell=BELL,
    spec=SPEC,
    stdin=STDIN,
    stdout=LOG,
    host=HOST,
    stdout_pipe=PIPE,
    stdout_end=131,
    lock=LOCK,
    end_record=130,
)


def make_request(given: Iterable[str] = ()) -> LaunchRequest:
    """Return what is asked for in a life, with these descriptors."""
    return LaunchRequest(
        task=1,
        uid="u",
        policy=MACHINE.plan.policy,
        capture="pipe",
        pty_size=(80, 24),
        nofile=None,
        rendezvous=None,
        pipes=("stdout",),
        image=0,
        descriptors=[PLACES[name] for name in given],
    )


def make_guardian(kind: type[Guardian]) -> Guardian:
    """Return a guardian that is about to run."""
    made = kind(_DESCRIPTORS, make_request(), 1024, slot=MACHINE.slot)
    made._warden = MACHINE  # type: ignore[assignment]
    return made


class _Board:
    """A board with one slot."""

    descriptor = 135
    give_back = staticmethod(_nothing)

    def take(self) -> Slot:
        return MACHINE.slot


class _NoForks:
    """No fork server."""

    take = begin = end = reaped = staticmethod(_nothing)


class SimulatedWarden(Warden):
    """The real warden with one guardian."""

    _host = HOST
    _to_warden = SimpleNamespace(fileno=lambda: 132)  # type: ignore[assignment]
    _soft = 1024
    _cgroups = None
    _mounts = SimpleNamespace(all_local=lambda: True)  # type: ignore[assignment]
    _out = OUT  # type: ignore[assignment]
    _board = _Board()  # type: ignore[assignment]

    def __init__(self) -> None:
        self._guardians = {}
        self._pids = {}
        self._stand_in = StandIn(self._tell, _nothing, _nothing)
        self._sweeping = []
        self._ownership = Ownership()
        self._connected = True
        self._closing = False
        self._forks = _NoForks()  # type: ignore[assignment]

    def take_charge(self) -> None:
        """Have the guardian, as a launch leaves it that nothing has happened to."""
        slot, policy = MACHINE.slot, MACHINE.plan.policy
        pipes = [("stdout", WARDEN_PIPE)]
        charge = _Charge(1, "u", policy, [WARDEN_LOCK], slot=slot, pipes=pipes)
        self._guardians[GUARDIAN] = charge
        self._pids[1] = GUARDIAN
        if policy.timeout is not None:
            self._stand_in.watch(GUARDIAN, 1, slot, due=policy.timeout)

    def _hear_guardian(self) -> bool:
        return False  # what it says comes by `announce_ladder`, at once

    def live_on(self) -> None:
        """Do what remains after the guardian's end: the loop of `Warden.run`."""
        kernel = MACHINE.kernel
        while (self._guardians or self._sweeping) and not kernel.warden_dead:
            self._reap()
            if self._sweeping:
                self._sweep()
            if self._sweeping:
                until = kernel.now + self._pause
                while kernel.now < until and not kernel.warden_dead:
                    kernel.step(until)

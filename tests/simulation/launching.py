"""The warden's launch of a guardian, call by call, with a SIGTERM that comes before any of them.

What a launch leaves behind when nothing happens to it is always the same, so that most lives begin
with that (`SimulatedWarden.take_charge`), and only those with such a SIGTERM begin here.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import pytest

from eventbus_tasks._process import warden as warden_module

from .actors import make_request
from .kernel import GUARDIAN
from .machine import BELL, CONTROL, LOG, SPEC, STDIN, WARDEN_LOCK, WARDEN_PIPE, Machine

__all__ = ["CALLS", "Launch"]

CALLS: Final = 24
"""More calls than one launch makes: the signal may also come after the last of them."""

_GIVEN: Final = {
    "control": CONTROL,
    "bell": BELL,
    "spec": SPEC,
    "stdin": STDIN,
    "stdout": LOG,
    "lock": WARDEN_LOCK,
}
_ENDS: Final = ((WARDEN_PIPE, 131), (133, 134))
"""The two pipes of a launch: for the output, and to learn that the guardian has settled."""


class Launch:
    """What the warden calls meanwhile; a signal that is blocked comes as soon as it is not.

    Args:
        machine: Where it happens.
        when: Before which of its calls the signal comes.
        tell: Has the warden handle it.
        waits: Whether there is a guardian that waits for the task; else one is forked.
    """

    pid = GUARDIAN

    def __init__(
        self, machine: Machine, when: int, tell: Callable[[], None], *, waits: bool
    ) -> None:
        self._machine = machine
        self._waits = waits
        self._when = when
        self._tell = tell
        self._calls = 0
        self._ends = iter(_ENDS)
        self._blocked = self._pending = False

    def run(self) -> None:
        """Have the warden carry out a request to launch, which is the real code."""
        machine, warden = self._machine, self._machine.warden
        assert warden is not None
        machine.guardian_lock = False
        stand_ins = {
            "os": SimpleNamespace(
                O_CLOEXEC=0,
                dup=self._dup,
                pipe2=self._pipe,
                fork=self._fork,
                close=self._close,
                kill=machine.kill,
            ),
            "block_handled": lambda: self._mask(blocked=True),
            "unblock_all": lambda: self._mask(blocked=False),
            "socket": SimpleNamespace(socket=lambda fileno: _Control(machine)),
            "select": SimpleNamespace(POLLIN=select.POLLIN, poll=lambda: self),
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in stand_ins.items():
                patch.setattr(warden_module, name, value)
            self._call()
            if self._waits:
                patch.setattr(warden, "_forks", self)
            warden._launch(make_request(_GIVEN), list(_GIVEN.values()), b"")
            self._when = min(self._calls, self._when)
            self._call()

    def _call(self) -> None:
        if self._calls == self._when:
            self._pending = True
        self._calls += 1
        self._deliver()

    def _deliver(self) -> None:
        if self._pending and not self._blocked:
            self._pending = False
            self._tell()

    def _mask(self, *, blocked: bool) -> None:
        self._call()
        self._blocked = blocked
        self._deliver()

    def _fork(self) -> int:
        self._call()
        self._machine.guardian_lock = True
        self._call()  # while it forks
        return GUARDIAN

    def _dup(self, number: int) -> int:
        self._call()
        return number

    def _pipe(self, _: int) -> tuple[int, int]:
        self._call()
        return next(self._ends)

    def _close(self, number: int) -> None:
        self._call()
        self._machine.close(number)

    # The fork server, and the guardian that waits.

    def take(self) -> Launch:
        """Return the guardian."""
        self._call()
        return self

    def give(self, *_: Any, at_once: bool) -> None:
        """Give it the task."""
        assert not at_once
        self._call()
        self._machine.guardian_lock = True
        self._call()  # while it travels

    def settle(self) -> None:
        """Leave it the processor."""
        self._call()

    def end(self) -> None:
        """End it without a task."""
        self._call()

    # The poll of the warden.

    def register(self, _: int, __: int) -> None:
        """Watch what tells that the guardian has settled."""

    def poll(self, _: int) -> None:
        """Wait for that."""
        self._call()


class _Control:
    """The guardian's end of its socket to the host, used by the warden in its place."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __enter__(self) -> _Control:
        return self

    def __exit__(self, *_: object) -> None: ...

    def send(self, message: Any) -> None:
        """Tell the host."""
        self._machine.tell(message)

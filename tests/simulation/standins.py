"""Stand-ins for `os`, `time`, `select` and so on, in the modules of guardian and warden.

What a stand-in does not simulate it refuses by name, so that new system calls do not pass
unnoticed: teach them to `Machine`.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, Final

import pytest

from eventbus_tasks import _chronicle as chronicle
from eventbus_tasks import _runner as runner_module
from eventbus_tasks._process import climbing, orphans, signalling, standin, starting, wire
from eventbus_tasks._process import guardian as guardian_module
from eventbus_tasks._process import warden as warden_module
from eventbus_tasks._process.streams import Streams

from .kernel import Proc
from .machine import CONTROL, MACHINE, PIPE, WOULD_BLOCK


class Poll(dict[Any, int]):
    """`select.poll` of the machine: a mask for each descriptor."""

    register = dict.__setitem__

    def poll(self, timeout: int | None = None) -> list[tuple[int, int]]:
        return MACHINE.wait(self, timeout)


class Control:
    """The guardian's socket to the host."""

    def fileno(self) -> int:
        return CONTROL

    def setblocking(self, _: bool) -> None: ...

    def setsockopt(self, *_: Any) -> None: ...

    def recv(self, _: int, flags: int = 0) -> Any:
        machine = MACHINE
        if machine.inbox:
            return machine.inbox[0] if flags else machine.inbox.popleft()
        if machine.hung_up or machine.kernel.host_dead:
            return b""
        raise WOULD_BLOCK.with_traceback(None)


class Out:
    """The outbox of either: empty, as messages are with the host at once, if it lives."""

    queue = ()

    def send(self, packet: Any, _: Any = ()) -> None:
        machine = MACHINE
        if not machine.kernel.host_dead and not machine.hung_up:
            machine.tell(packet)

    def flush(self) -> bool:
        return False

    def discard(self) -> None: ...


_CONTROL: Final = Control()
OUT: Final = Out()


class Capture:
    """The pipe, the log, and a disk that may be full."""

    stream = "stdout"

    def __init__(self, stream: str, pipe: int, log: int, bell: int, gap: Any, **_: Any) -> None:
        self._gap = gap
        self.size = 0
        self.dropped = 0

    def poll_fd(self, _: float) -> int | None:
        return None if MACHINE.kernel.eof_seen else PIPE

    def deadline(self) -> float | None:
        return None

    def move(self, _: float) -> bool:
        kernel = MACHINE.kernel
        if not kernel.pipe:
            kernel.eof_seen = kernel.eof_seen or kernel.is_eof()
            return False
        size = min(kernel.pipe, 65536)
        kernel.pipe -= size
        if kernel.is_full():
            self._gap(self.stream, self.size, self.size + size, "ENOSPC")
            kernel.dropped += size
            self.dropped += size
        else:
            kernel.logged += size
        self.size += size
        return True

    def take(self) -> bool:
        kernel = MACHINE.kernel
        return bool(kernel.pipe) and not kernel.is_full() and self.move(kernel.now)

    @property
    def finished(self) -> bool:
        return MACHINE.kernel.eof_seen

    def share_pipe(self) -> int | None:
        return PIPE

    def close(self) -> None: ...


def _stand_in(real: ModuleType, **given: Any) -> ModuleType:
    """Return a module with the constants and classes of a real one, and some functions of ours.

    All others are refused when they are called. It is a module because the interpreter finds
    names quicker in there than anywhere else.
    """
    module = ModuleType(real.__name__)
    for name, value in vars(real).items():
        if not name.startswith("__"):
            is_function = callable(value) and not isinstance(value, type)
            setattr(module, name, _refused(real, name) if is_function else value)
    vars(module).update(given)
    return module


def _refused(real: ModuleType, name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{real.__name__}.{name} is not simulated")

    return refuse


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _write_end_record(_: int, __: Any, message: Any, ___: float) -> str | None:
    machine = MACHINE
    machine.check_alive()
    machine.end_record = message
    return "ENOSPC: no space left" if machine.kernel.is_full() else None


def _started(pid: int, start_time: int, executable: str, at: float) -> wire.Started:
    return wire.Started(pid=pid, start_time=start_time, executable=executable, at=at)


def _survivors_of(procs: Iterable[Proc]) -> tuple[wire.Survivor, ...]:
    return tuple([wire.Survivor(pid=p.pid, start_time=p.start_time, command="") for p in procs])


def _open_outputs(_: Any, fds: Any) -> Streams:
    streams = Streams(fds.stdin, [])
    streams.outputs.append(PIPE)
    return streams


def _capture_streams(_: Any, __: Any, fds: Any, gap: Any, ___: Any) -> list[Capture]:
    return [Capture("stdout", PIPE, fds.stdout, fds.bell, gap)]


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Put the stand-ins into the modules."""
    calls: dict[str, Callable[..., Any]] = {
        "close": MACHINE.close,
        "read": MACHINE.read,
        "waitid": MACHINE.waitid,
        "waitpid": MACHINE.waitpid,
        "waitstatus_to_exitcode": os.waitstatus_to_exitcode,
        "killpg": MACHINE.killpg,
        "getpid": MACHINE.getpid,
        "readlink": lambda _: "/bin/program",
    }
    fake_os = _stand_in(os, **calls)
    clock = _stand_in(time, monotonic=MACHINE.now, time=MACHINE.now)
    common = {
        "os": fake_os,
        "time": clock,
        "select": _stand_in(select, poll=Poll),
        "Outbox": lambda _: OUT,
        "survivors_of": _survivors_of,
    }
    climbing_only = {"os": fake_os, "time": clock, "descendants": MACHINE.descendants}
    signalling_only = {
        "os": fake_os,
        "read_process": MACHINE.read_process,
        "signal_process": MACHINE.signal_process,
    }
    # Messages travel as they are: that they survive JSON is a test of the wire.
    guardians_wire = _stand_in(
        wire,
        encode=lambda message: message,
        encode_started=_started,
        decode=lambda data: data,
    )
    guardian_only = {
        "_socket": _stand_in(_socket, socket=lambda *_: _CONTROL),
        "signal": _stand_in(signal, signal=_nothing, set_wakeup_fd=_nothing),
        "children": MACHINE.children,
        "write_end_record": _write_end_record,
        "wire": guardians_wire,
    }
    starting_only = {
        "os": fake_os,
        "time": clock,
        "read_process": MACHINE.read_process,
        "start_leader": MACHINE.start_leader,
        "open_outputs": _open_outputs,
        "capture_streams": _capture_streams,
        "write_end_record": _write_end_record,
        "wire": guardians_wire,
    }
    warden_only = {
        "descendants": MACHINE.descendants,
        "close_all": MACHINE.close_all,
        "unlock_all": MACHINE.close_all,
        "signal_process": MACHINE.signal_process,
        "os": _stand_in(os, **calls, kill=MACHINE.kill),
        "wire": _stand_in(
            wire, encode=lambda message: message, encode_routed=lambda _, message: message
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        for module, names in (
            (guardian_module, {**common, **guardian_only}),
            (starting, starting_only),
            (warden_module, {**common, **warden_only}),
            (climbing, climbing_only),
            (standin, {**climbing_only, "read_process": signalling_only["read_process"]}),
            (signalling, signalling_only),
            (orphans, {"states": MACHINE.states, "read_mark": MACHINE.read_mark}),
        ):
            for name, value in names.items():
                patch.setattr(module, name, value)
        # What a protocol of runtime checks costs is not the subject here.
        patch.setattr(runner_module, "DurableJournal", _NoJournal)
        patch.setattr(chronicle, "History", _nothing)
        patch.setattr(runner_module, "prepare_rescue", lambda *_: MACHINE.rescue)
        yield


class _NoJournal:
    """Nothing is an instance of it."""

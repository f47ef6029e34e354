"""The event bus alone, without a task: what telling something costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks._table import Column, Numbers, Table, Variant


def _each(action: Callable[[], object], seconds: float = 0.4) -> Numbers:
    """Return how long a call takes, in nanoseconds of CPU time."""
    count = 100
    while True:
        began = time.process_time()
        for _ in range(count):
            action()
        took = time.process_time() - began
        if took >= seconds:
            return {"ns": took / count * 1e9}
        count = max(count * 2, int(count * seconds / max(took, 1e-6)))


def _ignore(event: Any) -> None:
    pass


def measure_plain(receivers: int) -> Numbers:
    """Call a list of functions, each in a try block."""
    functions: list[Callable[[Any], None]] = [_ignore] * receivers

    def send() -> None:
        for function in functions:
            try:
                function(None)
            except Exception:  # noqa: BLE001 - what a careful loop does
                pass

    return _each(send)


def measure_blinker(receivers: int) -> Numbers:
    """Send a signal of blinker."""
    import blinker

    signal = blinker.Signal()
    kept = [lambda sender, event, n=n: n for n in range(receivers)]
    for function in kept:
        signal.connect(function)
    return _each(lambda: signal.send(None, event=None))


def measure_pluggy(receivers: int) -> Numbers:
    """Call a hook of pluggy."""
    import pluggy

    spec, implementation = pluggy.HookspecMarker("bench"), pluggy.HookimplMarker("bench")

    class Specification:
        @spec
        def told(self, event: object) -> None: ...

    class Plugin:
        @implementation
        def told(self, event: object) -> None: ...

    manager = pluggy.PluginManager("bench")
    manager.add_hookspecs(Specification)
    for _ in range(receivers):
        manager.register(Plugin())
    return _each(lambda: manager.hook.told(event=None))


def measure_bus(receivers: int, *, blinker: bool = False) -> Numbers:
    """Emit an event on the bus of an engine."""
    from eventbus_tasks import SignalSent, TaskRef
    from eventbus_tasks._bus import Bus

    bus = Bus()
    kept = [lambda sender, event, n=n: n for n in range(receivers)]
    for function in kept:
        if blinker:
            bus.signal(SignalSent).blinker.connect(function)
        else:
            bus.signal(SignalSent).connect(_ignore)
    ref = TaskRef(id=1, uid="u", name="n", agent="command", project_dir="/")
    event = SignalSent(task=ref, seq=1, at=datetime.now(UTC), signal=15, pids=())
    return _each(lambda: bus.emit(event))


def tables(quick: bool) -> list[Table]:
    """Return the tables of this module."""
    counts = (0, 1, 10)
    ways: list[tuple[str, Callable[..., Numbers], dict[str, Any]]] = [
        ("list of functions", measure_plain, {}),
        ("blinker", measure_blinker, {}),
        ("pluggy", measure_pluggy, {}),
        ("engine's bus", measure_bus, {}),
        ("engine's bus, receivers of blinker", measure_bus, {"blinker": True}),
    ]
    return [
        Table(
            title="One event, without a task",
            variants=[
                Variant(
                    label=f"{label}, {count}",
                    function=function,
                    arguments={"receivers": count, **options},
                    baseline=function is not measure_bus,
                )
                for label, function, options in ways
                for count in counts
            ],
            columns=[
                Column(key="ns", title="CPU, ns", digits=0),
                Column(key="ns", title="of blinker's with one", ratio_to="blinker, 1", digits=2),
            ],
        )
    ]

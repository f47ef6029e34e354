"""One task that writes as fast as it can: how fast, and for how much of the host's time."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks._load import engine, origin, producer
from benchmarks._table import Column, Numbers, Table, Variant

MIB: Final = 1 << 20


class _Watch:
    """Time and own CPU time since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu = self._own()
        self._handed_out: float | None = None

    @staticmethod
    def _own() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def handed_out(self) -> None:
        """Say that whoever receives has had everything; what follows is the end only."""
        self._handed_out = time.perf_counter() - self._began

    def numbers(self, size: int, total: int) -> Numbers:
        took = time.perf_counter() - self._began
        lines = total // size
        return {
            "handed out": lines / (self._handed_out or took) / 1e6,
            "mlines": lines / took / 1e6,
            "mbytes": lines * size / took / 1e6,
            "cpu": (self._own() - self._cpu) / lines * 1e9,
        }


def measure_raw(size: int, total: int) -> Numbers:
    """Read a pipe with the plainest loop."""
    import os

    watch = _Watch()
    with subprocess.Popen(producer(size, total), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while os.read(process.stdout.fileno(), 65536):
            pass
    return watch.numbers(size, total)


def measure_shell(size: int, total: int, *, way: str) -> Numbers:
    """Let a shell do it: ``cat`` into a file, or a file that is counted, or durable, afterwards."""
    script = {
        "cat": '"$@" | cat > file',
        "wc": '"$@" > file; wc -l file',
        "sync": '"$@" > file; sync file',
    }[way]
    watch = _Watch()
    subprocess.run(
        ["sh", "-c", script, "sh", *producer(size, total)], stdout=subprocess.DEVNULL, check=True
    )
    return watch.numbers(size, total)


def measure_origin(size: int, total: int, *, receivers: int) -> Numbers:
    """Use asyncio's `readline`, a deque, and callbacks that are awaited."""
    import asyncio

    async def callback(line: str) -> None:
        pass

    async def main() -> Numbers:
        watch = _Watch()
        await origin(producer(size, total), [callback] * receivers)
        return watch.numbers(size, total)

    return asyncio.run(main())


def measure_anyio(size: int, total: int, *, backend: str, split: bool) -> Numbers:
    """Use the process streams of anyio, a chunk at a time."""
    import anyio

    async def main() -> Numbers:
        watch = _Watch()
        rest = b""
        async with await anyio.open_process(producer(size, total), stderr=None) as process:
            assert process.stdout is not None
            async for chunk in process.stdout:
                if split:
                    lines = (rest + chunk).decode("utf-8", "replace").split("\n")
                    rest = lines.pop().encode()
        return watch.numbers(size, total)

    return anyio.run(main, backend=backend)


def _receiver(kind: str) -> Callable[[Any], None]:
    def data(event: Any) -> None:
        event.data  # noqa: B018 - it is read from the log

    def lines(event: Any) -> None:
        for _ in event.lines:
            pass

    def line(event: Any) -> None:
        pass

    return {"data": data, "lines": lines, "line": line}[kind]


def measure_engine(
    size: int,
    total: int,
    *,
    kind: str = "none",
    receivers: int = 0,
    backend: str = "asyncio",
    uvloop: bool = False,
    disk: bool = False,
    capture: str = "pipe",
) -> Numbers:
    """Run it as a task, with receivers of one kind; the whole output is in a file at the end."""
    import anyio

    async def main() -> Numbers:
        async with engine(disk=disk) as running:
            signals = running.signals
            signal = signals.output_line if kind == "line" else signals.output_received
            for _ in range(receivers):
                # A function of its own for each: nothing can be shared by accident.
                signal.connect(_receiver(kind))
            argv = producer(size, total)
            watch = _Watch()
            task = await running.spawn_task("flood", argv=argv, project_dir=".")
            while task.output.size() < total // size * size:  # noqa: ASYNC110
                await anyio.sleep(0.002)
            watch.handed_out()
            outcome = await task.wait()
            numbers = watch.numbers(size, total)
            assert outcome.reason.value == "exited", outcome
            assert task.output.size() == total // size * size
            return numbers

    options = {"use_uvloop": True} if uvloop else {}
    return anyio.run(main, backend=backend, backend_options=options)


_ORIGIN: Final = "origin, 1 callback"
_COUNTED: Final = "producer > file; wc -l file"
_COLUMNS: Final = (
    Column(key="handed out", title="M lines/s, all handed out", digits=2),
    Column(key="handed out", title="/ origin", ratio_to=_ORIGIN),
    Column(key="mlines", title="M lines/s, end told", digits=2),
    Column(key="mlines", title="/ origin", ratio_to=_ORIGIN),
    Column(key="mlines", title="/ origin without callback", ratio_to="origin, 0 callbacks"),
    Column(key="mbytes", title="MB/s", digits=0),
    Column(key="mbytes", title="/ file; wc", ratio_to=_COUNTED, digits=2),
    Column(key="cpu", title="host CPU, ns/line", digits=0),
    Column(key="cpu", title="CPU gain on origin", ratio_to=_ORIGIN, inverse=True),
)


def _rows(size: int, scale: float, *, full: bool) -> list[Variant]:
    def amount(mib: float) -> dict[str, Any]:
        return {"size": size, "total": int(mib * MIB * scale)}

    def ours(label: str, mib: float, **options: Any) -> Variant:
        return Variant(label=label, function=measure_engine, arguments={**amount(mib), **options})

    slow = 1 if size <= 80 else 8
    rows = [
        Variant(label="origin, 0 callbacks", function=measure_origin, baseline=True,
                arguments={**amount(60 * slow), "receivers": 0}),
        Variant(label=_ORIGIN, function=measure_origin, baseline=True,
                arguments={**amount(60 * slow), "receivers": 1}),
        Variant(label="raw read of a pipe", function=measure_raw, baseline=True,
                arguments=amount(1000)),
        Variant(label="cat > file", function=measure_shell, baseline=True,
                arguments={**amount(1000), "way": "cat"}),
        Variant(label=_COUNTED, function=measure_shell, baseline=True,
                arguments={**amount(1000), "way": "wc"}),
        Variant(label="producer > file; sync file", function=measure_shell, baseline=True,
                arguments={**amount(1000), "way": "sync"}),
        ours("no receiver", 1000),
        ours("1 receiver of .data", 1000, kind="data", receivers=1),
        ours("1 receiver of .lines", 400, kind="lines", receivers=1),
        ours("1 receiver of OutputLine", 100 * slow, kind="line", receivers=1),
    ]  # fmt: skip
    if full:
        rows[2:2] = [
            Variant(label="origin, 10 callbacks", function=measure_origin, baseline=True,
                    arguments={**amount(20 * slow), "receivers": 10}),
            Variant(label="anyio streams, asyncio", function=measure_anyio, baseline=True,
                    arguments={**amount(200), "backend": "asyncio", "split": False}),
            Variant(label="anyio streams, asyncio, split", function=measure_anyio, baseline=True,
                    arguments={**amount(200), "backend": "asyncio", "split": True}),
            Variant(label="anyio streams, trio, split", function=measure_anyio, baseline=True,
                    arguments={**amount(200), "backend": "trio", "split": True}),
        ]  # fmt: skip
        rows += [
            ours("10 receivers of .data", 400, kind="data", receivers=10),
            ours("10 receivers of .lines", 100, kind="lines", receivers=10),
            ours("10 receivers of OutputLine", 40 * slow, kind="line", receivers=10),
        ]
    loops: dict[str, dict[str, Any]] = {"disk plugin": {"disk": True}, "trio": {"backend": "trio"}}
    if full:
        loops["uvloop"] = {"uvloop": True}
    kinds = {"data": 1000, "lines": 400, "line": 100 * slow}
    for loop, options in loops.items():
        rows.append(ours(f"no receiver, {loop}", 1000, **options))
        rows += [
            ours(f"1 receiver of {name}, {loop}", kinds[kind], kind=kind, receivers=1, **options)
            for kind, name in (("data", ".data"), ("lines", ".lines"), ("line", "OutputLine"))
        ]
    return rows


def tables(quick: bool) -> list[Table]:
    """Return the tables of this module."""
    scale = 0.2 if quick else 1.0
    return [
        Table(
            title=f"Streaming, lines of {size:,} bytes",
            variants=_rows(size, scale, full=size == 80 and not quick),
            columns=_COLUMNS,
        )
        for size in ((80,) if quick else (80, 20, 2000))
    ]

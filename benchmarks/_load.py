"""Programs that write, and the origin's way to read them."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

PYTHON: Final = [sys.executable, "-I", "-S", "-c"]

_PRODUCER: Final = """\
import os, sys, time
size, total = map(int, sys.argv[1:3])
began = time.monotonic()
line = bytes(97 + i % 26 for i in range(size - 1)) + b"\\n"
block = line * max(1, 262144 // size)
while total > 0:
    part = block[:total]
    total -= len(part)
    while part:
        part = part[os.write(1, part):]
if sys.argv[3:]:
    with open(sys.argv[3], "w") as file:
        file.write(str(time.monotonic() - began))
"""

_TICKER: Final = """\
import os, sys, time
rate, seconds = map(float, sys.argv[1:])
began = time.monotonic()
count = 0
while (now := time.monotonic()) < began + seconds:
    os.write(1, b"%.6f %s\\n" % (now, b"x" * 62))
    count += 1
    time.sleep(max(0.0, began + count / rate - time.monotonic()))
"""


def producer(size: int, total: int, seconds: str = "") -> list[str]:
    """Return a command that writes `total` bytes in lines of `size` bytes, as fast as it can.

    Args:
        size: Of each line.
        total: Of all of them.
        seconds: A file, into which it writes how long it took.
    """
    return [*PYTHON, _PRODUCER, str(size), str(total // size * size), *([seconds] * bool(seconds))]


def ticker(rate: float, seconds: float) -> list[str]:
    """Return a command that writes `rate` lines a second, each beginning with the time."""
    return [*PYTHON, _TICKER, str(rate), str(seconds)]


async def origin(argv: list[str], callbacks: list[Callable[[str], Awaitable[None]]]) -> int | None:
    """Read a program line by line on asyncio, as the origin of this project did."""
    import asyncio
    from collections import deque

    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    lines: deque[str] = deque(maxlen=1000)
    assert process.stdout is not None
    while True:
        line = await process.stdout.readline()
        if not line:
            break
        text = line.decode("utf-8", "replace").rstrip("\n")
        lines.append(text)
        for callback in callbacks:
            await callback(text)
    return await process.wait()


def engine(*, disk: bool = False, **settings: Any) -> Any:
    """Return an engine that asks no installed plugin but, on request, the disk plugin."""
    from dataclasses import replace

    from eventbus_tasks import Settings, TaskEngine

    plugins: Mapping[str, object] = {}
    if disk:
        import eventbus_tasks_disk

        plugins = {"disk": eventbus_tasks_disk}
    return TaskEngine(replace(Settings.load(), **settings), plugins=plugins, load_installed=False)

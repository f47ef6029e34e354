"""The origin's world: an agent whose prompts are scripts, one manager, and eyes for processes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from eventbus_tasks import TaskManager

AGENT: Final = Path(__file__).parent / "agent"

PATIENCE: Final = 30.0
"""Seconds until something that does not come is given up; nothing is ever measured by it."""


@dataclass(frozen=True)
class Process:
    """One process for ever: a number alone is used again."""

    pid: int
    start_time: int

    @property
    def alive(self) -> bool:
        """Whether it can still run."""
        fields = stat_of(self.pid)
        return bool(fields) and int(fields[19]) == self.start_time and fields[0] not in "ZX"

    @property
    def leads_session(self) -> bool:
        """Whether it has a session of its own."""
        fields = stat_of(self.pid)
        return bool(fields) and int(fields[3]) == self.pid


def stat_of(pid: int) -> list[str]:
    """Return what the kernel says about a process, from its state on; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


class Eyes:
    """Looks at the machine from outside of the code that is tested."""

    def until(self, condition: Callable[[], object]) -> None:
        """Look until something is true, without a loop: for what no descriptor tells."""
        limit = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < limit, "it did not become true"
            time.sleep(0.005)

    def processes(self, file: Path, count: int) -> list[Process]:
        """Wait until `count` running processes have written their numbers into a file."""
        self.until(lambda: file.exists() and len(file.read_text().split()) >= count)
        found = []
        for word in file.read_text().split():
            fields = stat_of(int(word))
            assert fields, f"process {word} is gone already"
            found.append(Process(int(word), int(fields[19])))
        return found

    def belongings(self) -> dict[str, set[str]]:
        """Return the children, descriptors and engine threads that this process has now."""
        descriptors = set()
        for number in os.listdir("/proc/self/fd"):
            try:
                descriptors.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
            except OSError:  # the one that lists the directory
                continue
        threads = {t.name for t in threading.enumerate() if t.name.startswith("eventbus-tasks")}
        return {"children": _children(), "descriptors": descriptors, "threads": threads}


def _children() -> set[str]:
    threads = Path("/proc/self/task")
    while True:
        try:
            return {pid for t in threads.iterdir() for pid in (t / "children").read_text().split()}
        except FileNotFoundError:
            continue  # a thread has ended meanwhile, and another one has its children now


@pytest.fixture
def eyes() -> Eyes:
    """Look at the machine from outside."""
    return Eyes()


@pytest.fixture(autouse=True)
def scripted_agent(private_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the scripted agent, and nothing else, here and in other processes."""
    monkeypatch.syspath_prepend(str(AGENT))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("EBT_PLUGINS", "scripted")
    monkeypatch.setenv("EBT_RECEIVER_DEADLINE", "0.5")  # for handlers that never return
    yield
    sys.modules.pop("scripted_agent", None)


@pytest.fixture(autouse=True)
def first_use(scripted_agent: None) -> Iterator[None]:
    """Let each test be the first one that uses the manager."""
    TaskManager._instance = None
    yield
    if TaskManager._instance is not None:  # a test without a loop, or one that has failed
        asyncio.run(TaskManager.reset())


@pytest.fixture
async def tm(first_use: None, anyio_backend_name: str) -> AsyncIterator[TaskManager]:
    """Give out the manager as the origin's users have it; trio needs the block around it."""
    if anyio_backend_name == "trio":
        async with TaskManager() as manager:
            yield manager
    else:
        manager = TaskManager()
        yield manager
    await TaskManager.reset()
    for task in manager.get_all_tasks():
        manager.cleanup_task(task.id)  # the test may still hold it, and with it a log


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project directory."""
    path = tmp_path / "project"
    path.mkdir()
    return path

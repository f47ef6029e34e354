"""Nothing left to start with: no process, no thread, no memory. A clear reason, and no leak."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

STRANGER = 54_321
"""A user who has nothing else, so that nobody else's processes count; root is not limited."""

AS_STRANGER = [
    "setpriv",
    f"--reuid={STRANGER}",
    f"--regid={STRANGER}",
    "--clear-groups",
    # What is tested may be installed where only its owner gets.
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
]

HOST = """
import contextlib, errno, functools, json, os, resource, sys, threading
import anyio
from eventbus_tasks import Reason, ResourceError, TaskEngine
from eventbus_tasks._process.family import children
from eventbus_tasks.testing import leak_guard

project = os.getcwd()


def used():
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def below(pid):
    # Fork server and waiting guardian have the limits of their warden.
    return () if pid == os.getpid() else children(pid)


def size_of(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def limited(pid, kind, size):
    before = resource.prlimit(pid, kind)
    for one in (pid, *below(pid)):
        resource.prlimit(one, kind, (size, before[1]))
    try:
        yield
    finally:
        for one in (pid, *below(pid)):
            resource.prlimit(one, kind, before)


async def works(engine):
    task = await engine.spawn_task("works", argv=["true"], project_dir=project)
    outcome = await task.wait()
    assert outcome.reason is Reason.EXITED, outcome


async def attempt(engine):
    try:
        task = await engine.spawn_task(
            "t", argv=["true"], project_dir=project, when_busy="share"
        )
    except ResourceError as error:
        return f"refused: {errno.errorcode[error.errno]}"
    outcome = await task.wait()
    return f"{outcome.reason}: {outcome.message}"


async def together(engine, count):
    found = []

    async def run():
        found.append(await attempt(engine))

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(run)
    return found


async def without_idle_threads(engine, count):
    released = threading.Event()
    pool = engine.plugins._pool
    hold = functools.partial(pool.run, released.wait, deadline=60)
    async with anyio.create_task_group() as group:
        for _ in tuple(pool._idle):
            group.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
        try:
            return await together(engine, count)
        finally:
            released.set()


async def main():
    found = {}
    with leak_guard():
        async with TaskEngine(load_installed=False) as engine:
            await works(engine)
            warden = engine._warden.pid
            found["warden"] = []
            for more in range(-1, 4):  # a guardian is there already
                with limited(warden, resource.RLIMIT_NPROC, used() + more):
                    found["warden"].append(await attempt(engine))
                await works(engine)
            with limited(os.getpid(), resource.RLIMIT_NPROC, 1):
                found["threads"] = await without_idle_threads(engine, 8)
            await works(engine)
            threading.stack_size(64 << 20)  # much more than anything that may be freed meanwhile
            with limited(os.getpid(), resource.RLIMIT_AS, size_of(os.getpid()) + 4_000_000):
                found["memory"] = await without_idle_threads(engine, 16)
            await works(engine)
            found["guardian"] = []
            for more in (0, 100_000, 1_000_000, 50_000_000):
                with limited(warden, resource.RLIMIT_AS, size_of(warden) + more):
                    found["guardian"].append(await attempt(engine))
                await works(engine)
            os.kill(warden, 9)
            while not engine._warden.lost:
                await anyio.sleep(0.005)
            with limited(os.getpid(), resource.RLIMIT_NPROC, 1):
                found["no warden"] = [await attempt(engine)]
            await works(engine)
    print(json.dumps(found))


anyio.run(main, backend=sys.argv[1])
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the stranger can reach and owns."""
    with tempfile.TemporaryDirectory(prefix="ebt-stranger-") as name:
        (Path(name) / "project").mkdir()
        for each in (name, f"{name}/project"):
            os.chown(each, STRANGER, STRANGER)
        yield Path(name)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_no_process_thread_or_memory_is_left(place: Path, backend: str) -> None:
    """Each refusal is a ResourceError or `spawn_failed` with its reason; then all works again."""
    environment = {**os.environ, "HOME": str(place), "EBT_STATE_DIR": str(place / "state")}
    command = [*AS_STRANGER, sys.executable, "-c", HOST, backend]
    run = subprocess.run(
        command, cwd=place / "project", env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    again = os.strerror(errno.EAGAIN)
    assert found["warden"][-1].startswith("exited"), found
    for said in found["warden"][:2]:
        assert said.startswith("spawn_failed"), found
        assert again in said, found
    for kind in ("threads", "memory", "no warden"):
        for said in found[kind]:
            assert said == "refused: EAGAIN" or said.startswith(("exited", "spawn_failed")), found
    for said in found["guardian"]:
        assert said.startswith(("exited", "spawn_failed", "signalled", "exit_code")), found
    assert "refused: EAGAIN" in found["threads"]
    assert "refused: EAGAIN" in found["memory"]
    assert found["no warden"][0].startswith("spawn_failed"), found

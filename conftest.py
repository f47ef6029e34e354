"""What every test of the repository has, the plugins' included: backends, limits, guards."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import hypothesis
import pytest

try:
    import uvloop
except ImportError:  # there is none for this Python yet
    uvloop = None  # type: ignore[assignment,unused-ignore]

# ------------------------------------------------------------------------------------- backends

BACKENDS: Final = [
    pytest.param(("asyncio", {"debug": True}), id="asyncio"),
    pytest.param(
        ("asyncio", {"loop_factory": getattr(uvloop, "new_event_loop", None)}),
        id="uvloop",
        marks=pytest.mark.skipif(uvloop is None, reason="uvloop is not installed"),
    ),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each test that is marked `anyio` on every event loop that we promise."""
    return request.param


# ------------------------------------------------------------------------------------- signals

# Whoever starts the tests in the background of a shell, or with `nohup`, has us ignore these, and
# every process of the tests would inherit it: a Ctrl-C of a test would reach nobody.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

# ----------------------------------------------------------------------------------- hypothesis

# Deadlines measure the machine, not the code. `ci` finds the same examples every time, so that a
# red run is about the change; finding new ones is the work of `dev` and `nightly`.
_COMMON: Final[dict[str, Any]] = {"deadline": None, "print_blob": True}
hypothesis.settings.register_profile("dev", max_examples=30, stateful_step_count=15, **_COMMON)
hypothesis.settings.register_profile(
    "ci", max_examples=50, stateful_step_count=30, derandomize=True, database=None, **_COMMON
)
hypothesis.settings.register_profile(
    "nightly", max_examples=1000, stateful_step_count=50, **_COMMON
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)

# --------------------------------------------------------------------------------------- limits

TIME_LIMIT: Final = 60.0
"""Seconds for one async test: guards against a hang, sized for a slow, busy machine."""


def _limited(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run_within_limit(*args: Any, **kwargs: Any) -> Any:
        with anyio.move_on_after(seconds):
            return await function(*args, **kwargs)
        pytest.fail(f"the test did not end within {seconds:g} seconds")

    return run_within_limit


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Turn the hang of an async test into the failure of that test, on every backend."""
    marker = pyfuncitem.get_closest_marker("time_limit")
    seconds = float(marker.args[0]) if marker else TIME_LIMIT
    given = getattr(pyfuncitem.obj, "hypothesis", None)
    if given is not None:
        # Each example has the limit. anyio replaces a coroutine function here by a plain one, which
        # still holds ours when the test runs on the next backend.
        if inspect.iscoroutinefunction(given.inner_test):
            given.inner_test = _limited(given.inner_test, seconds)
    elif inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = _limited(pyfuncitem.obj, seconds)
    return (yield)


# --------------------------------------------------------------------------------------- guards

PATIENCE: Final = 5.0
"""Seconds that a process, thread or descriptor may take to go after the test has ended."""

if uvloop is not None:
    # libuv opens a pipe with the first loop of a process and keeps it: no leak of the first test.
    uvloop.new_event_loop().close()

POOL_THREADS: Final = ("AnyIO worker thread", "Trio thread")
"""Idle workers that the libraries keep for the next call; they hold nothing."""


@pytest.fixture(autouse=True)
def private_state() -> Iterator[Path]:
    """Give each test its own state directory, and hide the settings of whoever runs the tests.

    Not `tmp_path`: its long name would not leave enough of the 107 bytes of a socket's path.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ebt-", ignore_cleanup_errors=True) as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        for variable in [key for key in os.environ if key.startswith("EBT_")]:
            patch.delenv(variable)
        patch.setenv("EBT_STATE_DIR", f"{name}/state")
        patch.setenv("XDG_CONFIG_HOME", f"{name}/config")
        # Whether groups were delegated to whoever runs the tests must not change what they prove;
        # tests of groups make their own (`cgroup_base`).
        patch.setenv("EBT_CGROUP", "off")
        yield Path(name)


@dataclass(frozen=True)
class _Belongings:
    """What the test process has: by name, so that a failure can say what is left."""

    children: frozenset[str]
    descriptors: frozenset[str]
    threads: frozenset[str]

    @classmethod
    def now(cls) -> _Belongings:
        return cls(
            frozenset(f"{pid}: {_command(pid)}" for pid in _children()),
            frozenset(_descriptors()),
            frozenset(
                f"{thread.ident}: {thread.name}"
                for thread in threading.enumerate()
                if not thread.name.startswith(POOL_THREADS)
            ),
        )

    def new_since(self, before: _Belongings) -> dict[str, list[str]]:
        found = {
            "processes": self.children - before.children,
            "descriptors": self.descriptors - before.descriptors,
            "threads": self.threads - before.threads,
        }
        return {kind: sorted(items) for kind, items in found.items() if items}


def _children() -> Iterator[int]:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # that thread has just ended
            yield from map(int, Path(f"/proc/self/task/{thread}/children").read_text().split())


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        line = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
        return line.strip()[:200] or "(zombie)"
    return "(gone)"


def _descriptors() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the directory
            yield f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}"


def _marked_processes(state: Path) -> list[int]:
    """Return every process on the machine whose environment names the test's own directory.

    So also what has left the family: adopted by PID 1, in a session of its own.
    """
    mark = os.fsencode(f"{state}/")
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # gone, or somebody else's
                if mark in Path(f"/proc/{name}/environ").read_bytes():
                    found.append(int(name))
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(private_state: Path) -> Iterator[None]:
    """Fail a test that leaves a process, descriptor, thread or environment variable behind."""
    environment = _environment()
    before = _Belongings.now()
    yield
    deadline = time.monotonic() + PATIENCE
    pause = 0.001
    while True:
        left = _Belongings.now().new_since(before)
        strangers = _marked_processes(private_state)
        if strangers:
            left["processes of tasks"] = [f"{pid}: {_command(pid)}" for pid in strangers]
        if not left or time.monotonic() > deadline:
            break
        # 50 ms, so only when there is something to find; again each time, because what a frame
        # that is just ending still holds, is free a moment later.
        gc.collect()
        time.sleep(pause)
        pause = min(pause * 2, 0.25)
    # They must not become the next test's trouble.
    for pid in {*strangers, *(int(item.split(":")[0]) for item in left.get("processes", ()))}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    changed = sorted({key for key, _ in _environment().items() ^ environment.items()})
    if changed:
        left["environment variables"] = changed
    if left:
        lines = [f"  {kind}:\n    " + "\n    ".join(items) for kind, items in left.items()]
        pytest.fail("the test left something behind:\n" + "\n".join(lines), pytrace=False)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}


@pytest.fixture
def no_blocking_calls() -> Iterator[None]:
    """Make calls that block an asyncio or uvloop loop fail. Sees nothing on trio."""
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx():
        yield


@pytest.fixture
def cgroup_base() -> Iterator[Path]:
    """Make a control group (v2) of the test's own; skip the test where none may be made."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split()[4] for line in file if " - cgroup2 " in line]
    base = Path(mounts[0] if mounts else "/nowhere") / f"test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        base.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield base
    for name in sorted(base.rglob("*"), reverse=True):
        if name.is_dir():
            name.rmdir()
    with contextlib.suppress(FileNotFoundError):
        base.rmdir()

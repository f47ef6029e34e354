"""Starting ``ebt`` as people do: as a process of its own, at pipes or at a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

PATIENCE: Final = 40.0
"""Seconds after which a test gives up: guards against a hang."""


class Ebt:
    """One running ``ebt``.

    Attributes:
        process: The process.
        out: Descriptor from which its standard output is read: a pipe, or a terminal.
        seen: What was read from it.
    """

    def __init__(
        self, arguments: list[str], directory: Path, *, terminal: bool, environ: dict[str, str]
    ) -> None:
        self.seen = b""
        if terminal:
            self.out, inner = os.openpty()
        else:
            self.out, inner = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "eventbus_tasks", *arguments],
            cwd=directory,
            env={**os.environ, **environ},
            stdin=inner if terminal else subprocess.DEVNULL,
            stdout=inner,
            stderr=subprocess.PIPE,
            preexec_fn=_become_foreground if terminal else _take_default_signals,  # noqa: PLW1509
        )
        os.close(inner)

    def read_until(self, wanted: bytes, count: int = 1) -> bytes:
        """Read standard output until something has come so many times."""
        deadline = time.monotonic() + PATIENCE
        while self.seen.count(wanted) < count:
            if not self._read(deadline):
                raise AssertionError(f"ended without {wanted!r}: {self.seen!r}")
        return self.seen

    def read_lines(self, count: int) -> list[str]:
        """Read standard output until there are some complete lines; return them."""
        deadline = time.monotonic() + PATIENCE
        while self.seen.count(b"\n") < count:
            if not self._read(deadline):
                raise AssertionError(f"ended without {count} lines: {self.seen!r}")
        return self.seen.decode().splitlines()[:count]

    def read_message(self, wanted: str) -> None:
        """Read standard error until something was said."""
        stream = self.process.stderr
        assert stream is not None
        for line in stream:
            if wanted in line.decode():
                return
        raise AssertionError(f"ended without {wanted!r}")

    def close_output(self) -> None:
        """Go away, as `head` does."""
        os.close(self.out)
        self.out = -1

    def wait(self) -> tuple[int, str]:
        """Read to the end; return exit code and the rest of standard error."""
        deadline = time.monotonic() + PATIENCE
        while self.out >= 0 and self._read(deadline):
            pass
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors.decode()

    def signal(self, number: int) -> None:
        """Send a signal to it alone."""
        self.process.send_signal(number)

    def end(self) -> None:
        """Release everything."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        if self.out >= 0:
            self.close_output()

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.out], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"nothing came any more: {self.seen[-1000:]!r}")
        try:
            data = os.read(self.out, 65536)
        except OSError:  # a terminal whose last user has gone
            data = b""
        self.seen += data
        return bool(data)


def _take_default_signals() -> None:
    # What starts the tests may ignore them (a shell's `&`), and ebt would go on ignoring them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _become_foreground() -> None:
    _take_default_signals()
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return an empty project directory."""
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


StartEbt = Callable[..., Ebt]


@pytest.fixture
def ebt(project: Path) -> Iterator[StartEbt]:
    """Return a function that starts ``ebt`` with some arguments in the project."""
    started: list[Ebt] = []

    def start(
        *arguments: str, terminal: bool = False, environ: dict[str, str] | None = None
    ) -> Ebt:
        running = Ebt(list(arguments), project, terminal=terminal, environ=environ or {})
        started.append(running)
        return running

    yield start
    for running in started:
        running.end()


class Gate:
    """Lets a shell script go on: it waits at ``read x < "$GATE"``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # For reading, too, so that it opens at once, and the script's end never sees its end.
        self._descriptor = os.open(path, os.O_RDWR)

    @property
    def wait(self) -> str:
        """What a shell script says to wait."""
        return f"read x < '{self.path}'"

    def open(self) -> None:
        """Let one waiting script go on."""
        os.write(self._descriptor, b"go\n")

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Return a gate for shell scripts."""
    made = Gate(tmp_path / "gate")
    yield made
    made.close()


@pytest.fixture
def make_plugin(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that puts a distribution with a plugin where Python finds it.

    The function takes the name of the plugin, its source, and the name of a command that starts
    quickly if there is one; it returns the variables with which the plugin is installed.
    """
    site = tmp_path / "site"

    def make(name: str, source: str, quick: str = "") -> dict[str, str]:
        module = f"ebt_fake_{name}"
        info = site / f"{module}-1.2.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: ebt-fake-{name}\nVersion: 1.2\n"
        )
        points = f"[eventbus_tasks]\n{name} = {module}\n"
        if quick:
            points += f"[eventbus_tasks.commands]\n{quick} = {module}:configure\n"
        (info / "entry_points.txt").write_text(points)
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
        return {"PYTHONPATH": path}

    return make


def is_alive(pid: int) -> bool:
    """Whether there is a process of that number, a zombie included."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Return a function that says whether a process is there."""
    return is_alive

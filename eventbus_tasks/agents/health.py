"""Whether an agent can work: its program, its version, what is wrong with it, and its login."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eventbus_tasks.agents.building import find_program
from eventbus_tasks.errors import InvalidRequestError
from eventbus_tasks.lines import decode_line

__all__ = ["AgentHealth", "KnownBug", "check_program", "parse_version", "started_program"]

_PATIENCE: Final = 20.0
"""Seconds for a program to say its version: node on a loaded machine takes up to ten."""

_VERSION: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?[\w.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHealth:
    """What is known about one agent on this machine, without asking its model anything.

    Attributes:
        agent: The agent.
        program: Its program as an absolute path, or ``""`` if there is none.
        version: What the program says, or ``""``.
        logged_in: Whether it can ask its model; ``None`` if that cannot be told for nothing.
        login: By what: the name of a variable, or a file.
        problems: What keeps it from working, one sentence each.
        known_bugs: What is wrong with this version, one sentence each; it works all the same.
    """

    agent: str
    program: str = ""
    version: str = ""
    logged_in: bool | None = None
    login: str = ""
    problems: tuple[str, ...] = ()
    known_bugs: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is known that keeps it from working."""
        return bool(self.program) and not self.problems and self.logged_in is not False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "agent": self.agent,
            "ok": self.ok,
            "program": self.program,
            "version": self.version,
            "logged_in": self.logged_in,
            "login": self.login,
            "problems": list(self.problems),
            "known_bugs": list(self.known_bugs),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBug:
    """Something that is wrong with some versions of an agent.

    Attributes:
        what: What it does, in one sentence.
        since: The first version that does it; empty: every one before `fixed`.
        fixed: The first version that does not; empty: none yet.
    """

    what: str
    since: str = ""
    fixed: str = ""

    def concerns(self, version: str) -> bool:
        """Whether a version has it. One that cannot be read has none."""
        found = parse_version(version)
        if found is None:
            return False
        since, fixed = parse_version(self.since), parse_version(self.fixed)
        return (since is None or found >= since) and (fixed is None or found < fixed)


def check_program(
    agent: str,
    name: str,
    *,
    wanted: Path | None = None,
    known_bugs: Iterable[KnownBug] = (),
    variables: Sequence[str] = (),
    files: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    ask: Callable[[str, Mapping[str, str]], tuple[str, str]] | None = None,
) -> AgentHealth:
    """Look for an agent's program, ask for its version, and look for a login.

    Runs ``PROGRAM --version``, unless there is another way to `ask`, and blocks until it has
    answered, at most 20 s; never asks a model, and reads no secret: a variable that is set, or a
    file that is there and not empty, counts.

    Args:
        agent: The agent.
        name: What its program is called in ``PATH``.
        wanted: What a user wants instead.
        known_bugs: What is wrong with certain versions.
        variables: Names of variables that hold a key.
        files: Files with a login.
        environment: Where to look for variables; ``os.environ`` by default.
        ask: Gets the program and the environment; returns its version, and why it cannot be used,
            each of them ``""`` if there is none. May raise the `OSError` of `started_program`.
    """
    environ = os.environ if environment is None else environment
    try:
        program = find_program(name, wanted, environ.get("PATH"))
    except InvalidRequestError as error:
        return AgentHealth(agent=agent, problems=(str(error),))
    if not os.access(program, os.X_OK) or not os.path.isabs(program):
        return AgentHealth(agent=agent, problems=(f"there is no {program} in PATH",))
    try:
        version, problem = (ask or _ask_version)(program, environ)
    except OSError as error:
        version, problem = "", f"{program} cannot be run: {error.strerror}"
    login = _login(variables, files, environ)
    return AgentHealth(
        agent=agent,
        program=program,
        version=version,
        logged_in=True if login else None,
        login=login,
        problems=(problem,) if problem else (),
        known_bugs=tuple(bug.what for bug in known_bugs if bug.concerns(version)),
    )


def parse_version(text: str) -> tuple[int, int, int] | None:
    """Return the first version number in a text, or ``None``."""
    found = _VERSION.search(text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3] or 0))


@contextlib.contextmanager
def started_program(
    argv: Sequence[str], environ: Mapping[str, str], *, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program whose standard output is read; at the end of the context it is killed.

    With everything in its session, because launchers have children, which hold the pipe. For
    questions to an agent that asks no model; work is for a task.

    Args:
        argv: The program, as an absolute path, and its arguments.
        environ: Its whole environment.
        stdin: As for `subprocess.Popen`.

    Raises:
        OSError: It cannot be executed.
    """
    process = subprocess.Popen(
        list(argv),
        env=dict(environ),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _ask_version(program: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the version, and why there is none."""
    with started_program([program, "--version"], environ) as process:
        try:
            out, _ = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            return "", f"{program} --version says nothing for {_PATIENCE:g} s"
    found = _VERSION.search(decode_line(out[:2000]))
    if found is None:
        return "", f"{program} --version says no version (exit status {process.returncode})"
    return found[0], ""


def _login(variables: Sequence[str], files: Sequence[Path], environ: Mapping[str, str]) -> str:
    for name in variables:
        if environ.get(name):
            return name
    for file in files:
        with contextlib.suppress(OSError):
            if file.stat().st_size > 2:  # more than "{}"
                return str(file)
    return ""

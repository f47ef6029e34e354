"""Starting the leader: fork, clean up, change directory, find the program, execute it.

The child reports what went wrong through a close-on-exec pipe: which stage, which error and
which path. It never hands a program to a shell.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from eventbus_tasks._process import linux
from eventbus_tasks._process.dispositions import (
    DEFAULT,
    HANDLED,
    block_handled,
    set_action,
    unblock_all,
)
from eventbus_tasks._process.image import find_programs
from eventbus_tasks._process.pty import take_terminal

__all__ = [
    "LeaderPlan",
    "fork",
    "parse_failure",
    "start_leader",
]

_ERROR_FD: Final = 3

fork: Callable[[], int] = os.fork
"""How a leader is made; a rehearsal replaces it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderPlan:
    """Everything the child needs."""

    argv: list[bytes]
    cwd: bytes
    env: Mapping[bytes, bytes]
    umask: int
    nofile: int
    stdin: int
    stdout: int
    stderr: int
    terminal: bool = False  # descriptor 0 becomes the controlling terminal


class _Failure(Exception):
    def __init__(self, stage: str, number: int, path: bytes, message: str) -> None:
        super().__init__(message)
        self.report = {
            "stage": stage,
            "errno": number,
            "path": path[:1024].decode("utf-8", "surrogateescape"),
            "message": message[:1024],
        }


def start_leader(
    plan: Callable[[], LeaderPlan],
    cgroup: int | None = None,
) -> tuple[int, int]:
    """Start the leader and return its number and the pipe that tells how it went.

    The pipe ends without data when the program was executed, or when the child was killed
    before that; `family.Process.executed` tells the two apart.

    Args:
        plan: Says what to do. It is called in the child: what that touches it has to copy, but its
            copies go when it executes the program, and ours would stay.
        cgroup: Descriptor of the control group in which it begins, or ``None`` for ours.

    Raises:
        OSError: No process or no pipe to be had.
    """
    report, error_fd = os.pipe2(os.O_CLOEXEC)
    guardian = os.getpid()
    # Blocked, so that a stop which comes before the dispositions are reset stays pending
    # instead of vanishing in a handler inherited from us.
    block_handled()
    try:
        pid = fork() if cgroup is None else _fork_into(cgroup)
        if not pid:
            _run_child(plan, error_fd, guardian)
    except BaseException:
        os.close(report)
        raise
    finally:
        os.close(error_fd)
        unblock_all()
    os.set_blocking(report, False)
    return pid, report


def _fork_into(cgroup: int) -> int:
    # Where it is refused, by a filter of system calls for one, there is still the tree.
    with contextlib.suppress(OSError):
        return linux.fork_into(cgroup)
    return fork()


def parse_failure(data: bytes) -> dict[str, Any]:
    """Return the fields of a `SpawnFailed` from what the child reported."""
    try:
        report = json.loads(data)
        return {name: report[name] for name in ("stage", "errno", "path", "message")}
    except (ValueError, KeyError, TypeError):
        message = "the report of the failure is not readable"
        return {"stage": "setup", "errno": errno.EIO, "path": "", "message": message}


def _run_child(make_plan: Callable[[], LeaderPlan], error_fd: int, guardian: int) -> NoReturn:
    try:
        os.setsid()
        linux.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != guardian:
            os._exit(126)  # it died before the line above
        plan = make_plan()
        _place_descriptors(plan, error_fd)
        error_fd = _ERROR_FD
        if plan.terminal:
            take_terminal(0)
        _settle(plan)
        _execute(plan)
    except _Failure as failure:
        report = failure.report
    except BaseException as error:  # noqa: BLE001 - nothing may return into the guardian's code
        number = getattr(error, "errno", None) or errno.EIO
        report = _Failure("setup", number, b"", f"{type(error).__name__}: {error}").report
    try:
        os.write(error_fd, json.dumps(report).encode())
    finally:
        os._exit(127)


def _place_descriptors(plan: LeaderPlan, error_fd: int) -> None:
    """Leave nothing open but 0, 1, 2 and, until exec, the pipe for errors."""
    for target, source in enumerate((plan.stdin, plan.stdout, plan.stderr)):
        os.dup2(source, target, inheritable=True)
    if error_fd != _ERROR_FD:
        os.dup2(error_fd, _ERROR_FD, inheritable=False)
    linux.close_from(_ERROR_FD + 1)


def _settle(plan: LeaderPlan) -> None:
    """Take over the task's surroundings; signals last, so that a stop ends us from here on."""
    os.umask(plan.umask)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = plan.nofile if hard == resource.RLIM_INFINITY else min(plan.nofile, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        os.chdir(plan.cwd)
    except OSError as error:
        number = error.errno or errno.EIO
        message = f"cannot work in {os.fsdecode(plan.cwd)!r}: {os.strerror(number)}"
        raise _Failure("cwd", number, plan.cwd, message) from None
    for number in HANDLED:
        set_action(number, DEFAULT)
    unblock_all()


def _execute(plan: LeaderPlan) -> NoReturn:
    name = plan.argv[0]
    if not name:
        raise _Failure("exec", errno.ENOENT, name, "the name of the program is empty")
    candidates = find_programs(name, plan.env.get(b"PATH"))
    searched = b"/" not in name
    worst = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    worst_path = name
    for path in candidates:
        try:
            os.execve(path, plan.argv, plan.env)
        except OSError as error:
            absent = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
            if searched and (absent or not os.access(path, os.X_OK, effective_ids=True)):
                # Like every shell: go on, and remember the one that is there but won't do. A
                # directory of that name is none.
                if os.path.exists(path) and not os.path.isdir(path):
                    worst, worst_path = error, path
                continue
            worst, worst_path = error, path
            break
    number = worst.errno or errno.EIO
    raise _Failure("exec", number, worst_path, _explain(worst_path, number, searched, name))


def _explain(path: bytes, number: int, searched: bool, name: bytes) -> str:
    """Say which file is to blame and why, for a person."""
    shown = os.fsdecode(path)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        if searched and path == name:
            return f"there is no program {shown!r} in the PATH of the task"
        if number == errno.ENOENT and not os.path.lexists(path):
            return f"there is no program {shown!r}"
        return f"cannot execute {shown!r}: {os.strerror(number)}"
    if stat.S_ISDIR(mode):
        return f"cannot execute {shown!r}: it is a directory"
    if number == errno.ENOEXEC:
        return f"cannot execute {shown!r}: neither a program nor a script with a '#!' line"
    if number == errno.EACCES and not mode & 0o111:
        return f"cannot execute {shown!r}: the file is not executable"
    if number == errno.ENOENT and stat.S_ISREG(mode):
        with open(path, "rb") as file:
            line = file.read(256).split(b"\n")[0]
        if line.startswith(b"#!"):
            interpreter = os.fsdecode(line[2:].strip().split()[0] if line[2:].strip() else b"")
            return f"cannot execute {shown!r}: its interpreter {interpreter!r} does not exist"
        return f"cannot execute {shown!r}: its loader or interpreter does not exist"
    return f"cannot execute {shown!r}: {os.strerror(number)}"

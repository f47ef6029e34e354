"""Whether the promises can be kept here: what the kernel offers, what works, what is left over.

Everything here blocks; an asynchronous program calls it in a worker thread. It needs no engine
and no plugin, and changes nothing but what `end_leftovers` is told to end.
"""

from __future__ import annotations

import os
import platform
import stat
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import anyio

from eventbus_tasks._process import cgroup, kernel, leftovers
from eventbus_tasks._process.family import command
from eventbus_tasks._process.marker import find_marked, read_mark
from eventbus_tasks._threads import call_with_deadline
from eventbus_tasks.engine import TaskEngine
from eventbus_tasks.errors import EventbusTasksError, SettingsError
from eventbus_tasks.outcome import Outcome, Reason
from eventbus_tasks.plugins import PluginHost
from eventbus_tasks.running import find_running_tasks
from eventbus_tasks.settings import Settings

__all__ = ["Finding", "FindingState", "Leftover", "diagnose", "end_leftovers", "find_leftovers"]

FindingState = Literal["ok", "note", "wrong"]

_TRIAL_DEADLINE: Final = 60.0
_GROUP_ADVICE: Final = (
    "not needed; to have them as well: systemd-run --user --scope -p Delegate=yes PROGRAM"
)
_SCARCE: Final = 256 * 1024 * 1024
"""Bytes of free space below which logs will soon not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What was looked at, in a word or two.
        state: ``"ok"``; ``"note"``: it works, and there is something to know; ``"wrong"``.
        text: What was found.
        advice: What to do, if there is something.
    """

    subject: str
    state: FindingState
    text: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A process that a task has left behind, and that nobody is left to end.

    Attributes:
        uid: Unique id of the task.
        pid: Its number.
        start_time: Clock ticks after boot; together with `pid` it identifies the process.
        command: Its command line, shortened.
    """

    uid: str
    pid: int
    start_time: int
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def find_leftovers() -> tuple[Leftover, ...]:
    """Return what tasks have left behind whose guardian and warden have both been killed.

    As long as one of the two lives, nothing of a task is left over: it will be ended, or goes on
    because its policy says so. What is found carries the mark of its task in the environment
    (``EBT_TASK``), or is in its control group, or is a descendant of something that does or is.
    Without control groups, a process that has wiped the mark away, and whose parents have ended,
    cannot be told from any other process of the user.

    Blocks for about 0.1 s, only if there is something. The task in which this program itself
    runs is left out. Root sees the processes of every user.

    Returns:
        By task, oldest first.
    """
    return tuple(
        Leftover(
            uid=uid,
            pid=process.pid,
            start_time=process.start_time,
            command=command(process),
        )
        for uid, process in leftovers.find_leftovers()
    )


def end_leftovers(found: Iterable[Leftover], *, seconds: float = 5.0) -> tuple[Leftover, ...]:
    """End leftovers by SIGKILL, with everything of the same tasks that they fork meanwhile.

    Each is identified by number and start time; a stranger who got the number of one is safe.

    Args:
        found: What `find_leftovers` returned.
        seconds: How long to try; blocks until then at most.

    Returns:
        Those that are still there: another user's, or one that no signal reaches for now.
    """
    tasks = {(one.pid, one.start_time): one.uid for one in found}
    if not tasks:
        return ()
    left = leftovers.end_leftovers(frozenset(tasks.values()), tuple(tasks), seconds)
    return tuple(
        Leftover(
            uid=tasks.get((one.pid, one.start_time)) or read_mark(one.pid) or "",
            pid=one.pid,
            start_time=one.start_time,
            command=one.command,
        )
        for one in left
    )


def diagnose() -> Iterator[Finding]:
    """Look at everything, and yield what was found, one by one, as it is found.

    Loads the installed plugins, starts a warden and runs a small task below it, and asks the
    programs of agents for their versions, but no model. Blocks for a second; with agents, up to
    30 s. What is left over is found, not ended. Raises nothing of its own: whatever goes wrong
    is a finding.
    """
    settings, problem = _load_settings({})
    if problem is not None:
        yield problem
    host = PluginHost(settings)
    try:
        host.load_builtins()
        host.load_installed()
        if problem is None:
            settings, problem = _load_settings(host.tables)
            yield problem or Finding(subject="settings", state="ok", text="can be read")
        yield from _examine_kernel()
        yield _examine_containment(settings)
        yield from _examine_state(settings)
        yield from _examine_tasks(settings)
        yield _examine_leftovers(host)
        yield _try_warden(settings)
        yield from _examine_plugins(host)
        yield from _examine_agents(host, settings)
    finally:
        host.close()


def _load_settings(tables: Mapping[str, type]) -> tuple[Settings, Finding | None]:
    try:
        return Settings.load(tables=tables), None
    except SettingsError as error:
        advice = "correct it: until then nothing can be run"
        finding = Finding(subject="settings", state="wrong", text=str(error), advice=advice)
        return Settings(), finding


# -- the machine ------------------------------------------------------------------------------


def _examine_kernel() -> Iterator[Finding]:
    probes = kernel.probe_kernel()
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    yield from _failed(probes, "use a kernel of 5.4 or newer, with /proc")
    works = ", ".join(probe.name for probe in probes if not probe.problem)
    yield Finding(subject="kernel", state="ok", text=f"{system}; works: {works}")


def _examine_containment(settings: Settings) -> Finding:
    """Say how well the family of a task is held together, and why not better."""
    walk = "subreaper, and a walk down the whole tree"
    try:
        base = cgroup.find_base(settings.cgroup)
        group = cgroup.TaskCgroup.make(base, f"probe-{os.getpid()}")
    except (cgroup.CgroupError, OSError) as error:
        wanted = settings.cgroup not in (cgroup.AUTO, cgroup.OFF)
        return Finding(
            subject="containment",
            state="wrong" if wanted else "ok",
            text=f"{walk}; no control groups: {error}",
            advice="correct the setting cgroup" if wanted else _GROUP_ADVICE,
        )
    group.remove()
    text = f"cgroup.kill below {base}, on top of {walk}"
    return Finding(subject="containment", state="ok", text=text)


def _failed(probes: Iterable[kernel.Probe], advice: str) -> Iterator[Finding]:
    for probe in probes:
        if probe.problem:
            yield Finding(
                subject=probe.name,
                state="wrong" if probe.needed else "note",
                text=f"{probe.problem} ({probe.use})",
                advice=advice if probe.needed else "",
            )


def _examine_state(settings: Settings) -> Iterator[Finding]:
    directory = settings.state_dir
    finding = _examine_directory(
        "state", directory, "the setting state_dir, or XDG_STATE_HOME", private=True
    )
    yield finding
    if finding.state != "wrong":
        yield from _failed([kernel.probe_sockets(directory)], "")
    output = settings.output_dir or directory / "unnamed"
    finding = _examine_directory("output", output, "the setting output_dir", private=False)
    yield finding
    if finding.state != "wrong":
        yield from _failed(kernel.probe_directory(output), "")


def _examine_directory(subject: str, directory: Path, origin: str, *, private: bool) -> Finding:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        # Asking for permissions would not do: file systems can be read-only, or full.
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
        space = os.statvfs(directory)
    except OSError as error:
        return Finding(
            subject=subject,
            state="wrong",
            text=f"{directory} cannot be used: {error.strerror or error}",
            advice=f"make it writable, or choose another one: {origin}",
        )
    mode = stat.S_IMODE(status.st_mode)
    free = space.f_bavail * space.f_frsize
    text = f"{directory} (mode {mode:04o}, {free // 2**20:,} MiB free)"
    if private and (status.st_uid != os.geteuid() or mode & 0o022):
        return Finding(
            subject=subject,
            state="wrong",
            text=f"{text}: others can put there what is taken for a lock or a task",
            advice=f"make it yours alone: chown, chmod 700 {directory}",
        )
    if free < _SCARCE:
        advice = "make room: what does not fit into a log is lost (and counted)"
        return Finding(subject=subject, state="note", text=text, advice=advice)
    return Finding(subject=subject, state="ok", text=text)


# -- tasks ------------------------------------------------------------------------------------


def _examine_tasks(settings: Settings) -> Iterator[Finding]:
    running = find_running_tasks(settings.state_dir)
    silent = [task for task in running if task.state == "unknown"]
    detached = [task for task in running if task.is_detached]
    for task in silent:
        yield Finding(
            subject="tasks",
            state="wrong",
            text=f"the guardian of the task {task.ref.uid} does not answer",
            advice="its log may be on a disk that has stalled; it goes on once the disk does",
        )
    text = f"{len(running)} running, {len(detached)} of them without a host"
    advice = "ebt cancel ends them; an engine can re-attach to them" if detached else ""
    yield Finding(subject="tasks", state="note" if detached else "ok", text=text, advice=advice)


def _examine_leftovers(host: PluginHost) -> Finding:
    found = find_leftovers()
    if not found:
        text = "nothing that carries the mark of a task is left without a guardian"
        return Finding(subject="leftovers", state="ok", text=text)
    names = {record.ref.uid: record.ref.name for record in host.task_records()}
    tasks: dict[str, list[str]] = defaultdict(list)
    for one in found:
        tasks[one.uid].append(f"{one.pid} {one.command}")
    text = "; ".join(
        f"{names.get(uid) or f'task {uid}'}: {', '.join(processes)}"
        for uid, processes in tasks.items()
    )
    return Finding(
        subject="leftovers", state="wrong", text=text, advice="ebt doctor --sweep ends them"
    )


def _try_warden(settings: Settings) -> Finding:
    python = f"the setting python: {settings.python}" if settings.python else sys.executable
    try:
        with tempfile.TemporaryDirectory(prefix="ebt-doctor-") as directory:
            began = time.monotonic()
            uid, outcome = call_with_deadline(
                lambda: anyio.run(_run_trial, settings, directory), _TRIAL_DEADLINE
            )
            seconds = time.monotonic() - began
    except (OSError, EventbusTasksError, TimeoutError, RuntimeError) as error:
        return Finding(
            subject="warden",
            state="wrong",
            text=f"no task can be run: {error}",
            advice=f"look at the interpreter ({python})" if isinstance(error, OSError) else "",
        )
    left = find_marked(uid)
    if outcome.reason is not Reason.EXITED or left:
        pids = ", ".join(str(process.pid) for process in left)
        text = f"a task that exits normally ended with {outcome.reason.value}: {outcome.message}"
        text = f"of a task that had ended there are still: {pids}" if left else text
        return Finding(subject="warden", state="wrong", text=text)
    text = f"a task that leaves an orphan behind was run, and nothing is left ({seconds:.1f} s)"
    return Finding(subject="warden", state="ok", text=text)


async def _run_trial(settings: Settings, directory: str) -> tuple[str, Outcome]:
    """Run a task whose program ends before something that it has started."""
    async with TaskEngine(settings, load_installed=False) as engine:
        argv = ["/bin/sh", "-c", "sleep 600 & exit 0"]
        task = await engine.spawn_task("ebt doctor", argv=argv, project_dir=directory)
        return task.uid, await task.wait()


# -- plugins and agents -----------------------------------------------------------------------


def _examine_plugins(host: PluginHost) -> Iterator[Finding]:
    active = [one.name for one in host.reports if one.state == "active" and not one.builtin]
    for report in host.reports:
        if report.state != "active":
            yield Finding(
                subject="plugin",
                state="wrong" if report.state == "broken" else "note",
                text=f"{report.name} is {report.state}: {report.reason}",
                advice=f"update or remove {report.distribution}" * (report.state == "broken"),
            )
    text = f"active: {', '.join(active)}" if active else "none installed, and none needed"
    yield Finding(subject="plugins", state="ok", text=text)


def _examine_agents(host: PluginHost, settings: Settings) -> Iterator[Finding]:
    for health in host.check_agents(settings):
        notes = [*health.problems, *(f"known: {bug}" for bug in health.known_bugs)]
        if not health.program:
            notes.insert(0, "not installed")
        elif health.logged_in is False:
            notes.insert(0, "not logged in")
        # Nobody needs every agent; one that is here and broken is another matter.
        broken = bool(health.program and health.problems)
        state: FindingState = "wrong" if broken else "note" if notes else "ok"
        version = " ".join(filter(None, (health.program, health.version)))
        yield Finding(
            subject=f"agent {health.agent}",
            state=state,
            text="; ".join(filter(None, (version, *notes))),
            advice="" if state == "ok" else f"ebt agents {health.agent}",
        )

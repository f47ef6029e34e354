"""K: families that do not want to end."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import anyio
import anyio.from_thread

from eventbus_tasks import (
    HandlerFailed,
    ProjectBusyError,
    Reason,
    Settings,
    SignalSent,
    Task,
    TaskEnded,
    TaskStatus,
    TaskStopping,
    TerminationPolicy,
    hookimpl,
)
from tests.faults.suite.books import stat_of, until_true
from tests.faults.suite.outside import HostProcess
from tests.faults.suite.registry import BOTH, not_here, scenario
from tests.faults.suite.scene import Scene, quick, until

PRIVATE_NUMBERS = ("unshare", "-Urmpf", "--mount-proc", "--kill-child")
"""In a process namespace of its own, where the next number can be chosen; the host is PID 1."""


def signals_of(scene: Scene, task: Task) -> list[int]:
    """Return the signals that were sent."""
    return [event.signal for event in scene.of(SignalSent, task)]


async def _cancelled(
    scene: Scene, code: str, grace: float = 0.3, kill_wait: float = 5.0
) -> tuple[Task, str]:
    """Start, cancel, and check that everybody is gone and that this was the reason."""
    project = scene.project()
    async with scene.engine() as engine:
        task = await scene.start(engine, project, code, policy=quick(grace, kill_wait=kill_wait))
        assert await task.cancel()
        assert not project.alive
        await scene.works(engine, project)
    assert task.outcome is not None
    sent = signals_of(scene, task)
    family = len(set(project.members))
    return task, f"return code {task.return_code}, signals {sent}, {family} processes gone"


@scenario("K01", "a polite child", "no KILL; its last words are kept")
async def polite(scene: Scene) -> str:
    code = """
def bye(*_):
    out(b"bye\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, bye)
flag("up")
rest()
"""
    task, seen = await _cancelled(scene, code, grace=20)
    assert signals_of(scene, task) == [15]
    assert task.return_code == 0
    name = next((scene.directory / "outputs").glob("*"), None)
    assert name is None  # written at the end of the scene, from the log that is read now
    assert task.output.tail() == ["bye"]
    return seen + ", last word: bye"


@scenario("K02", "ignores TERM, INT and HUP", "-9 after the grace", backends=BOTH)
async def stubborn(scene: Scene) -> str:
    task, seen = await _cancelled(scene, "ignore(); flag('up'); rest()")
    assert task.return_code == -9
    assert signals_of(scene, task) == [15, 9]
    return seen


@scenario("K03", "a stopped child", "ends by TERM and CONT, without KILL")
async def stopped(scene: Scene) -> str:
    project = scene.project()
    async with scene.engine() as engine:
        code = "flag('up'); os.kill(os.getpid(), signal.SIGSTOP); rest()"
        task = await scene.start(engine, project, code, policy=quick(20))
        await until(lambda: stat_of(task.pid or 0)[:1] == ["T"], "the stop")
        await task.cancel()
    assert task.return_code == -15
    assert signals_of(scene, task) == [15]
    return "-15, signals [15]"


@scenario("K04", "polite leader, stubborn child", "the child is gone, too")
async def stubborn_child(scene: Scene) -> str:
    task, seen = await _cancelled(scene, "child(stubborn=True); flag('up'); rest()")
    assert task.return_code == -15
    return seen


@scenario("K05", "the leader crashes, others live", "signalled, -11, all swept")
async def crash(scene: Scene) -> str:
    code = "child(stubborn=True); child(session=True); os.kill(os.getpid(), signal.SIGSEGV)"
    async with scene.engine() as engine:
        _, outcome = await scene.run(engine, scene.project(), code)
        assert not scene.project().alive
    assert (outcome.reason, outcome.return_code) == (Reason.SIGNALLED, -11)
    return "signalled, -11, 0 alive"


@scenario("K06", "a stubborn child in a session of its own", "gone")
async def own_session(scene: Scene) -> str:
    code = "child(session=True, stubborn=True); flag('up'); rest()"
    return (await _cancelled(scene, code))[1]


@scenario("K07", "a daemon is left behind by a normal exit", "gone; completed")
async def daemon_left(scene: Scene) -> str:
    async with scene.engine() as engine:
        _, outcome = await scene.run(engine, scene.project(), "child(daemon=True, stubborn=True)")
        assert not scene.project().alive
    assert outcome.status is TaskStatus.COMPLETED
    return "completed, daemon gone"


@scenario("K08", "a comet in the group: forks and exits for ever", "gone", lossy=True)
async def comet(scene: Scene) -> str:
    # Where a busy machine gives the guardian no time, it takes more rounds to catch it.
    code = "child(comet, stubborn=True); flag('up'); rest()"
    return (await _cancelled(scene, code, kill_wait=60))[1]


@scenario(
    "K09",
    "cancel twice at once, from 10 threads, and after the end",
    "one terminal event; late cancels change nothing",
    backends=BOTH,
)
async def many_cancels(scene: Scene) -> str:
    project = scene.project()
    answers: list[bool] = []
    async with scene.engine() as engine:
        task = await scene.start(engine, project, "ignore(); flag('up'); rest()")

        async def again() -> None:
            answers.append(await task.cancel())

        async def from_thread() -> None:
            await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(again))

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(again)
            for _ in range(10):
                group.start_soon(from_thread)
        assert task.cancel_nowait() is False
        assert answers == [True] * 12
    assert len(scene.of(TaskEnded, task)) == 1
    assert len(scene.of(TaskStopping, task)) == 1
    return "12 cancels, 1 ladder, 1 end"


@scenario("K10", "cancel races with the exit, 30 times", "never two ends; the reason is true")
async def race(scene: Scene) -> str:
    reasons = []
    async with scene.engine() as engine:
        for step in range(30):
            argv = ["sh", "-c", "sleep 0.02"]
            task = await scene.spawn(engine, scene.project(), "", argv=argv)
            await anyio.sleep(step * 0.002)
            await task.cancel()
            assert task.outcome is not None
            reasons.append(task.outcome.reason)
            if task.outcome.reason is Reason.EXITED:
                assert task.outcome.return_code == 0
    assert set(reasons) <= {Reason.EXITED, Reason.CANCELLED}
    return f"{reasons.count(Reason.EXITED)} exited, {reasons.count(Reason.CANCELLED)} cancelled"


@scenario("K11", "timeout of 0.4 s", "timed_out; the family is gone")
async def timeout(scene: Scene) -> str:
    code = "child(session=True, stubborn=True); rest()"
    async with scene.engine() as engine:
        _, outcome = await scene.run(engine, scene.project(), code, timeout=0.4)
    assert outcome.reason is Reason.TIMED_OUT
    return "timed_out, 0 alive"


@scenario(
    "K12",
    "a member in uninterruptible sleep (frozen)",
    "bounded; unkillable, named; the project stays taken until it is gone",
    needs=("root", "/sys/fs/cgroup/freezer"),
    lossy=True,
)
async def frozen(scene: Scene) -> str:
    project = scene.project()
    group = Path(f"/sys/fs/cgroup/freezer/ebt-faults-{os.getpid()}")
    group.mkdir()
    try:
        async with scene.engine() as engine:
            task = await scene.start(
                engine, project, "child(); flag('up'); rest()", policy=quick(kill_wait=0.5)
            )
            member = project.members[-1][0]
            (group / "cgroup.procs").write_text(str(member))
            (group / "freezer.state").write_text("FROZEN")
            await until(lambda: "FROZEN" in (group / "freezer.state").read_text())
            await task.cancel()
            assert task.outcome is not None
            assert task.outcome.reason is Reason.UNKILLABLE, task.outcome
            assert [one.pid for one in task.outcome.survivors] == [member]
            assert not project.is_free()
            try:
                await scene.works(engine, project)
                raise AssertionError("the project was free")
            except ProjectBusyError:
                pass
            (group / "freezer.state").write_text("THAWED")
            await until(project.is_free, "the end of the survivor")
            assert not project.alive
            await scene.works(engine, project)
    finally:
        (group / "freezer.state").write_text("THAWED")
        until_true(lambda: not (group / "cgroup.procs").read_text(), "the empty group")
        group.rmdir()
    return f"unkillable, survivor {member} named; project free after its end"


@scenario("K13", "cancel while the child floods", "it ends", lossy=True)
async def flood(scene: Scene) -> str:
    project = scene.project()
    async with scene.engine() as engine:
        code = "ignore(); flag('up')\nwhile True: out(b'a line\\n' * 8192)"
        task = await scene.start(engine, project, code, policy=quick(0.2))
        await until(lambda: task.output.size() > 1_000_000)
        assert await task.cancel()
        assert task.outcome is not None
        size = task.outcome.output_bytes["stdout"]
        assert task.output.size() == size
    return f"cancelled; all {size} bytes handed out"


@scenario("K14", "SEGV, ABRT, KILL, TERM of itself", "return code -n each")
async def signals(scene: Scene) -> str:
    codes = []
    async with scene.engine() as engine:
        for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM):
            code = f"os.kill(os.getpid(), {int(number)})"
            _, outcome = await scene.run(engine, scene.project(), code)
            assert (outcome.reason, outcome.return_code) == (Reason.SIGNALLED, -number)
            codes.append(outcome.return_code)
    return str(codes)


def _fork_as(number: int) -> int:
    """Fork a process that gets this number if it is free; return what it got."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
    pid = os.fork()
    if not pid:
        try:
            threading.Event().wait(600)
        finally:
            os._exit(0)
    return pid


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@scenario(
    "K15",
    "the number of an ended task passes to a stranger; then it is cancelled",
    "the stranger lives",
    needs=("userns",),
    wrap=PRIVATE_NUMBERS,
    lossy=True,
)
async def recycled(scene: Scene) -> str:
    async with scene.engine() as engine:
        task, _ = await scene.run(engine, scene.project(), "pass")
        assert task.pid is not None
        stranger = _fork_as(task.pid)
        for _ in range(50):  # a thread may have got it in between
            if stranger == task.pid:
                break
            _end(stranger)
            stranger = _fork_as(task.pid)
        assert stranger == task.pid, "the number could not be had"
        assert not task.cancel_nowait()
        assert not task.cancel_nowait(now=True)
        await task.cancel()
        await scene.works(engine, scene.project())
        assert stat_of(stranger)[0] == "S"
        _end(stranger)
    return f"the stranger with number {stranger} lives; the host was PID {os.getpid()}"


@scenario(
    "K16",
    "somebody wants the number of a leader that has exited, before its family is swept",
    "the number is not free",
    needs=("userns",),
    wrap=PRIVATE_NUMBERS,
    lossy=True,
)
async def pinned(scene: Scene) -> str:
    project = scene.project()
    got = []
    async with scene.engine() as engine:
        code = "child(stubborn=True); flag('up')"
        task = await scene.start(engine, project, code, policy=quick(30))
        await until(lambda: task.return_code is not None, "the leader's exit")
        assert task.pid is not None
        for _ in range(3):
            got.append(_fork_as(task.pid))
            _end(got[-1])
        assert task.is_running
        task.cancel_nowait(now=True)
        await task.wait()
    assert task.pid not in got
    return f"wanted {task.pid}, got {got}"


@scenario("K17", "a daemon without environment and descriptors", "gone")
async def invisible(scene: Scene) -> str:
    code = "child(daemon=True, stubborn=True, hidden=True); flag('up'); rest()"
    return (await _cancelled(scene, code))[1]


@scenario("K18", "a comet through sessions, 100 a second", "gone", lossy=True)
async def session_comet(scene: Scene) -> str:
    code = "child(lambda: comet(0.01, True), stubborn=True); flag('up'); rest()"
    return (await _cancelled(scene, code, kill_wait=60))[1]


@scenario("K19", "the agent kills its parent, the guardian", "guardian_lost; the family is gone")
async def parricide(scene: Scene) -> str:
    project = scene.project()
    async with scene.engine() as engine:
        code = "child(stubborn=True, session=True); os.kill(os.getppid(), signal.SIGKILL); rest()"
        _, outcome = await scene.run(engine, project, code)
        assert not project.alive
        await scene.works(engine, project)
    assert outcome.reason is Reason.GUARDIAN_LOST
    return f"guardian_lost, {len(set(project.members))} processes gone"


@scenario(
    "K20", "the host is stopped in the middle of a cancel", "KILL comes on time", backends=BOTH
)
async def host_stopped(scene: Scene) -> str:
    project = scene.project()
    async with scene.engine() as engine:

        def stopping(event: SignalSent) -> None:
            if event.signal == 15:
                scene.tell("polite")

        code = "child(session=True, stubborn=True); ignore(); flag('up'); rest()"
        task = await scene.start(engine, project, code, policy=quick(0.5))
        engine.signals.signal_sent.connect(stopping)
        assert await task.cancel()
    assert task.return_code == -9
    return "cancelled, -9"


@host_stopped.direct
def stop_host(host: HostProcess) -> str:
    host.hear("polite")
    host.signal(signal.SIGSTOP)
    until_true(lambda: host.state == "T", "the stop")
    until_true(host.project().is_free, "the end of the family")
    assert host.state == "T"
    host.signal(signal.SIGCONT)
    assert host.wait() == 0, host.errors
    return "the family was gone while the host was stopped"


@scenario("K21", "a member is shown as Z and works on in a thread", "gone")
async def undead(scene: Scene) -> str:
    code = """
import ctypes, threading
def work():
    number = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
    threading.Thread(target=rest).start()
    ctypes.CDLL(None).syscall(number, 0)  # only the main thread exits
flag("undead", str(child(work, stubborn=True)))
flag("up")
rest()
"""
    project = scene.project()
    async with scene.engine() as engine:
        task = await scene.start(engine, project, code)
        pid = int(project.text("undead"))
        await until(lambda: stat_of(pid)[:1] == ["Z"], "the end of the main thread")
        assert stat_of(pid)[17] == "2"
        await task.cancel()
        assert not project.alive
    return "state Z with 2 threads before, gone afterwards"


@scenario(
    "K22",
    "the agent is killed for want of memory",
    "signalled, -9",
    needs=("root", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
async def out_of_memory(scene: Scene) -> str:
    code = f"""
group = "/sys/fs/cgroup/memory/ebt-faults-agent-{os.getpid()}"
os.mkdir(group)
open(group + "/memory.limit_in_bytes", "w").write("30000000")
open(group + "/cgroup.procs", "w").write(str(os.getpid()))
held = []
while True:
    held.append(bytearray(b"x") * 1000000)
"""
    async with scene.engine() as engine:
        _, outcome = await scene.run(engine, scene.project(), code)
    Path(f"/sys/fs/cgroup/memory/ebt-faults-agent-{os.getpid()}").rmdir()
    assert (outcome.reason, outcome.return_code) == (Reason.SIGNALLED, -9), outcome
    return "signalled, -9"


@scenario(
    "K23",
    "a member has become another user, and we may not signal it",
    "bounded; unkillable, the survivor named",
    needs=("root", "setpriv"),
    wrap=("setpriv", "--bounding-set=-kill", "--inh-caps=-kill"),
    lossy=True,
)
async def other_user(scene: Scene) -> str:
    project = scene.project()
    async with scene.engine() as engine:
        code = """
def change():
    os.setgid(65534)
    os.setuid(65534)
    rest()
flag("member", str(child(change, stubborn=True)))
flag("up")
rest()
"""
        policy = quick(0.2, kill_wait=0.5)
        task = await scene.start(engine, project, code, policy=policy)
        member = int(project.text("member"))
        status = Path(f"/proc/{member}/status")
        await until(lambda: "Uid:\t65534" in status.read_text(), "the change")
        await task.cancel()
        assert task.outcome is not None
        assert task.outcome.reason is Reason.UNKILLABLE, task.outcome
        assert [one.pid for one in task.outcome.survivors] == [member]
        scene.tell("survivor", member)
        await until(project.is_free, "the end of the survivor")
    return "unkillable, and the survivor is named"


@other_user.direct
def end_survivor(host: HostProcess) -> str:
    os.kill(int(host.hear("survivor")), signal.SIGKILL)
    assert host.wait() == 0, host.errors
    return "unkillable, and the survivor is named; free when it was gone"


@scenario("K24", "the agent replaces itself by exec, again and again", "still ours: gone")
async def exec_storm(scene: Scene) -> str:
    code = """
n = int(open(BOOK + "/n").read()) if os.path.exists(BOOK + "/n") else 0
flag("n", str(n + 1))
if n == 5:
    flag("up")
os.execv(sys.executable, [sys.executable, "-I", "-S", __file__, BOOK, CODE])
"""
    project = scene.project()
    task, _ = await _cancelled(scene, code)
    assert len(set(project.members)) == 1
    return f"{project.text('n')} programs in one process, gone (return code {task.return_code})"


class BadPolicies:
    """A plugin whose policy hook raises the first time, and hangs the second."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.asked = 0

    @hookimpl
    def ebt_termination_policy(self, task: Task) -> TerminationPolicy:
        """Do not answer."""
        self.asked += 1
        if self.asked == 2:
            self.over.wait(240)
        raise RuntimeError("no policy")


@scenario(
    "K25",
    "the policy hook raises; it hangs",
    "the default policy, after the hook's deadline; the plugin is named",
)
async def bad_policy(scene: Scene) -> str:
    bad = BadPolicies()
    project = scene.project()
    async with scene.engine(plugins={"bad": bad}, settings=Settings(hook_deadline=0.4)) as engine:
        for _ in range(2):
            task = await scene.spawn(engine, project, "flag('up'); rest()", policy=None)
            await until(lambda: project.has("up"), "the start")
            (project.book / "up").unlink()
            await task.cancel()
            assert task.return_code == -15
        bad.over.set()
    failures = scene.of(HandlerFailed)
    assert [failure.overran for failure in failures] == [False, True]
    assert all("bad" in failure.where for failure in failures)
    return f"two ladders of the default policy; named: {failures[0].where}"


not_here(
    "K26",
    "the machine is suspended during the grace",
    "no early KILL",
    "a machine that runs tests cannot be suspended; deadlines use CLOCK_MONOTONIC, which stands "
    "still meanwhile (see H14)",
)

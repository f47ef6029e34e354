"""The straight road: a program starts, writes, and ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from eventbus_tasks._process import wire

if TYPE_CHECKING:
    from .conftest import Host

pytestmark = pytest.mark.anyio


async def test_exit_code_and_output(host: Host) -> None:
    """The story of a plain program is complete, in order, and its bytes are in the log."""
    run = host.run(["sh", "-c", "printf 'one\\ntwo'; exit 7"])
    ended = await run.finish()
    assert run.kinds() == ["started", "leader_exited", "ended", "released"]
    assert run.only(wire.Started).argv == ("sh", "-c", "printf 'one\\ntwo'; exit 7")
    assert run.only(wire.LeaderExited).return_code == 7
    assert (ended.return_code, ended.reason, ended.unkillable) == (7, None, False)
    assert run.output() == b"one\ntwo"
    assert ended.sizes == {"stdout": 7}
    assert ended.dropped == {"stdout": 0}


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
async def test_death_by_signal(host: Host, number: signal.Signals) -> None:
    """A program that dies by a signal has that signal's negative number as its code."""
    run = host.run(["sh", "-c", f"ulimit -c 0; kill -{int(number)} $$"])
    ended = await run.finish()
    assert ended.return_code == -number
    assert ended.reason is None


async def test_exactly_three_descriptors(host: Host) -> None:
    """The program has descriptors 0, 1 and 2 and no other, whatever the host holds open."""
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        run = host.run(["ls", "-l", "/proc/self/fd"])
        await run.finish()
    finally:
        os.close(leak)
    numbers = {line.split()[8] for line in run.output().decode().splitlines() if "->" in line}
    assert numbers == {"0", "1", "2", "3"}  # 3 is the directory that ls reads


async def test_signals_are_clean(tmp_path: Path, anyio_backend: object) -> None:
    """The program ignores and blocks nothing although its host ignores and blocks a lot."""
    from .conftest import open_host

    expected = {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD})
    try:
        async with open_host(tmp_path) as host:
            run = host.run(["cat", "/proc/self/status"])
            await run.finish()
            lines = dict(line.split(":\t") for line in run.output().decode().splitlines())
            lines = {name: value for name, value in lines.items() if name in expected}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hup)
    # 32 and 33 are the C library's own: nobody can set them through it, and its posix_spawn, with
    # which a test runner may have been started, leaves them ignored.
    internal = 1 << 31 | 1 << 32
    assert {name: int(value, 16) & ~internal for name, value in lines.items()} == expected


async def test_sigchld_ignored_in_host(tmp_path: Path, anyio_backend: object) -> None:
    """A host that ignores SIGCHLD hears the true exit code all the same."""
    from .conftest import open_host

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with open_host(tmp_path) as host:
            ended = await host.run(["sh", "-c", "exit 7"]).finish()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert ended.return_code == 7


async def test_surroundings_come_from_the_specification(host: Host, tmp_path: Path) -> None:
    """Directory, environment, umask, limit of files and stdin are those of the task."""
    code = "pwd; umask; ulimit -Sn; cat; env"
    run = host.run(
        ["/bin/sh", "-c", code],
        stdin=b"prompt\n",
        env={"PATH": "/usr/bin:/bin", "ONLY": "this\udcff"},
        umask=0o027,
        nofile=77,
    )
    await run.finish()
    lines = run.output().splitlines()
    assert lines[:4] == [os.fsencode(tmp_path), b"0027", b"77", b"prompt"]
    names = {line.split(b"=")[0] for line in lines[4:]} - {b"PWD", b"OLDPWD", b"_", b"SHLVL"}
    assert names == {b"PATH", b"ONLY", b"EBT_TASK"}
    assert b"ONLY=this\xff" in lines
    assert b"EBT_TASK=test-uid" in lines


async def test_big_environment_and_arguments(host: Host) -> None:
    """Arguments and environment may be megabytes: far more than a packet takes."""
    env = {f"V{i}": "x" * 100_000 for i in range(10)} | {"PATH": os.environ["PATH"]}
    arguments = ["y" * 100_000] * 8
    run = host.python(
        "import os, sys; print(len(os.environ['V9']), len(sys.argv))", *arguments, env=env
    )
    await run.finish()
    assert run.output() == b"100000 9\n"
    assert len(run.only(wire.Started).argv) == 13


@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_many_lines(host: Host, capture: str) -> None:
    """200,000 lines arrive complete and in order, by pipe and by file."""
    run = host.run(["seq", "200000"], capture=capture)
    ended = await run.finish()
    expected = b"".join(b"%d\n" % i for i in range(1, 200_001))
    assert run.output() == expected
    assert ended.sizes == {"stdout": len(expected)}


@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_long_line_without_end(host: Host, capture: str) -> None:
    """A line of 5 MB without a newline arrives complete."""
    run = host.python("import sys; sys.stdout.write('z' * 5_000_000)", capture=capture)
    await run.finish()
    assert run.output() == b"z" * 5_000_000


@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_streams_apart_and_together(host: Host, capture: str) -> None:
    """Standard error has its own log, or is merged in the order of writing."""
    code = "echo 1; echo 2 >&2; echo 3; echo 4 >&2"
    apart = host.run(["sh", "-c", code], capture=capture, separate=True)
    merged = host.run(["sh", "-c", code], capture=capture)
    ended = await apart.finish()
    await merged.finish()
    assert (apart.output("stdout"), apart.output("stderr")) == (b"1\n3\n", b"2\n4\n")
    assert ended.sizes == {"stdout": 4, "stderr": 4}
    assert merged.output() == b"1\n2\n3\n4\n"


@pytest.mark.parametrize("capture", ["pipe", "file"])
async def test_the_bell_rings_for_new_bytes(host: Host, capture: str) -> None:
    """The host is woken for each piece of output while the program lives, and not otherwise."""
    run = host.run(
        ["sh", "-c", "echo one; read x; echo two; read x"],
        capture=capture,
        env=dict(os.environ),
        stdin=b"",
    )
    await run.finish()
    await run.output_has(b"two")
    quiet = host.run(["true"], capture=capture)
    await quiet.finish()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(quiet.link.eventfd)


async def test_closed_stdout_is_not_the_end(host: Host, tmp_path: Path) -> None:
    """A program that closes its output and goes on has ended when it exits, not before."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    run = host.run(["sh", "-c", f"echo out; exec >&- 2>&-; read x < {fifo}; exit 4"])
    await run.output_has(b"out")
    assert "ended" not in run.kinds()
    await anyio.to_thread.run_sync(lambda: fifo.write_text("go\n"))
    assert (await run.finish()).return_code == 4


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Programs that cannot be executed, for different reasons."""
    (tmp_path / "plain").write_text("echo hi\n")
    (tmp_path / "text").write_text("echo hi\n")
    (tmp_path / "text").chmod(0o755)
    (tmp_path / "shebang").write_text("#!/no/interpreter -x\n")
    (tmp_path / "shebang").chmod(0o755)
    (tmp_path / "directory").mkdir()
    (tmp_path / "good").write_text("#!/bin/sh\necho $0\n")
    (tmp_path / "good").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "stage", "number", "says"),
    [
        ("/no/such", "exec", "ENOENT", "/no/such"),
        ("./absent", "exec", "ENOENT", "absent"),
        ("no-such-program", "exec", "ENOENT", "PATH"),
        ("", "exec", "ENOENT", "empty"),
        ("./plain", "exec", "EACCES", "not executable"),
        ("./text", "exec", "ENOEXEC", "'#!'"),
        ("text", "exec", "ENOEXEC", "'#!'"),
        ("./shebang", "exec", "ENOENT", "'/no/interpreter'"),
        ("shebang", "exec", "ENOENT", "'/no/interpreter'"),
        ("./directory", "exec", "EACCES", "directory"),
    ],
)
async def test_what_cannot_be_executed_is_named(
    host: Host, programs: Path, name: str, stage: str, number: str, says: str
) -> None:
    """A program that cannot be executed is named with its reason, and nothing is left."""
    import errno

    run = host.run([name, "x"], cwd=programs, env={"PATH": f"/usr/bin:{programs}"})
    await run.released()
    assert run.kinds() == ["spawn_failed", "released"]
    failed = run.only(wire.SpawnFailed)
    assert (failed.stage, errno.errorcode[failed.errno]) == (stage, number)
    assert says in failed.message
    assert Path(failed.path).name == Path(name).name


@pytest.mark.parametrize(("where", "number"), [("absent", "ENOENT"), ("plain", "ENOTDIR")])
async def test_bad_directory_is_not_mistaken_for_a_bad_program(
    host: Host, programs: Path, where: str, number: str
) -> None:
    """A working directory that is not there is reported as such."""
    import errno

    run = host.run(["/bin/true"], cwd=programs / where)
    await run.released()
    failed = run.only(wire.SpawnFailed)
    assert (failed.stage, failed.path) == ("cwd", str(programs / where))
    assert errno.errorcode[failed.errno] == number


@pytest.mark.parametrize(
    ("name", "path"), [("./good", "/bin"), ("good", ""), ("good", "."), ("good", ":/bin")]
)
async def test_programs_are_found_from_the_task_directory(
    host: Host, programs: Path, name: str, path: str
) -> None:
    """Relative names, and relative or empty parts of PATH, start in the task's directory."""
    run = host.run([name], cwd=programs, env={"PATH": path})
    assert (await run.finish()).return_code == 0
    assert run.output() == b"./good\n"


@pytest.mark.parametrize("bad", [["a\0b"], [], ["x" * 5, "\0"]])
async def test_what_no_system_can_run_is_refused_at_once(host: Host, bad: list[str]) -> None:
    """NUL bytes and an empty argv are a ValueError, and nothing is left open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=r"NUL|empty"):
        host.run(bad)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_too_long_argument(host: Host) -> None:
    """One argument over the kernel's limit is a failure of exec."""
    run = host.run(["/bin/true", "x" * 200_000])
    await run.released()
    assert run.only(wire.SpawnFailed).stage == "exec"


async def test_end_record(host: Host, tmp_path: Path) -> None:
    """The end record tells what Ended tells."""
    path = tmp_path / "end.json"
    record = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    run = host.run(["sh", "-c", "echo hi; exit 3"], end_record=record)
    os.close(record)
    ended = await run.finish()
    assert ended.record_error is None
    data = json.loads(path.read_text())
    assert (data["version"], data["kind"], data["return_code"]) == (1, "ended", 3)
    assert data["sizes"] == {"stdout": 3}
    assert data["started_at"] <= data["ended_at"]


async def test_end_record_that_cannot_be_written(host: Host) -> None:
    """A record that cannot be written is told, and changes nothing else."""
    record = os.open("/dev/full", os.O_RDWR)
    run = host.run(["sh", "-c", "exit 3"], end_record=record)
    os.close(record)
    ended = await run.finish()
    assert ended.return_code == 3
    assert ended.record_error


async def test_nothing_is_left_in_the_host(tmp_path: Path, anyio_backend: object) -> None:
    """After close the host has the descriptors and children that it had before."""
    from .conftest import open_host

    async def once() -> None:
        async with open_host(tmp_path) as host:
            runs = [host.run(["sh", "-c", f"exit {i}"]) for i in range(20)]
            for i, run in enumerate(runs):
                assert (await run.finish()).return_code == i

    def state() -> tuple[int, str]:
        me = os.getpid()
        return len(os.listdir("/proc/self/fd")), Path(f"/proc/{me}/task/{me}/children").read_text()

    await once()
    before = state()
    await once()
    assert state() == before


async def test_broken_interpreter_is_an_error_at_start(anyio_backend: object) -> None:
    """A warden that does not come up is an OSError, and no process is left of it."""
    from eventbus_tasks._process.handle import WardenClient

    for bad in ("/nope", "/bin/true"):
        with pytest.raises(OSError, match=r"nope|no warden"):
            await anyio.to_thread.run_sync(WardenClient.start, bad)


async def test_the_warden_does_not_import_the_package(host: Host) -> None:
    """The warden is small: it maps no compiled module of the packages that the host uses."""
    maps = await anyio.Path(f"/proc/{host.warden.pid}/maps").read_text()
    assert "site-packages" not in maps

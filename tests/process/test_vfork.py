"""Programs that are executed without a fork, and those that cannot be."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventbus_tasks._process import handle, launch, vfork, wire
from eventbus_tasks._process.mounts import Mounts

from .conftest import GUARD, open_host

if TYPE_CHECKING:
    from .conftest import Host

LOOK = """
import ctypes, json, os, resource, signal, sys
libc, answer = ctypes.CDLL(None), ctypes.c_int()
libc.prctl(2, ctypes.byref(answer))
status = open("/proc/self/status").read().splitlines()
umask = os.umask(0)
print(json.dumps({
    "argv": sys.argv[1:],
    "cwd": os.getcwd(),
    "env": sorted(map(repr, os.environb.items())),
    "umask": umask,
    "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
    "dies with its parent": answer.value,
    "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
    "signals": [line for line in status if line.startswith(("SigBlk", "SigIgn", "ShdPnd"))],
    "open": sorted(os.listdir("/proc/self/fd"))[:3],
    "inherited": [n for n in range(3, 400) if os.path.exists(f"/proc/self/fd/{n}")],
    "reads": os.read(0, 99).decode(),
}), flush=True)
os.write(2, b"and complains")
"""

BOTH_WAYS = """
import os, signal, sys
from eventbus_tasks._process import vfork
from eventbus_tasks._process.dispositions import IGNORED, block_handled, unblock_all
from eventbus_tasks._process.image import encode, find_programs
from eventbus_tasks._process.spawn import LeaderPlan, start_leader
os.chdir("/")
for number in IGNORED:
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGTERM, print)
vfork.try_out()
vfork.prepare()
here = os.fsencode(sys.argv[1])
path = b"/nowhere::/" + b"x" * 300 + b":" + os.path.dirname(os.fsencode(sys.executable))
env = {b"PATH": path, b"N\\xff": b"\\xfe=", b"EMPTY": b""}
argv = [os.path.basename(os.fsencode(sys.executable)), b"-I", b"-S", b"-c",
        os.fsencode(sys.argv[2]), b"", b"\\xff", "\\u00e9".encode()]
for number in [number for _ in "ab" for number in os.pipe()]:
    os.set_inheritable(number, True)
for quickly in (False, True):
    out = os.memfd_create("out")
    stdin, end = os.pipe()
    os.write(end, b"something")
    plan = LeaderPlan(argv=argv, cwd=here, env=env, umask=0o027, nofile=123, stdin=stdin,
                      stdout=out, stderr=out)
    spec = os.memfd_create("spec")
    os.write(spec, b"{}" + encode(here, find_programs(argv[0], env[b"PATH"]), argv,
             [b"=".join(one) for one in env.items()], 0o027))
    if quickly:
        loaded = vfork.load(spec, 2, 123)
        vfork.connect(stdin, out, out)
        block_handled()
        pid = vfork.execute(loaded)
        unblock_all()
        assert pid > 0, pid
    else:
        pid, _ = start_leader(lambda: plan)
    assert os.waitpid(pid, 0) == (pid, 0)
    print(os.pread(out, 99999, 0).decode())
assert os.getcwd() == "/"
"""


def python(code: str, *arguments: str) -> str:
    """Run a program that uses the package, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=GUARD,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    return done.stdout


only_here = pytest.mark.skipif(
    not vfork._AT, reason="it is used on x86-64 with the GNU C library 2.34 or later only"
)


def test_where_it_is_used() -> None:
    """On the machines that it was made for, with a library and a kernel of today, it is used."""
    library, version = platform.libc_ver()
    new = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 34)
    here = new and platform.machine() == "x86_64" and sys.maxsize > 1 << 32
    assert bool(vfork._AT) == here


@only_here
def test_program_finds_what_it_finds_after_a_fork(tmp_path: Path) -> None:
    """Both ways a program has the same arguments, environment, limits, signals and descriptors."""
    lines = python(BOTH_WAYS, str(tmp_path), LOOK).splitlines()
    (forked, one), (quick, two) = map(json.JSONDecoder().raw_decode, lines[::2])
    assert quick == forked
    assert (one, two, lines[1::2]) == (len(lines[0]), len(lines[2]), ["and complains"] * 2)
    assert quick["cwd"] == str(tmp_path)
    assert (quick["umask"], quick["limits"][0]) == (0o027, 123)
    assert (quick["dies with its parent"], quick["leads"]) == (9, [True, True])
    assert not quick["inherited"]


BROKEN = {
    "another layout": "vfork._FIRST = 12",
    "another mask": "vfork._MASK = 38",
    "a call that kills": "import signal; vfork._AT['setsid'] = vfork._AT['execve'] + (1 << 40)",
    "a function that is missing": "vfork._AT.clear()",
    "a program that is executed after all": "vfork._AT['execve'] = vfork._AT['umask']; "
    "vfork._AT['memset'] = vfork._AT['umask']",
}


@only_here
@pytest.mark.parametrize("what", BROKEN)
def test_what_does_not_work_is_not_used(what: str) -> None:
    """Where the first attempt does not go as it should there is no second, and nothing is left."""
    said = python(f"""
import os
from eventbus_tasks._process import family, vfork
{BROKEN[what]}
before = sorted(os.listdir("/proc/self/fd"))
vfork.try_out()
vfork.prepare()
assert sorted(os.listdir("/proc/self/fd")) == before
print(vfork._room, vfork.load(0, 0, 9), family.children(os.getpid()))
""")
    assert said == "None None []\n"


@only_here
@pytest.mark.parametrize("first", ["", "signal.pthread_sigmask(signal.SIG_BLOCK, [10, 15, 17])"])
def test_it_is_used_here(first: str) -> None:
    """On the machines that it was made for it works, whatever was blocked before."""
    said = python(f"""
import signal
from eventbus_tasks._process import vfork
{first}
vfork.try_out()
print(vfork._room is not None, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
""")
    assert said == "True set()\n"


@pytest.mark.anyio
async def test_tasks_where_it_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not work programs are forked, and everything is as it would be."""
    boot = "from eventbus_tasks._process import vfork\nvfork._AT.clear()\nfrom eventbus"
    monkeypatch.setattr(handle, "_BOOT", handle._BOOT.replace("from eventbus", boot, 1))
    async with open_host(tmp_path) as host:
        run = host.run(["sh", "-c", "echo $0 $PPID; exit 3"])
        assert (await run.finish()).return_code == 3
        assert run.output().startswith(b"sh ")
        missing = host.run(["there-is-no-such-program"])
        await missing.released()
        assert missing.only(wire.SpawnFailed).errno == 2


@pytest.mark.anyio
async def test_arguments_that_are_too_many(host: Host) -> None:
    """A program with more arguments and variables than there is room for is forked."""
    env = {**os.environ, **{f"LONG{n}": "x" * 100_000 for n in range(6)}}
    run = host.run(["sh", "-c", "echo ${#LONG0} ${#LONG5}"], env=env)
    assert (await run.finish()).return_code == 0
    assert run.output() == b"100000 100000\n"


@pytest.mark.anyio
async def test_arguments_under_a_limit_for_files(host: Host) -> None:
    """Where a limit leaves room for the specification alone the program is forked."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (45_000, before[1]))
    try:
        run = host.run(["sh", "-c", "echo ok; : " + "x" * 30_000], env={"PATH": os.defpath})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (await run.finish()).return_code == 0
    assert run.output() == b"ok\n"


@pytest.mark.anyio
async def test_search_goes_on_past_what_cannot_be_executed(host: Host, tmp_path: Path) -> None:
    """A directory, a file without permission and a broken script are no program of that name."""
    places = [tmp_path / name for name in "abcd"]
    for place in places:
        place.mkdir()
    (places[0] / "tool").mkdir()
    (places[1] / "tool").write_text("#!/bin/sh\necho wrong\n")
    (places[2] / "tool").write_text("#!/nowhere/sh\necho wrong\n")
    (places[2] / "tool").chmod(0o755)
    (places[3] / "tool").write_text('#!/bin/sh\necho "$0"\n')
    (places[3] / "tool").chmod(0o755)
    path = ":".join(map(str, places))
    run = host.run(["tool"], env={"PATH": path})
    assert (await run.finish()).return_code == 0
    assert run.output() == f"{places[3]}/tool\n".encode()


@pytest.mark.anyio
async def test_program_relative_to_its_directory(host: Host, tmp_path: Path) -> None:
    """A program with a slash is looked for where it will work, and so is one by an empty entry."""
    (tmp_path / "tool").write_text("#!/bin/sh\necho $PWD\n")
    (tmp_path / "tool").chmod(0o755)
    options: dict[str, Any] = {"cwd": tmp_path, "env": {"PATH": "/nowhere:"}}
    for name in ("./tool", "tool"):
        run = host.run([name], **options)
        assert (await run.finish()).return_code == 0
        assert run.output() == f"{tmp_path}\n".encode()


@pytest.mark.anyio
async def test_search_goes_on_past_what_cannot_be_looked_at(host: Host, tmp_path: Path) -> None:
    """Entries of PATH that are too long or lead in circles are skipped, whichever way is taken."""
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    path = f"{circle}:/{'x' * 300}:{os.defpath}"
    for env in ({}, {f"LONG{n}": "x" * 100_000 for n in range(6)}):
        run = host.run(["true"], env={**env, "PATH": path})
        assert (await run.finish()).return_code == 0


@pytest.mark.anyio
async def test_variable_that_is_given_twice(host: Host) -> None:
    """Of two names that are the same for a program it gets the last one, whichever way is taken."""
    for env in ({}, {f"LONG{n}": "x" * 100_000 for n in range(6)}):
        names = {"\u00e9": "first", "\udcc3\udca9": "last"}
        run = host.python("import os; print(os.environb[b'\\xc3\\xa9'])", env={**env, **names})
        assert (await run.finish()).return_code == 0
        assert run.output() == b"b'last'\n"


@pytest.mark.anyio
async def test_early_output_to_a_file_is_announced(host: Host) -> None:
    """What a program writes to its log itself rings the bell, however early it is."""
    for _ in range(20):
        run = host.run(["sh", "-c", "echo hello; exec sleep 600"], capture="file")
        assert await run.output_has(b"hello\n") == b"hello\n"
        run.link.stop("cancelled", now=True)
        await run.finish()


SLOW = """
from eventbus_tasks._process import family, leader, starting
look = leader.stat_fields
def not_at_first(path):
    fields = look(path)
    fields[family.FLAGS] = b"%d" % (int(fields[family.FLAGS]) | family.FORKED_NO_EXEC)
    return fields
leader.stat_fields = not_at_first
read = family.read_process
times = iter(range(3))
def not_yet(pid):
    process = read(pid)
    if process is not None and next(times, None) is not None:
        process.flags |= family.FORKED_NO_EXEC
    return process
starting.read_process = not_yet
"""


@only_here
@pytest.mark.anyio
async def test_program_that_is_not_executed_quite_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guardian that goes on in the middle of the execve waits for the rest of it."""
    boot = f"exec({SLOW!r})\nfrom eventbus_tasks._process.warden import main"
    plain = "from eventbus_tasks._process.warden import main"
    monkeypatch.setattr(handle, "_BOOT", handle._BOOT.replace(plain, boot, 1))
    async with open_host(tmp_path) as host:
        run = host.run(["sh", "-c", "echo hello; exit 5"])
        ended = await run.finish()
        assert (ended.return_code, run.output()) == (5, b"hello\n")
        assert os.path.basename(run.only(wire.Started).executable) in ("sh", "dash", "bash")


@pytest.mark.parametrize("entries", [0, 1, 127, 128, 200, 255, 256])
def test_image_is_no_part_of_the_specification(entries: int) -> None:
    """Whoever takes a task over reads the specification before it, whatever the image is like."""
    env = {"PATH": ":".join(f"/{n}" for n in range(entries))}
    spec = wire.LaunchSpec(uid="u", argv=["tool"], cwd="/", env=env)
    data = b"\0".join((spec.encode(), launch.image_of(spec)))
    assert wire.LaunchSpec.decode(data).env == env


MOUNTS = {
    "30 1 8:1 / / rw,relatime - ext4 /dev/vda rw": True,
    "30 1 8:1 / /a rw shared:1 master:2 - overlay overlay rw": True,
    "31 30 0:40 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw": True,
    "31 30 0:40 / /home rw - autofs auto.home rw": False,
    "31 30 0:40 / /srv rw - nfs4 server:/srv rw": False,
    "31 30 0:40 / /run/user/1/gvfs rw - fuse.gvfsd-fuse gvfsd-fuse rw": False,
    "31 30 0:40 / /mnt rw - 9p drvfs rw": False,
    "something else": False,
}


@pytest.mark.parametrize("line", MOUNTS)
def test_mounts_that_answer(line: str) -> None:
    """Only file systems that are known to answer do; one of another kind is enough."""
    mounts = Mounts()
    os.close(mounts.descriptor)
    mounts.descriptor = os.memfd_create("mountinfo")
    try:
        os.write(mounts.descriptor, b"29 1 0:5 / /proc rw - proc proc rw\n")
        assert mounts.all_local()
        os.write(mounts.descriptor, line.encode() + b"\n")
        assert mounts.all_local()  # nobody has told of a change
        mounts.change()
        assert mounts.all_local() == MOUNTS[line]
    finally:
        os.close(mounts.descriptor)

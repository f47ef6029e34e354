"""I: what comes in from outside, and what must not get out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import select
import sys
from pathlib import Path
from typing import Any

from eventbus_tasks import InvalidRequestError, Reason, TaskEngine
from tests.faults.suite.persist import DISK, ebt, kept
from tests.faults.suite.registry import scenario
from tests.faults.suite.scene import Scene


@scenario("I01", "1 MB on standard input", "complete")
async def large_input(scene: Scene) -> str:
    project = scene.project()
    data = os.urandom(1_000_000)
    code = """
import hashlib
import json
data = b""
while part := os.read(0, 65536):
    data += part
flag("sum", hashlib.sha256(data).hexdigest())
"""
    async with scene.engine() as engine:
        await scene.run(engine, project, code, stdin=data)
    assert project.text("sum") == hashlib.sha256(data).hexdigest()
    return "1,000,000 bytes, the same digest"


@scenario("I02", "input that nobody reads", "no hang, no SIGPIPE")
async def unread_input(scene: Scene) -> str:
    async with scene.engine() as engine:
        _, outcome = await scene.run(engine, scene.project(), "pass", stdin=b"x" * 5_000_000)
    assert outcome.return_code == 0
    return "exit code 0"


@scenario("I03", "no input", "standard input is /dev/null")
async def no_input(scene: Scene) -> str:
    project = scene.project()
    async with scene.engine() as engine:
        await scene.run(engine, project, "flag('stdin', os.readlink('/proc/self/fd/0'))")
    assert project.text("stdin") == "/dev/null"
    return project.text("stdin")


@scenario(
    "I04",
    "prompts -v, --version, --- front matter, only spaces, empty",
    "they arrive as they are, never as an option; empty ones are refused",
    needs=("claude",),
)
async def prompts(scene: Scene) -> str:
    project = scene.project()
    programs = scene.directory / "bin"
    programs.mkdir()
    fake = programs / "claude"
    fake.write_text(f"""#!{sys.executable} -IS
import json, os, sys
data = b""
while part := os.read(0, 65536):
    data += part
with open({str(project.book / "got")!r}, "w") as file:
    json.dump([sys.argv[1:], data.decode()], file)
""")
    fake.chmod(0o755)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    os.environ["EBT_PLUGINS"] = "claude"
    wanted = [
        "-v",
        "--version",
        "---\ntitle: x\n---\ndo it",
        " -p x ",
        '"; rm -rf $HOME #',
        "é\t\\n",
    ]
    refused = 0
    async with scene.engine(load_installed=True) as engine:
        for prompt in wanted:
            task = await engine.spawn_task("x", prompt, project.directory, agent="claude")
            await task.wait()
            arguments, arrived = json.loads(project.text("got"))
            assert arrived == prompt
            assert prompt not in arguments
        for prompt in ("", "   "):
            with contextlib.suppress(InvalidRequestError):
                task = await engine.spawn_task("x", prompt, project.directory, agent="claude")
                outcome = await task.wait()
                assert outcome.reason is Reason.PLUGIN_ERROR, outcome
            refused += 1
    return f"{len(wanted)} arrived verbatim, {refused} refused"


@scenario(
    "I05",
    "names ../x, a/b, NUL, 65 characters, right-to-left; ids ../x",
    "refused, or kept as text: no file anywhere else",
    needs=DISK,
)
async def names(scene: Scene) -> str:
    project = scene.project()
    accepted = refused = 0
    wanted = ["../../x", "a/b", "/etc/x", "A", "x" * 65, "\u202ename", "\n", "", "\0", ".", "-rf"]
    async with scene.engine(load_installed=True) as engine:
        for name in wanted:
            try:
                task = await engine.spawn_task(name, "", project.directory, argv=["true"])
                await task.wait()
                accepted += 1
            except InvalidRequestError:
                refused += 1
    entries = {path.name for path in project.directory.iterdir()}
    assert entries == {".claude-tasks"}, entries
    for path in kept(scene).iterdir():
        assert path.name == ".gitignore" or path.name.startswith("task-"), path
    assert {path.name for path in project.directory.parent.iterdir()} == {"project"}
    for wrong in ("../x", "/etc/passwd", "99999", "\u202e"):
        done = ebt("show", wrong)
        assert done.returncode in (0, 1, 2), done  # part of a name finds a task, as it should
        assert "root:" not in done.stdout
        assert "\u202e" not in done.stdout + done.stderr
    return f"{accepted} kept as text, {refused} refused; files only task-*"


BAD = ("\x1b]52;c;eA==\x07", "\x1b]8;;http://x\x1b\\", "\x1b[31337m", "\u202e", "\x9b31337m")


@scenario(
    "I06",
    "OSC 52, OSC 8, CSI and bidi in line, name, error and path; ebt on a terminal",
    "none of it reaches the screen",
    needs=DISK,
    lossy=True,
)
def screen(scene: Scene) -> str:
    evil = "".join(BAD)
    directory = scene.directory / f"path{evil.replace('/', '')}"
    directory.mkdir()
    seen = b""
    for arguments in (
        ["run", "-n", f"n{evil}", "-C", str(directory), "--", "printf", "%s\\n", f"l{evil}l"],
        ["run", "-n", f"n{evil}", "-C", str(directory), "--", f"/nope/{evil}"],
        ["ls"],
        ["show", "1"],
        ["logs", "1"],
        ["logs", evil],
    ):
        pid, master = pty.fork()
        if not pid:
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [sys.executable, "-m", "eventbus_tasks", *arguments])
        part = b""
        with contextlib.suppress(OSError):  # EIO: the other side was closed
            while select.select([master], [], [], 60)[0]:
                data = os.read(master, 65536)
                if not data:
                    break
                part += data
        os.close(master)
        os.waitpid(pid, 0)
        assert part, arguments
        seen += part
    for sequence in (b"\x1b]52", b"\x1b]8", b"\x1b[31337", "\u202e".encode(), b"\xc2\x9b"):
        assert sequence not in seen, seen
    return f"{len(seen)} bytes on the screen, no foreign control among them"


@scenario(
    "I07",
    "secrets in environment and standard input",
    "not in any file, event, command line or ebt's output",
    needs=DISK,
)
async def secrets(scene: Scene) -> str:
    project = scene.project()
    secret, other = "s3cret-of-env", "s3cret-of-stdin"
    async with scene.engine(load_installed=True) as engine:
        task = await scene.start(
            engine,
            project,
            "flag('up'); lines(3); wait('go')",
            env={"API_KEY": secret},
            stdin=other.encode(),
        )
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{name}/cmdline").read_bytes()
                    assert b"s3cret" not in line, line
        project.flag("go")
        await task.wait()
        assert task.outcome is not None
        assert "s3cret" not in repr(task.request)
    searched = 0
    for place in (scene.directory, Path(os.environ["EBT_STATE_DIR"])):
        for path in place.rglob("*"):
            if path.is_file():
                searched += 1
                assert b"s3cret" not in path.read_bytes(), path
    shown = ebt("show", "1", "--json").stdout + ebt("ls", "--json").stdout
    assert "s3cret" not in shown
    return f"{searched} files, all command lines, events, show and ls: nowhere"


@scenario(
    "I08",
    "our folders in the state directory can be written by everybody",
    "nothing is trusted or written there; the task runs, and says so",
    needs=DISK,
)
async def shared_state(scene: Scene) -> str:
    from eventbus_tasks_disk.history import STATE_FOLDER

    folders = [Path(os.environ["EBT_STATE_DIR"]) / name for name in (STATE_FOLDER, "holders")]
    for folder in folders:
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    async with scene.engine(load_installed=True) as engine:
        _, outcome = await scene.run(engine, scene.project(), "lines(3)")
    assert outcome.reason is Reason.EXITED
    assert outcome.persist_error
    for folder in folders:
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o777 == 0o777
    return f"exited; nothing written there; {outcome.persist_error}"[:140]


@scenario(
    "I09",
    "project paths with newline, quotes, 3,500 bytes, not UTF-8",
    "they work",
    needs=DISK,
)
async def paths(scene: Scene) -> str:
    base = os.fsencode(scene.directory / "odd")
    long = base + b"/long" + b"".join(b"/" + b"d" * 200 for _ in range(16))
    wanted = [base + b"/new\nline", base + b"/quo'te\"$x;", long, base + b"/raw-\xff\xfe"]
    done = 0
    async with scene.engine(load_installed=True) as engine:
        for path in wanted:
            os.makedirs(path)
            await _works_in(engine, os.fsdecode(path))
            done += 1
    listed = ebt("ls", "--json", "-n", "0")
    assert listed.returncode == 0, listed.stderr
    return f"{done} of {len(wanted)} paths, and ls shows them"


async def _works_in(engine: TaskEngine, directory: Any) -> None:
    task = await engine.spawn_task("x", "", directory, argv=["pwd"])
    outcome = await task.wait()
    assert outcome.return_code == 0, outcome
    assert outcome.persist_error is None, outcome
    assert task.output.read() == os.fsencode(directory) + b"\n"
    assert list(Path(directory, ".claude-tasks").glob("*-output.md"))

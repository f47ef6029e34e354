"""P: what is on disk, whatever the disk does."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from eventbus_tasks import OutputDropped, Reason, Task
from tests.faults.suite.outside import HostProcess
from tests.faults.suite.registry import not_here, scenario
from tests.faults.suite.scene import Scene
from tests.faults.suite.terminate import PRIVATE_NUMBERS

KEPT = ".claude-tasks"
DISK = ("disk",)
MOUNTS = ("disk", "userns")


def ebt(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``ebt``, which must not take long."""
    command = [sys.executable, "-m", "eventbus_tasks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=cwd)


def rows() -> list[dict[str, Any]]:
    """Return what ``ebt ls`` knows."""
    done = ebt("ls", "--json", "-n", "0")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def kept(scene: Scene | HostProcess, name: str = "project") -> Path:
    """Return the directory of our files in a project."""
    return scene.project(name).directory / KEPT


def markdown(folder: Path) -> list[str]:
    """Return the text of every readable file."""
    return [path.read_text() for path in sorted(folder.glob("*.md"))]


def assert_no_halves(folder: Path) -> None:
    """Check that there is no temporary file, and no readable file without its end."""
    names = os.listdir(folder) if folder.exists() else []
    assert not [name for name in names if name.startswith(".") and name != ".gitignore"], names
    for text in markdown(folder):
        assert re.search(r"\n`{3,}\n\Z", text), text[-100:]


def mount(kind: str, target: Path, *options: str) -> None:
    """Mount a file system."""
    subprocess.run(["mount", "-t", kind, *options, "none", str(target)], check=True)


@scenario(
    "P01",
    "the disk of the project is full",
    "the task ends by itself; bytes lost are counted and told; no half file",
    needs=MOUNTS,
    wrap=PRIVATE_NUMBERS,
    lossy=True,
)
async def disk_full(scene: Scene) -> str:
    project = scene.project()
    mount("tmpfs", project.directory, "-o", "size=256k")
    async with scene.engine(load_installed=True) as engine:
        task, outcome = await scene.run(engine, project, "lines(40000); flag('done')")
        assert project.has("done")
        assert outcome.reason is Reason.EXITED, outcome
        lost = sum(outcome.lost_bytes.values())
        told = sum(event.end - event.start for event in scene.of(OutputDropped, task))
        assert lost == told > 0
        assert outcome.persist_error
        assert_no_halves(kept(scene))
    subprocess.run(["umount", str(project.directory)], check=True)
    return f"exited; {lost} of {outcome.output_bytes['stdout']} bytes lost, told; persist_error set"


@scenario(
    "P02",
    "the project is read-only",
    "persist_error; the task runs, its output is there",
    needs=MOUNTS,
    wrap=PRIVATE_NUMBERS,
)
async def read_only(scene: Scene) -> str:
    project = scene.project()
    mount("tmpfs", project.directory, "-o", "ro")
    async with scene.engine(load_installed=True) as engine:
        task, outcome = await scene.run(engine, project, "lines(100)")
        assert outcome.reason is Reason.EXITED
        assert outcome.persist_error
        assert len(task.output.tail()) == 100
    subprocess.run(["umount", str(project.directory)], check=True)
    return f"exited, 100 lines; {outcome.persist_error[:60]}"


@scenario(
    "P03",
    "the project is removed while the task runs",
    "it ends, says so, and the directory is not made again",
    needs=DISK,
    lossy=True,
)
async def removed(scene: Scene) -> str:
    project = scene.project()
    async with scene.engine(load_installed=True) as engine:
        code = "lines(5); flag('up'); wait('go'); lines(5)"
        task = await scene.start(engine, project, code)
        shutil.rmtree(project.directory)
        project.flag("go")
        outcome = await task.wait()
        assert outcome.reason is Reason.EXITED
        assert outcome.persist_error
        assert not project.directory.exists()
    return f"exited; {outcome.persist_error[:70]}"


@scenario("P04", f"{KEPT} is a symlink", "the victim is untouched, the task runs", needs=DISK)
async def symlink(scene: Scene) -> str:
    project = scene.project()
    victim = scene.directory / "victim"
    victim.mkdir()
    (victim / "precious").write_text("mine")
    kept(scene).symlink_to(victim)
    async with scene.engine(load_installed=True) as engine:
        _, outcome = await scene.run(engine, project, "lines(3)")
    assert os.listdir(victim) == ["precious"]
    assert (victim / "precious").read_text() == "mine"
    assert outcome.persist_error
    return f"victim untouched; {outcome.persist_error[:60]}"


@scenario("P05", "fences and headings in the output", "they stay inside of ours", needs=DISK)
async def fences(scene: Scene) -> str:
    project = scene.project()
    code = "out(b'```\\n# fake\\n' + b'`' * 40 + b'\\n## more\\n~~~\\n')"
    async with scene.engine(load_installed=True) as engine:
        await scene.run(engine, project, code)
    (text,) = markdown(kept(scene))
    fence = "`" * 41
    _, output, after = re.split(rf"(?m)^{fence}(?:text)?$", text)
    assert output == "\n```\n# fake\n" + "`" * 40 + "\n## more\n~~~\n"
    assert after == "\n"
    return "a fence of 41 around one of 40"


@scenario("P06", "umask 0", "files 0600, directory 0700", needs=DISK)
async def modes(scene: Scene) -> str:
    os.umask(0)
    async with scene.engine(load_installed=True) as engine:
        await scene.run(engine, scene.project(), "lines(3)")
    folder = kept(scene)
    found = {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert found == {"0o600"}, found
    assert folder.stat().st_mode & 0o777 == 0o700
    state = Path(os.environ["EBT_STATE_DIR"])
    wide = [path for path in state.rglob("*") if path.stat().st_mode & 0o077]
    assert not wide, wide
    return f"0600 for {len(os.listdir(folder))} files, 0700; the state directory, too"


not_here(
    "P07",
    "power cut at every step",
    "old or new file; the log a prefix",
    "needs a loop device, which test machines do not lend; the order write, fsync, rename, fsync "
    "of the directory is one function of the disk plugin",
)


@scenario(
    "P08",
    "EFBIG by a limit of file size, without root",
    "the child is not stopped; bytes lost are counted and told",
    lossy=True,
)
async def size_limit(scene: Scene) -> str:
    project = scene.project()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    async with scene.engine() as engine:
        code = "out(b'a line of text\\n' * 20000)"
        task, outcome = await scene.run(engine, project, code)
        lost = sum(event.end - event.start for event in scene.of(OutputDropped, task))
        assert outcome.reason is Reason.EXITED, outcome
        assert lost == outcome.lost_bytes["stdout"] == 300_000 - 100_000
        assert task.output.read(0, 100_000) == (b"a line of text\n" * 20000)[:100_000]
        task.output.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return f"exited; 100,000 bytes kept, {lost} lost and told"


not_here(
    "P09",
    "EIO",
    "as a full disk",
    "needs the device mapper; EFBIG (P08) and ENOSPC (P01) take the same way through the code",
)


@scenario(
    "P10",
    "torn tail, flipped byte, missing log, foreign files",
    "reading the history never fails; what is whole is shown",
    needs=DISK,
    lossy=True,
)
async def damaged(scene: Scene) -> str:
    tasks: list[Task] = []
    async with scene.engine(load_installed=True) as engine:
        for n in range(4):
            task, _ = await scene.run(engine, scene.project(f"p{n}"), "lines(5)")
            tasks.append(task)
    journals = [next(kept(scene, f"p{n}").glob("*.events.jsonl")) for n in range(4)]
    whole = journals[0].read_bytes()
    journals[0].write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(journals[1].read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    journals[1].write_bytes(flipped)
    next(kept(scene, "p2").glob("*.stdout.log")).unlink()
    (kept(scene, "p3") / "task-999.events.jsonl").write_text("{\n")
    (kept(scene, "p3") / "notes.txt").write_bytes(b"\xff\x00")
    state = Path(os.environ["EBT_STATE_DIR"])
    for path in state.rglob("*"):
        if path.is_file() and "index" in path.name:
            with path.open("ab") as file:
                file.write(b'{"torn": ')
    found = rows()
    assert len(found) == 4, found
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "eventbus_tasks", command, str(task.id)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for task in tasks[:3]
        for command in ("show", "logs")
    ]
    for reader in readers:
        errors = reader.communicate(timeout=240)[1].decode()
        assert "Traceback" not in errors, errors
        assert reader.returncode in (0, 1), errors
    async with scene.engine(load_installed=True) as engine:
        await scene.run(engine, scene.project("p0"), "lines(5)")
    return "4 of 4 listed; " + ", ".join(str(row.get("status")) for row in found)


@scenario(
    "P11", "several readers of a lost task at once", "each task once, the same for all", needs=DISK
)
async def readers(scene: Scene) -> str:
    async with scene.engine(load_installed=True) as engine:
        await scene.start(engine, scene.project(), "flag('up'); lines(10**9, 0.002)")
        scene.tell("ready")
        await scene.told()
    return ""


@readers.direct
def read_at_once(host: HostProcess) -> str:
    host.hear("ready")
    host.kill()
    host.assert_all_gone()
    command = [sys.executable, "-m", "eventbus_tasks", "ls", "--json"]
    readers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "EBT_PLUGINS": "disk"})
        for _ in range(4)
    ]
    answers = [json.loads(reader.communicate(timeout=240)[0]) for reader in readers]
    assert all(len(answer) == 1 for answer in answers), answers
    assert len({json.dumps(answer, sort_keys=True) for answer in answers}) == 1
    return f"4 readers, the same row: {answers[0][0]['status']} ({answers[0][0].get('reason')})"


@scenario(
    "P12",
    "symlink, FIFO, directory, hard link in place of the files",
    "no hang; nothing foreign is written",
    needs=DISK,
)
async def planted(scene: Scene) -> str:
    project = scene.project()
    folder = kept(scene)
    folder.mkdir(mode=0o700)
    victim = scene.directory / "victim"
    victim.write_text("mine")
    (folder / "task-1.stdout.log").symlink_to(victim)
    os.mkfifo(folder / "task-2.stdout.log")
    (folder / "task-3.events.jsonl").mkdir()
    os.link(victim, folder / "task-4.end.json")
    os.mkfifo(folder / "task-5-output.md")
    errors = 0
    async with scene.engine(load_installed=True) as engine:
        for _ in range(5):
            task, outcome = await scene.run(engine, project, "lines(3)")
            assert outcome.reason is Reason.EXITED
            assert len(task.output.tail()) == 3
            errors += outcome.persist_error is not None
    assert victim.read_text() == "mine"
    assert_no_halves_but_pipes(folder)
    return f"5 tasks ended, {errors} with persist_error; victim untouched"


def assert_no_halves_but_pipes(folder: Path) -> None:
    """Check for temporary files."""
    names = [name for name in os.listdir(folder) if name.startswith(".") and name != ".gitignore"]
    assert not names, names


@scenario(
    "P13",
    "newlines, ---, fences and HTML in name and prompt",
    "the header is read back",
    needs=DISK,
)
async def header(scene: Scene) -> str:
    project = scene.project()
    name = 'x"\n---\n```\n# <script>alert(1)</script>\n\u202e'
    prompt = "---\nname: other\n```\n<!-- -->\n"
    async with scene.engine(load_installed=True) as engine:
        task = await engine.spawn_task(
            name, prompt, project.directory, argv=["sh", "-c", "echo hello"]
        )
        await task.wait()
        assert task.outcome is not None
        assert task.outcome.persist_error is None
    (text,) = markdown(kept(scene))
    block = text.partition("```yaml\n")[2].partition("\n```\n")[0]
    facts = {
        key: json.loads(value)
        for key, _, value in (line.partition(": ") for line in block.splitlines())
    }
    assert facts["name"] == name
    assert facts["prompt"] == prompt
    assert "\u202e" not in text
    return f"{len(facts)} facts, name and prompt as they were"


@scenario("P14", "20,000 files of old tasks", "a task starts and ends; ls answers", needs=DISK)
async def many_files(scene: Scene) -> str:
    project = scene.project()
    folder = kept(scene)
    folder.mkdir(mode=0o700)
    for number in range(20_000):
        os.close(os.open(folder / f"task-{number}-old-output.md", os.O_CREAT | os.O_WRONLY, 0o600))
    async with scene.engine(load_installed=True) as engine:
        task, outcome = await scene.run(engine, project, "lines(3)")
    assert outcome.persist_error is None
    assert task.started_at is not None
    assert len(rows()) == 1
    return f"started {(task.started_at - task.created_at).total_seconds() * 1000:.0f} ms later"

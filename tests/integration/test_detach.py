"""`ebt run --detach`: tasks in the background, with and without the host that stays with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pytest

from eventbus_tasks import RunningTask, find_running_tasks

from .conftest import PATIENCE, WRITER, assert_whole, detached_task, end_what_runs, until
from .test_cli_with_plugins import FAKE_CLAUDE

NEEDED: Final = {"claude", "disk"}

pytestmark = pytest.mark.skipif(
    not {entry.name for entry in metadata.entry_points(group="eventbus_tasks")} >= NEEDED,
    reason="needs the plugins installed: tox run -e integration",
)


class Scene:
    """A project in which `ebt` is called, and a gate for what runs there."""

    def __init__(self, directory: Path) -> None:
        self.project = directory / "project"
        self.project.mkdir()
        self.gate = directory / "gate"
        os.mkfifo(self.gate)
        self.folder = directory / "bin"
        self.folder.mkdir()
        path = os.pathsep.join((str(self.folder), os.environ["PATH"]))
        self.environ = {**os.environ, "PATH": path, "EBT_PLUGINS": "claude,disk"}

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `ebt`."""
        return subprocess.Popen(
            [sys.executable, "-m", "eventbus_tasks", *arguments],
            cwd=self.project,
            env=self.environ,
            stdout=subprocess.PIPE,
        )

    def ebt(self, *arguments: str) -> tuple[int, bytes]:
        """Run `ebt` to its end; return exit code and output."""
        with self.start(*arguments) as process:
            output = process.communicate(timeout=PATIENCE)[0]
        return process.returncode, output

    def detach(self, *arguments: str) -> dict[str, Any]:
        """Start something in the background; return what is said about it."""
        code, output = self.ebt("run", "--detach", "--json", "--name", "work", *arguments)
        assert code == 0
        return dict(json.loads(output))

    def lose_host(self, started: dict[str, Any]) -> RunningTask:
        """Kill the host of a task, and return the task once its guardian knows."""
        os.kill(started["host_pid"], signal.SIGKILL)
        return detached_task()

    def show(self) -> dict[str, Any]:
        """Return what is known about the task."""
        return dict(json.loads(self.ebt("show", "--json", "work")[1]))

    def open_gate(self) -> None:
        """Let the program go on that waits at the gate."""
        with self.gate.open("w") as gate:
            gate.write("go\n")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a scene; what a failed test has left of it is ended."""
    yield Scene(tmp_path)
    end_what_runs()


@pytest.fixture
def agent(scene: Scene) -> None:
    """Put a `claude` on the path that works until the gate is opened, if its prompt says so."""
    script = FAKE_CLAUDE.replace("signal.pause()", f"open({str(scene.gate)!r}).read()")
    file = scene.folder / "claude"
    file.write_text(textwrap.dedent(script).format(python=sys.executable))
    file.chmod(0o700)


def test_with_its_host(scene: Scene) -> None:
    """The task is listed, followed and waited for; its end is that of any other task."""
    started = scene.detach("--", "sh", "-c", f"echo begun; read x < {scene.gate}; exit 7")
    (listed,) = json.loads(scene.ebt("ls", "--json")[1])
    assert (listed["id"], listed["status"]) == (started["id"], "running")
    with scene.start("logs", "-f", "--raw", str(started["id"])) as logs:
        assert logs.stdout is not None
        assert logs.stdout.readline() == b"begun\n"
        scene.open_gate()
        assert scene.ebt("wait", str(started["id"]))[0] == 7
        assert logs.wait(PATIENCE) == 0
    shown = scene.show()
    assert shown["outcome"]["reason"] == "exit_code"
    assert "host" not in shown["outcome"]["message"]
    page = scene.project / ".claude-tasks" / f"task-{started['id']}-output.md"
    assert "begun" in page.read_text()
    until(lambda: not Path(f"/proc/{started['host_pid']}").exists())


def test_host_is_killed(scene: Scene, tmp_path: Path) -> None:
    """SIGKILL of the host: another process lists the task, follows all of it, and ends it."""
    book = tmp_path / "book"

    def written() -> int:
        return int(book.read_text() or 0) if book.exists() else 0

    argv = [sys.executable, "-I", "-S", "-c", WRITER, str(book)]
    started = scene.detach("--", *argv)
    with scene.start("logs", "-f", "--raw", "work") as before:
        until(lambda: written() > 100)
        task = scene.lose_host(started)
        (listed,) = json.loads(scene.ebt("ls", "--json")[1])
        assert (listed["id"], listed["status"]) == (started["id"], "detached")
        with scene.start("logs", "-f", "--raw", "work") as after:
            known = written()
            until(lambda: written() > known + 100)
            assert scene.ebt("cancel", "work")[0] == 0
            outputs = [process.communicate(timeout=PATIENCE)[0] for process in (before, after)]
    assert outputs[0] == outputs[1] == Path(started["logs"]["stdout"]).read_bytes()
    assert_whole(outputs[1], written())
    assert find_running_tasks() == ()
    until(lambda: not Path(f"/proc/{task.pid}").exists())
    assert scene.ebt("wait", "work")[0] == 143
    outcome = scene.show()["outcome"]
    assert (outcome["status"], outcome["reason"]) == ("cancelled", "cancelled")
    assert "host process had died" in outcome["message"]


def test_end_without_a_host(scene: Scene) -> None:
    """What ends by itself after its host was killed has its exit code, for whoever waits."""
    started = scene.detach("--", "sh", "-c", f"echo begun; read x < {scene.gate}; echo end; exit 7")
    scene.lose_host(started)
    with scene.start("wait", "work") as waiting:
        scene.open_gate()
        assert waiting.wait(PATIENCE) == 7
    assert scene.ebt("wait", "work")[0] == 7
    assert scene.ebt("logs", "--raw", "work") == (0, b"begun\nend\n")
    assert scene.show()["outcome"]["return_code"] == 7


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize(("prompt", "code"), [("look around", 0), ("fail please", 1)])
def test_agent(scene: Scene, prompt: str, code: int) -> None:
    """An agent in the background is understood by its host, success and failure alike."""
    started = scene.detach(prompt)
    assert scene.ebt("wait", str(started["id"]))[0] == code
    outcome = scene.show()["outcome"]
    assert outcome["reason"] == ("agent_error" if code else "exited")
    assert ("no credit" in outcome["message"]) if code else (outcome["result"] == "It is done.")
    page = scene.project / ".claude-tasks" / f"task-{started['id']}-output.md"
    assert page.exists()


@pytest.mark.usefixtures("agent")
def test_agent_without_a_host(scene: Scene) -> None:
    """Exit code 0 of an agent whose host was killed is no success: nobody has understood it."""
    started = scene.detach("wait for it")
    scene.lose_host(started)
    scene.open_gate()
    assert scene.ebt("wait", "work")[0] == 1
    outcome = scene.show()["outcome"]
    assert outcome["reason"] == "no_result"
    assert "It is done." in scene.ebt("logs", "--raw", "work")[1].decode()


def test_signals_to_the_host(scene: Scene) -> None:
    """SIGTERM to the background process ends its task politely; the end is told as usual."""
    started = scene.detach("--", "sleep", "1000")
    os.kill(started["host_pid"], signal.SIGTERM)
    assert scene.ebt("wait", "work")[0] == 143
    outcome = scene.show()["outcome"]
    assert outcome["reason"] == "cancelled"
    assert "host" not in outcome["message"]


def test_after_another_task(scene: Scene) -> None:
    """A task that waits for its project is left to the background at once, and runs later."""
    first = scene.detach("--", "sh", "-c", f"read x < {scene.gate}")
    assert scene.ebt("run", "--detach", "--", "true")[0] == 75
    code, output = scene.ebt("run", "--detach", "--queue", "--name", "later", "--", "true")
    assert code == 0
    assert int(output) > first["id"]
    scene.open_gate()
    assert scene.ebt("wait", "later")[0] == 0

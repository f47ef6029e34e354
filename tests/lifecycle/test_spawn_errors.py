"""Every way in which the kernel refuses to start a program: a clear reason, and nothing left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_tasks import Reason, TaskStarted, TaskStatus

from .conftest import Stage

pytestmark = pytest.mark.anyio


def script(path: Path, first: str, mode: int = 0o700) -> None:
    """Write a file that begins with a line."""
    path.write_text(first)
    path.chmod(mode)


def busy(path: Path) -> None:
    """Make a program that stays open for writing; whoever opened it is closed by the test."""
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o700)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda path: None, "there is no program "),
    "a directory": (lambda path: path.mkdir(), "it is a directory"),
    "not executable": (lambda path: script(path, "#!/bin/sh\n", 0o600), "is not executable"),
    "no interpreter": (lambda path: script(path, "#!/no/such\n"), "'/no/such' does not exist"),
    "interpreter is a directory": (
        lambda path: script(path, "#!/etc\n"),
        os.strerror(errno.EACCES),
    ),
    "no format": (lambda path: script(path, "text\n"), "neither a program nor a script"),
    "an empty file": (lambda path: script(path, ""), "neither a program nor a script"),
    "a loop of links": (lambda path: path.symlink_to(path), os.strerror(errno.ELOOP)),
    "a dangling link": (lambda path: path.symlink_to("gone"), os.strerror(errno.ENOENT)),
    "a named pipe": (lambda path: os.mkfifo(path, 0o700), os.strerror(errno.EACCES)),
}


@pytest.mark.parametrize("case", CASES)
async def test_program_that_does_not_start(stage: Stage, case: str) -> None:
    """What is wrong with a program is said, with its path, and the project is free again."""
    make, words = CASES[case]
    make(stage.project / "program")
    async with stage.engine() as engine:
        for _ in range(2):  # the second time shows that the first one has left nothing
            task = await engine.spawn_task("t", argv=["./program"], project_dir=stage.project)
            outcome = await task.wait()
            assert (outcome.reason, outcome.return_code) == (Reason.SPAWN_FAILED, None)
            assert "./program" in outcome.message
            assert words in outcome.message
            assert task.status is TaskStatus.FAILED
            assert not stage.recorder.of(TaskStarted, task)
            stage.check(task)


async def test_program_below_a_file(stage: Stage) -> None:
    """A path that goes through a file is refused as such."""
    (stage.project / "file").write_text("")
    async with stage.engine() as engine:
        task = await engine.spawn_task("t", argv=["./file/program"], project_dir=stage.project)
        outcome = await task.wait()
    assert outcome.reason is Reason.SPAWN_FAILED
    assert outcome.message == f"cannot execute './file/program': {os.strerror(errno.ENOTDIR)}"


async def test_program_that_is_being_written(stage: Stage) -> None:
    """A program that is open for writing is refused as such, and starts once it is closed."""
    path = stage.project / "program"
    busy(path)
    async with stage.engine() as engine:
        writer = os.open(path, os.O_WRONLY)
        try:
            task = await engine.spawn_task("t", argv=["./program"], project_dir=stage.project)
            outcome = await task.wait()
        finally:
            os.close(writer)
        assert outcome.reason is Reason.SPAWN_FAILED
        assert os.strerror(errno.ETXTBSY) in outcome.message
        task = await engine.spawn_task("t", argv=["./program"], project_dir=stage.project)
        assert (await task.wait()).reason is Reason.EXITED


async def test_too_many_arguments(stage: Stage) -> None:
    """Arguments that are too many in all are refused by the kernel, and that is said."""
    async with stage.engine() as engine:
        argv = ["true", *["x" * 100_000] * 100]
        task = await engine.spawn_task("t", argv=argv, project_dir=stage.project)
        outcome = await task.wait()
        assert outcome.reason is Reason.SPAWN_FAILED
        assert os.strerror(errno.E2BIG) in outcome.message
        stage.check(task)


async def test_directory_that_vanishes(stage: Stage) -> None:
    """A project that was removed between acceptance and start is named as what is missing."""
    async with stage.engine(max_running=1) as engine:
        _, puppet = await stage.start(engine)
        gone = stage.new_project("gone")
        task = await engine.spawn_task("t", argv=["true"], project_dir=gone)
        gone.rmdir()
        puppet.exit()
        outcome = await task.wait()
    assert outcome.reason is Reason.SPAWN_FAILED
    assert str(gone) in outcome.message
    assert os.strerror(errno.ENOENT) in outcome.message
    stage.check(task)

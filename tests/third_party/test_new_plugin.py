"""What ``ebt new-plugin`` writes: it installs, passes its own tests, is listed, and works."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

KINDS: Final = ("agent", "termination", "notifier", "journal", "command")


class Made(NamedTuple):
    """A written and installed plugin."""

    kind: str
    folder: Path
    said: str


@pytest.fixture(scope="module", params=KINDS)
def made(
    request: pytest.FixtureRequest, empty_site: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    """Write a plugin of each kind, build it, and install its wheel."""
    kind = request.param
    place = tmp_path_factory.mktemp("new")
    done = empty_site.ebt("new-plugin", f"my-{kind}", "--kind", kind, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    folder = place / f"ebt-my-{kind}"
    built = request.getfixturevalue("build")(folder, place)
    empty_site.pip("install", "--quiet", "--no-deps", str(built))
    yield Made(kind, folder, done.stdout)
    empty_site.pip("uninstall", "--quiet", "--yes", f"ebt-my-{kind}")


def test_own_tests_pass(made: Made, empty_site: Any) -> None:
    """The tests that it comes with pass, against the installed wheel, and there are some."""
    run = empty_site.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=made.folder)
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
    assert "xfailed" not in run.stdout


def test_it_is_listed(made: Made, empty_site: Any, work: Path) -> None:
    """`ebt plugins` shows it as active."""
    report = empty_site.reports(work)[f"ebt-my-{made.kind}"]
    assert (report["name"], report["state"]) == (f"my-{made.kind}", "active")
    assert report["hooks"]


def test_it_works(made: Made, empty_site: Any, work: Path) -> None:
    """The last of the printed steps does what the kind says."""
    plain = ("run", "-n", "build", "--json", "--", "sh", "-c", "exit 3")
    if made.kind == "agent":
        done = empty_site.ebt("run", "--agent", "my-agent", "hello", cwd=work)
        assert (done.returncode, done.stdout, done.stderr) == (0, "HELLO\n", "")
    elif made.kind == "command":
        done = empty_site.ebt("my-command", "world", cwd=work)
        assert (done.returncode, done.stdout, done.stderr) == (0, "hello, world\n", "")
    elif made.kind == "notifier":
        done = empty_site.ebt(*plain, cwd=work)
        assert done.returncode == 3
        assert "my-notifier: build failed" in done.stderr
    elif made.kind == "journal":
        done = empty_site.ebt(*plain, cwd=work)
        assert done.returncode == 3
        (path,) = (work / ".my-journal").iterdir()
        names = [json.loads(line)["event"] for line in path.read_text().splitlines()]
        assert (names[0], names[-1]) == ("task.accepted", "task.failed")
    else:
        words = ("run", "--json", "--timeout", "0.2", "--", "sleep", "100")
        done = empty_site.ebt(*words, cwd=work)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        (stopping,) = [event for event in events if event["event"] == "task.stopping"]
        assert [step["signal"] for step in stopping["policy"]["steps"]] == [2, 15]


def test_it_is_complete(made: Made) -> None:
    """It has a README, a typed package, tests, and no place left to be filled in."""
    files = {str(path.relative_to(made.folder)) for path in made.folder.rglob("*")}
    package = f"src/ebt_my_{made.kind}"
    wanted = {"README.md", "pyproject.toml", ".gitignore", f"{package}/py.typed"}
    assert wanted <= files
    for path in made.folder.rglob("*.*"):
        if path.is_file() and "__pycache__" not in path.parts:
            text = path.read_text("utf-8")
            assert "$" not in text, path
            assert not [line for line in text.splitlines() if line != line.rstrip()], path


def test_next_steps_are_printed(made: Made) -> None:
    """It says what to do next: the folder, the installation, the tests, the list."""
    for words in (f"cd ebt-my-{made.kind}", "pip install", "pytest", "ebt plugins"):
        assert words in made.said
    assert os.fspath(made.folder.parent) not in made.said

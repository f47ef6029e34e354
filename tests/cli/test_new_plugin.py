"""``ebt new-plugin``: which names it takes, and that it changes nothing that exists.

That what it writes installs and works is proven in ``tests/third_party``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("name", "folder"),
    [("shout", "ebt-shout"), ("ebt-shout", "ebt-shout"), ("a1-b2-c3", "ebt-a1-b2-c3")],
)
def test_good_names(ebt: Any, project: Path, name: str, folder: str) -> None:
    """A word, or words joined by hyphens, becomes a distribution."""
    running = ebt("new-plugin", name)
    assert running.wait() == (0, "")
    assert [path.name for path in project.iterdir()] == [folder]
    assert f"cd {folder}\n" in running.seen.decode()


@pytest.mark.parametrize(
    "name",
    [
        *("", "ebt-", "Shout", "shout_loud", "1st", "a--b", "a-", "../up", "/tmp/x", "a/b", "a.b"),
        *("ä", "a b", "$HOME", "x" * 41, "command", "core", "core-log", "eventbus-tasks-x"),
    ],
)
def test_bad_names(ebt: Any, project: Path, name: str) -> None:
    """Any other name is refused in one line, and nothing is written."""
    running = ebt("new-plugin", "--", name)
    code, errors = running.wait()
    assert code == 2
    assert errors.startswith(f"ebt: new-plugin: {name!r} ")
    assert len(errors.splitlines()) == 1
    assert list(project.iterdir()) == []


def test_name_of_an_installed_plugin(ebt: Any, project: Path, make_plugin: Any) -> None:
    """The name of somebody else's installed plugin is refused: both could not be loaded."""
    environ = make_plugin("shout", "x = 1")
    code, errors = ebt("new-plugin", "shout", environ=environ).wait()
    assert code == 2
    assert "is the name of an installed plugin, of ebt-fake-shout" in errors
    assert list(project.iterdir()) == []


@pytest.mark.parametrize("there", ["folder", "file", "dangling link"])
def test_nothing_is_overwritten(ebt: Any, project: Path, there: str) -> None:
    """Whatever has the name already stays as it is."""
    path = project / "ebt-shout"
    if there == "folder":
        path.mkdir()
        (path / "pyproject.toml").write_text("mine")
    elif there == "file":
        path.write_text("mine")
    else:
        path.symlink_to("nowhere")
    code, errors = ebt("new-plugin", "shout").wait()
    assert code == 2
    assert "exists already" in errors
    if there == "folder":
        assert [item.read_text() for item in path.iterdir()] == ["mine"]
    elif there == "file":
        assert path.read_text() == "mine"
    else:
        assert os.readlink(path) == "nowhere"
        assert not (project / "nowhere").exists()


def test_another_directory(ebt: Any, project: Path, tmp_path: Path) -> None:
    """With -C it is written there; a directory that is not there is not made."""
    place = tmp_path / "my plugins"
    place.mkdir()
    running = ebt("new-plugin", "shout", "-C", str(place))
    assert running.wait() == (0, "")
    assert f"cd '{place}/ebt-shout'\n" in running.seen.decode()
    assert (place / "ebt-shout" / "src" / "ebt_shout" / "__init__.py").is_file()
    code, errors = ebt("new-plugin", "shout", "-C", str(tmp_path / "nowhere")).wait()
    assert code == 2
    assert "No such file or directory" in errors
    assert list(project.iterdir()) == []


def test_unknown_kind(ebt: Any) -> None:
    """An unknown kind is refused, and the known ones are named."""
    code, errors = ebt("new-plugin", "shout", "--kind", "robot").wait()
    assert code == 2
    assert "'robot'" in errors
    assert "termination" in errors

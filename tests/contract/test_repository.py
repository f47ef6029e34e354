"""What holds for the repository as a whole, and would otherwise drift."""

from __future__ import annotations

import ast
import configparser
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PLUGINS: Final = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
SOURCES: Final = ("eventbus_tasks", "plugins", "tests", "examples", "benchmarks")

MOST_LINES: Final = 650
"""A file that is longer is where a reader gets lost."""

LONGER: Final[dict[str, str]] = {
    # path: why it cannot be cut
}

NOT_IN_DEV: Final[dict[str, str]] = {
    # plugin: why somebody who tries `python3 dev.py ebt` does not want it (hundreds of megabytes)
}


def python_files(*folders: str) -> Iterator[Path]:
    """Yield the Python files of some folders of the checkout."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def load_toml(path: str) -> dict[str, Any]:
    """Return the data of a TOML file of the checkout."""
    return tomllib.loads((ROOT / path).read_text())


def tox_sections() -> configparser.RawConfigParser:
    """Return the sections of tox.ini."""
    parser = configparser.RawConfigParser()
    parser.read(ROOT / "tox.ini")
    return parser


def test_no_file_is_too_long() -> None:
    """No Python file has more lines than a reader can keep in mind."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in [*python_files(*SOURCES), *ROOT.glob("*.py")]
    }
    too_long = {path for path, length in lengths.items() if length > MOST_LINES}
    assert too_long <= LONGER.keys(), sorted(too_long - LONGER.keys())
    assert LONGER.keys() <= too_long, "no longer too long, take them off the list"


def test_every_test_states_its_fact() -> None:
    """The docstring of every test says what it proves."""
    silent = []
    for path in [*python_files("tests"), *ROOT.glob("plugins/*/tests/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("test_") and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not silent, "\n".join(silent)


def test_test_folders_are_no_packages() -> None:
    """No test folder has an `__init__.py`: it would shadow folders of the same name elsewhere."""
    found = [path for path in python_files("tests", "plugins") if "tests" in path.parts]
    assert not [path for path in found if path.name == "__init__.py"]


def test_version_is_the_same_everywhere() -> None:
    """The installed core, its pyproject.toml and the newest entry of the changelog agree."""
    version = load_toml("pyproject.toml")["project"]["version"]
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
    assert metadata.version("eventbus-tasks") == version


def test_core_is_typed() -> None:
    """Type checkers read the annotations of the installed core."""
    assert (ROOT / "eventbus_tasks" / "py.typed").is_file()


def test_core_stands_on_three_libraries() -> None:
    """Whoever installs the core gets pluggy, blinker and anyio, and nothing else of ours."""
    project = load_toml("pyproject.toml")["project"]
    names = {re.match(r"[\w-]+", item)[0] for item in project["dependencies"]}  # type: ignore[index]
    assert names == {"pluggy", "blinker", "anyio"}


def test_there_are_plugins() -> None:
    """The tests below are about something."""
    assert PLUGINS


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugin_has_one_name(folder: str) -> None:
    """Folder, distribution, package and entry point of a plugin are the same word."""
    word = folder.removeprefix("eventbus-tasks-")
    package = f"eventbus_tasks_{word.replace('-', '_')}"
    project = load_toml(f"plugins/{folder}/pyproject.toml")["project"]
    assert project["name"] == folder
    points = dict(project["entry-points"])
    quick = points.pop("eventbus_tasks.commands", {})  # commands that start by themselves
    assert points == {"eventbus_tasks": {word: package}}
    assert all(target.startswith(f"{package}.") for target in quick.values())
    for file in (f"src/{package}/__init__.py", f"src/{package}/py.typed", "README.md"):
        assert (ROOT / "plugins" / folder / file).is_file(), file
    assert [path.name for path in (ROOT / "plugins" / folder / "src").iterdir()] == [package]


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugin_needs_a_core_that_exists(folder: str) -> None:
    """A plugin names the oldest core that it works with, and excludes the next major version."""
    project = load_toml(f"plugins/{folder}/pyproject.toml")["project"]
    (core,) = [item for item in project["dependencies"] if re.match(r"eventbus-tasks\b(?!-)", item)]
    assert re.fullmatch(r"eventbus-tasks>=\d+(\.\d+)+,<\d+", core), core
    assert project["requires-python"] == load_toml("pyproject.toml")["project"]["requires-python"]


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugin_is_checked(folder: str) -> None:
    """Every plugin has its tox environment and tests, and is typed, built and integrated."""
    tox = tox_sections()
    word = folder.removeprefix("eventbus-tasks-")
    assert folder in tox["tox"]["env_list"].split()
    (own,) = [name for name in tox.sections() if name.startswith("testenv:eventbus-tasks-{")]
    assert word in own.partition("{")[2].rstrip("}").split(",")
    assert f"./plugins/{folder}" in tox["plugins"]["folders"].split()
    for environment, option in [
        ("type", "commands"),
        ("dist", "commands"),
        ("dev", "commands_pre"),
    ]:
        words = tox[f"testenv:{environment}"][option].split()
        assert {f"plugins/{folder}", f"./plugins/{folder}"} & set(words), environment
    package = folder.replace("-", "_")
    assert f"pyright --verifytypes {package} --ignoreexternal" in tox["testenv:type"]["commands"]
    assert list((ROOT / "plugins" / folder / "tests").glob("test_*.py")), "no tests"


def test_dev_knows_every_plugin() -> None:
    """`python3 dev.py ebt` has every plugin of the checkout, but for those that say why not."""
    tree = ast.parse((ROOT / "dev.py").read_text())
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PLUGINS"
    ]
    known = {f"eventbus-tasks-{name}" for name in names}
    assert known | NOT_IN_DEV.keys() == set(PLUGINS)
    assert not known & NOT_IN_DEV.keys()


def test_ci_runs_what_the_readme_says() -> None:
    """One command passes all checks, and it is the same for people and for build machines."""
    command = "python3 dev.py check"
    assert command in (ROOT / ".ci" / "run").read_text()
    for document in ("README.md", "CONTRIBUTING.md"):
        assert command in (ROOT / document).read_text(), document

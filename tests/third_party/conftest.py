"""Virtual environments in which wheels are installed, as a stranger would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE: Final = 300
"""Seconds that one program may take: a guard against a hang."""

_OURS: Final = ("EBT_", "PYTHON", "PYTEST", "VIRTUAL_ENV", "COV_", "COVERAGE")

# As it was before any test, because pip reads its configuration from it.
OUTSIDE: Final = {key: item for key, item in os.environ.items() if not key.startswith(_OURS)}

Finished = subprocess.CompletedProcess[str]


class Site:
    """A virtual environment.

    Attributes:
        prefix: Where it is.
        python: Its interpreter.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.python = prefix / "bin" / "python"
        run([sys.executable, "-m", "venv", str(prefix)])

    def environ(self, **changes: str) -> dict[str, str]:
        """Return the variables of a shell in which it is active, and the test's own places."""
        path = f"{self.prefix / 'bin'}{os.pathsep}{OUTSIDE.get('PATH', os.defpath)}"
        private = {
            name: os.environ[name]
            for name in ("EBT_STATE_DIR", "XDG_CONFIG_HOME")
            if name in os.environ
        }
        return {**OUTSIDE, **private, "PATH": path, "VIRTUAL_ENV": str(self.prefix), **changes}

    def pip(self, *arguments: str) -> None:
        """Run its pip, with the configuration of whoever runs the tests."""
        run([str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments])

    def ebt(self, *arguments: str, cwd: Path, **changes: str) -> Finished:
        """Run its ``ebt`` to the end."""
        return self.run("-m", "eventbus_tasks", *arguments, cwd=cwd, **changes)

    def run(self, *arguments: str, cwd: Path, **changes: str) -> Finished:
        """Run its Python to the end."""
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=cwd,
            env=self.environ(**changes),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def reports(self, cwd: Path, **changes: str) -> dict[str, dict[str, Any]]:
        """Return what ``ebt plugins`` says, by distribution."""
        done = self.ebt("plugins", "--json", cwd=cwd, **changes)
        assert done.returncode == 0, done.stderr
        return {item["distribution"]: item for item in json.loads(done.stdout)}


def run(argv: list[str], cwd: Path | None = None, env: Mapping[str, str] = OUTSIDE) -> str:
    """Run a program that must succeed; return its output."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(source: Path, target: Path) -> Path:
    """Build the distribution in a folder with the hatchling of the tests; return the wheel."""
    before = set(target.glob("*.whl"))
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)], source)
    (made,) = set(target.glob("*.whl")) - before
    return made


def write_distribution(folder: Path, name: str, source: str, *, entry: str = "") -> Path:
    """Write a distribution ``ebt-NAME`` with one module and one plugin; return its folder.

    Args:
        folder: Where.
        name: Name of the plugin.
        source: Source of the module.
        entry: What the entry point says, when it is not the module.
    """
    module = f"ebt_{name.replace('-', '_')}"
    place = folder / f"ebt-{name}"
    place.mkdir(parents=True)
    (place / f"{module}.py").write_text(textwrap.dedent(source))
    plugin, _, target = entry.partition("=")
    (place / "pyproject.toml").write_text(
        textwrap.dedent(f"""\
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "ebt-{name}"
        version = "0.9"
        dependencies = ["eventbus-tasks"]
        [project.entry-points.eventbus_tasks]
        {plugin or name} = "{target or module}"
        [tool.hatch.build.targets.wheel]
        only-include = ["{module}.py"]
        """)
    )
    return place


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for wheels, with the core's in it."""
    folder = tmp_path_factory.mktemp("wheels")
    build_wheel(ROOT, folder)
    return folder


@pytest.fixture(scope="session")
def core_wheel(wheels: Path) -> Path:
    """Return the wheel of the core."""
    (found,) = wheels.glob("eventbus_tasks-*.whl")
    return found


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return an empty project directory."""
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def empty_site(core_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return an environment with the core, and what the tests of plugins need."""
    site = Site(tmp_path_factory.mktemp("empty") / "venv")
    site.pip("install", "--quiet", str(core_wheel), "pytest", "trio")
    return site


MakeSite = Callable[..., Site]


@pytest.fixture(scope="session")
def make_site(core_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeSite:
    """Return a function that makes an environment of the core and some distributions."""

    def make(*folders: Path) -> Site:
        place = tmp_path_factory.mktemp("site")
        built = [str(build_wheel(folder, place)) for folder in folders]
        site = Site(place / "venv")
        site.pip("install", "--quiet", str(core_wheel), *built)
        return site

    return make


@pytest.fixture(scope="session")
def distribution() -> Callable[..., Path]:
    """Return `write_distribution`: test modules cannot import what stands beside them."""
    return write_distribution


@pytest.fixture(scope="session")
def build() -> Callable[[Path, Path], Path]:
    """Return `build_wheel`."""
    return build_wheel


@pytest.fixture
def user_settings(private_state: Path) -> Path:
    """Return the path of the settings of the user whom the test plays."""
    path = private_state / "config" / "eventbus-tasks" / "config.toml"
    path.parent.mkdir(parents=True)
    return path

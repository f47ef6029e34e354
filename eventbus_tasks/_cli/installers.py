"""How a package is added to the environment in which this program lives: who made it adds to it.

Tools like ``uv tool`` and ``pipx`` keep a record of what belongs into an environment. What is put
there behind their back works until they make it anew. So the record is looked for, and the tool
that wrote it is asked.

Nothing here runs anything: a `Plan` is the exact command, or a `Refusal` says what to do instead.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eventbus_tasks._cli.exits import NOT_FOUND, USAGE

__all__ = ["Place", "Plan", "Refusal", "make_plan"]

OUR_NAME: Final = "eventbus-tasks"


class Refusal(Exception):
    """Nothing can be installed here; the text says why, and what to do.

    Attributes:
        code: Exit code.
    """

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One command that installs, and has not been run.

    Attributes:
        argv: The program, as a path, and its arguments.
        environ: Variables that it needs and that are not set already.
        notes: What is good to know before it runs; sentences.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this program lives.

    Attributes:
        prefix: The environment.
        base_prefix: The installation of Python that it was made from; the same, if it is none.
        stdlib: The standard library, where distributors leave their mark.
        executable: The interpreter of the environment.
        has_pip: Whether pip can be imported there.
        which: Finds a program: its path, or ``None``.
        environ: The variables of this process.
        home: The home directory of the user.
    """

    prefix: Path
    base_prefix: Path
    stdlib: Path
    executable: str
    has_pip: bool
    which: Callable[[str], str | None] = shutil.which
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    home: Path = field(default_factory=Path.home)

    @classmethod
    def here(cls) -> Place:
        """Return the place of this very process."""
        return cls(
            prefix=Path(sys.prefix),
            base_prefix=Path(sys.base_prefix),
            stdlib=Path(sysconfig.get_path("stdlib")),
            executable=sys.executable,
            has_pip=importlib.util.find_spec("pip") is not None,
        )

    @property
    def data_home(self) -> Path:
        """Where programs of this user keep their data."""
        return Path(self.environ.get("XDG_DATA_HOME") or self.home / ".local" / "share")

    def differing(self, **wanted: tuple[Path, Path]) -> dict[str, str]:
        """Return the variables by which a tool finds this place.

        Args:
            wanted: By variable: where we are, and where the tool looks by itself.
        """
        return {
            name: str(ours)
            for name, (ours, usual) in wanted.items()
            if Path(self.environ.get(name) or usual).resolve() != ours.resolve()
        }


def make_plan(names: Sequence[str], place: Place) -> Plan:
    """Return the command that adds packages to a place.

    Args:
        names: What pip calls requirements: names, with versions or extras, paths, addresses.
        place: Where to.

    Raises:
        Refusal: There is none.
    """
    for name in names:
        if not name.strip() or name.startswith("-"):
            raise Refusal(f"{name!r} is not the name of a package")
    if (place.prefix / "uv-receipt.toml").is_file():
        from eventbus_tasks._cli.uv_receipt import plan_uv_tool

        return plan_uv_tool(names, place)
    if (place.prefix / "pipx_metadata.json").is_file():
        return _plan_pipx(names, place)
    if place.prefix == place.base_prefix and (place.stdlib / "EXTERNALLY-MANAGED").is_file():
        raise Refusal(
            f"this ebt runs in the operating system's own Python ({place.executable}), which only "
            f'the system may change. Install it for yourself with "pipx install {OUR_NAME}" or '
            f'"uv tool install {OUR_NAME}", or in a virtual environment, and repeat this there'
        )
    return _plan_pip(names, place)


def _plan_pipx(names: Sequence[str], place: Place) -> Plan:
    pipx = place.which("pipx")
    # The folder of the environment is its name: that of the package, and perhaps a suffix.
    arguments = ("inject", place.prefix.name, *names)
    if pipx is None:
        raise missing("pipx", place.prefix / "pipx_metadata.json", arguments)
    older = place.home / ".local" / "pipx"  # honoured by pipx as long as it is there
    usual = older if older.is_dir() else place.data_home / "pipx"
    environ = place.differing(PIPX_HOME=(place.prefix.parent.parent, usual))
    return Plan(argv=(pipx, *arguments), environ=environ)


def _plan_pip(names: Sequence[str], place: Place) -> Plan:
    if place.has_pip:
        # -P: a pip.py in the current directory, somebody's project, is not what is meant.
        return Plan(argv=(place.executable, "-P", "-m", "pip", "install", *names))
    uv = place.which("uv")
    if uv is None:
        raise Refusal(
            f"there is no pip in {place.prefix}, and no uv on PATH. "
            f'"{place.executable} -m ensurepip" adds pip; then repeat this'
        )
    return Plan(argv=(uv, "pip", "install", "--python", place.executable, *names))


def missing(tool: str, record: Path, arguments: Sequence[str]) -> Refusal:
    """Return the refusal for when the tool that made the place is not there."""
    import shlex

    return Refusal(
        f"{tool} has made this environment ({record}), but there is no {tool} on PATH. "
        f"Where there is one: {shlex.join((tool, *arguments))}",
        NOT_FOUND,
    )

"""The real command-line programs of agents: installing, finding and isolating them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "CLAUDE",
    "CliPackage",
    "CliUnavailableError",
    "find_cli",
    "install_cli",
    "isolated_environment",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CliPackage:
    """An agent that npm can install.

    Attributes:
        program: What it is called in ``PATH``.
        package: What it is called at npm.
    """

    program: str
    package: str


CLAUDE: Final = CliPackage(program="claude", package="@anthropic-ai/claude-code")


class CliUnavailableError(Exception):
    """A real agent cannot be had here: says why."""


def install_cli(cli: CliPackage, directory: Path, version: str = "latest") -> Path:
    """Install an agent into a directory of its own; blocks, up to minutes, and uses the network.

    Args:
        cli: Which.
        directory: Where; nothing outside of it changes, but npm's cache.
        version: Version or tag. Not left to npm: without one it takes an old version where
            `node` is older than the package likes, though the program needs no node to run.

    Returns:
        The program.

    Raises:
        CliUnavailableError: There is no npm here.
        subprocess.CalledProcessError: npm has failed; it has said why on standard error.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise CliUnavailableError(f"npm, which installs {cli.package}, is not in PATH")
    directory.mkdir(parents=True, exist_ok=True)
    options = ["--no-fund", "--no-audit", "--loglevel=error", "--prefix", str(directory)]
    subprocess.run(
        [npm, "install", *options, f"{cli.package}@{version}"],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
    )
    return find_cli(cli, directory)


def find_cli(cli: CliPackage, directory: Path) -> Path:
    """Return the program that `install_cli` has installed, as an absolute path.

    Raises:
        CliUnavailableError: It is not there.
    """
    program = Path(os.path.abspath(directory)) / "node_modules" / ".bin" / cli.program
    if not os.access(program, os.X_OK):
        raise CliUnavailableError(f"{cli.package} is not installed in {directory}")
    return program


_THEIRS: Final = ("ANTHROPIC_", "CLAUDE", "AWS_", "GOOGLE_", "AZURE_", "OPENAI_", "GEMINI_")
"""Beginnings of variables with which a user has configured agents, or paid for them."""

_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})


def isolated_environment(
    home: Path, url: str, *, base: Mapping[str, str] | None = None, key: str = "dummy"
) -> dict[str, str]:
    """Return an environment in which agents know nobody but a fake model.

    No setting, session, key or proxy of whoever runs the tests is in it; telemetry, error reports
    and updates are off.

    Args:
        home: A directory that becomes ``HOME``; made if it is not there.
        url: Where the fake model is.
        base: What to begin with; the environment of this process by default.
        key: The API key; an empty one is left out.
    """
    kept = {
        name: value
        for name, value in (os.environ if base is None else base).items()
        if not name.startswith(_THEIRS) and name.lower() not in _PROXIES
    }
    # Beside each other: some agents refuse a home in the directory of temporary files.
    folders = {"HOME": home / "home", "TMPDIR": home / "tmp"}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    claude = {
        "ANTHROPIC_BASE_URL": url,
        **({"ANTHROPIC_API_KEY": key} if key else {}),
        "CLAUDE_CONFIG_DIR": str(home / "home" / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
    }
    return {**kept, **{name: str(path) for name, path in folders.items()}, **claude}

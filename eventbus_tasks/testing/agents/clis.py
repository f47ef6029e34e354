"""The real command-line programs of agents: installing, finding and isolating them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

__all__ = [
    "CLAUDE",
    "CLAUDE_ACP",
    "CLIS",
    "CODEX",
    "CODEX_ACP",
    "COPILOT",
    "GEMINI",
    "OPENCODE",
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
CLAUDE_ACP: Final = CliPackage(
    program="claude-agent-acp", package="@agentclientprotocol/claude-agent-acp"
)
CODEX: Final = CliPackage(program="codex", package="@openai/codex")
CODEX_ACP: Final = CliPackage(program="codex-acp", package="@agentclientprotocol/codex-acp")
COPILOT: Final = CliPackage(program="copilot", package="@github/copilot")
GEMINI: Final = CliPackage(program="gemini", package="@google/gemini-cli")
OPENCODE: Final = CliPackage(program="opencode", package="opencode-ai")

CLIS: Final[Mapping[str, CliPackage]] = MappingProxyType(
    {cli.program: cli for cli in (CLAUDE, CLAUDE_ACP, CODEX, CODEX_ACP, COPILOT, GEMINI, OPENCODE)}
)
"""Every agent that is known here, by its program."""


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


_THEIRS: Final = (
    "ANTHROPIC_",
    "AWS_",
    "AZURE_",
    "CLAUDE",
    "CODEX_",
    "COPILOT_",
    "GEMINI_",
    "GOOGLE_",
    "OPENAI_",
    "OPENCODE",
)
"""Beginnings of variables with which a user has configured agents, or paid for them."""

_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})

_CODEX_CONFIG: Final = """\
model = "fake"
model_provider = "fake"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
plugins = false

[model_providers.fake]
name = "fake"
base_url = "{url}/v1"
{key}wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1
"""


def isolated_environment(
    home: Path, url: str, *, base: Mapping[str, str] | None = None, key: str = "dummy"
) -> dict[str, str]:
    """Return an environment in which agents know nobody but a fake model.

    No setting, session, key or proxy of whoever runs the tests is in it; telemetry, error reports
    and updates are off. For agents that are configured by files, they are written into the home.

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
    return {
        **kept,
        **{name: str(path) for name, path in folders.items()},
        **_claude(home / "home", url, key),
        **_codex(home / "home", url, key),
        **_copilot(url, key),
        **_gemini(home / "home", url, key),
        **_opencode(url, key),
    }


def _claude(home: Path, url: str, key: str) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": url,
        **({"ANTHROPIC_API_KEY": key} if key else {}),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
    }


def _codex(home: Path, url: str, key: str) -> dict[str, str]:
    folder = home / ".codex"
    folder.mkdir(exist_ok=True)
    config = _CODEX_CONFIG.format(url=url, key='env_key = "FAKE_API_KEY"\n' if key else "")
    (folder / "config.toml").write_text(config)
    return {"CODEX_HOME": str(folder), **({"FAKE_API_KEY": key} if key else {})}


def _copilot(url: str, key: str) -> dict[str, str]:
    return {
        "COPILOT_OFFLINE": "true",
        "COPILOT_MODEL": "fake",
        "COPILOT_PROVIDER_BASE_URL": f"{url}/v1",
        **({"COPILOT_PROVIDER_API_KEY": key} if key else {}),
    }


def _gemini(home: Path, url: str, key: str) -> dict[str, str]:
    folder = home / ".gemini"
    folder.mkdir(exist_ok=True)
    settings: dict[str, Any] = {
        # Otherwise another model is asked first which model is to be used.
        "model": {"name": "gemini-3.1-pro-preview"},
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"disableAutoUpdate": True, "disableUpdateNag": True, "maxAttempts": 1},
        "telemetry": {"enabled": False},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return {
        "GOOGLE_GEMINI_BASE_URL": url,
        **({"GEMINI_API_KEY": key} if key else {}),
    }


def _opencode(url: str, key: str) -> dict[str, str]:
    model = {"name": "fake", "limit": {"context": 1_000_000, "output": 1_000_000}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1", **({"apiKey": key} if key else {})},
        "models": {"fake": {**model, "tool_call": True}},
    }
    config = {
        "model": "fake/fake",
        "small_model": "fake/fake",
        "provider": {"fake": provider},
        "autoupdate": False,
        "share": "disabled",
    }
    return {
        "OPENCODE_CONFIG_CONTENT": json.dumps(config),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    }

"""Help, version, and how little they cost."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from eventbus_tasks import __version__


def test_version(ebt: Any) -> None:
    """--version is one line."""
    running = ebt("--version")
    assert running.wait() == (0, "")
    assert running.seen.decode() == f"ebt {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["run", "plugins", "examples:", 'ebt run "fix']),
        ([], ["run", "plugins", "examples:"]),
        (["run", "--help"], ["-- COMMAND", "--timeout", "examples:", "exit status:", "127"]),
        (["plugins", "--help"], ["--json", "examples:"]),
    ],
)
def test_help_has_examples(ebt: Any, arguments: list[str], words: list[str]) -> None:
    """Help goes to standard output, and shows how a command is used."""
    running = ebt(*arguments)
    assert running.wait() == (0, "")
    text = running.seen.decode()
    assert not [word for word in words if word not in text]


@pytest.mark.parametrize(
    "arguments", [["--version"], ["run", "--help"], ["plugins", "--help"], ["run", "--nonsense"]]
)
def test_quick_commands_load_nothing(arguments: list[str]) -> None:
    """What only prints a text loads no event loop, no layout library, and looks for no plugin."""
    script = (
        "import sys, eventbus_tasks\n"
        "before = set(sys.modules)\n"
        "from eventbus_tasks._cli.main import main\n"
        f"main({arguments!r})\n"
        "slow = {'asyncio', 'trio', 'rich', 'anyio._backends._asyncio', 'importlib.metadata'}\n"
        "heavy = slow & (set(sys.modules) - before)\n"
        "sys.exit(f'loaded: {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "loaded" not in done.stderr
    assert done.returncode == 0

"""Installs Claude Code: ``python -m eventbus_tasks.testing.agents DIRECTORY [VERSION]``.

Where there is no npm it says so and succeeds: tests that need the program are skipped then.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from eventbus_tasks.testing.agents.clis import CLAUDE, CliUnavailableError, install_cli


def main(arguments: list[str]) -> None:
    """Install it, and say where."""
    if not 1 <= len(arguments) <= 2:
        sys.exit(__doc__)
    directory, version = Path(arguments[0]), (arguments[1:] or ["latest"])[0]
    try:
        sys.stderr.write(f"{install_cli(CLAUDE, directory, version)}\n")
    except CliUnavailableError as error:
        sys.stderr.write(f"{error}\n")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)


if __name__ == "__main__":
    main(sys.argv[1:])

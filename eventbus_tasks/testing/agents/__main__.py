"""Installs agents: ``python -m eventbus_tasks.testing.agents DIRECTORY [AGENT[=VERSION] …]``.

Without an agent it installs every one that is known here, in its latest version. Where there is no
npm it says so and succeeds: tests that need the programs are skipped then.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from eventbus_tasks.testing.agents.clis import CLIS, CliUnavailableError, install_cli


def main(arguments: list[str]) -> None:
    """Install them, and say where."""
    if not arguments:
        sys.exit(__doc__)
    directory = Path(arguments[0])
    for word in arguments[1:] or CLIS:
        name, _, version = word.partition("=")
        if name not in CLIS:
            sys.exit(f"{name!r} is none of {', '.join(CLIS)}\n\n{__doc__}")
        try:
            program = install_cli(CLIS[name], directory, version or "latest")
            sys.stderr.write(f"{program}\n")
        except CliUnavailableError as error:
            sys.stderr.write(f"{error}\n")
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)


if __name__ == "__main__":
    main(sys.argv[1:])

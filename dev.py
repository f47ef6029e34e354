#!/usr/bin/env python3
"""The one entrance for developers; needs only Python 3.11+ with its ``venv`` module.

python3 dev.py                  run every check (the same as ``check``)
python3 dev.py check [ARGS]     run the checks, with arguments for ``tox run``: check -e py311
python3 dev.py ebt ARGS         run the command line from this checkout, with the plugins
python3 dev.py bench ARGS       measure, and compare with plainer ways: bench --quick streaming
python3 dev.py faults [WORDS]   provoke every fault, and print what was seen: faults K05 H01
python3 dev.py random-kills [N]  kill N hosts at random moments, and count what is left (1000)
python3 dev.py tox ARGS         anything else that tox can do: tox list
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TOX_ENV = ROOT / ".venv"
RUN_ENV = ROOT / ".venv-run"
# What `dev.py ebt` has installed.
PLUGINS = ("acp", "claude", "codex", "disk", "gemini", "opencode", "termination", "voice")
OLDEST = (3, 11)


def make_env(env: Path, requirements: list[str], inputs: list[Path]) -> Path:
    """Return the ``bin`` folder of a virtual environment that has the requirements.

    It is made anew when the Python, the requirements or one of the `inputs` have changed since, and
    when making it was interrupted: the stamp is written last.
    """
    facts = [sys.version, sys.base_prefix, *requirements, *(path.read_text() for path in inputs)]
    stamp = env / ".stamp"
    wanted = hashlib.sha256("\0".join(facts).encode()).hexdigest()
    with env.with_name(env.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two terminals, one environment
        # The interpreter is a link; it dangles after an upgrade of the system's Python.
        ready = stamp.exists() and stamp.read_text() == wanted and (env / "bin/python").exists()
        if not ready:
            print(f"dev.py: making {env.name} (once)", file=sys.stderr, flush=True)
            shutil.rmtree(env, ignore_errors=True)
            # All output to stderr: `dev.py ebt … | less` must show only what ebt prints.
            run = [sys.executable, "-m", "venv", str(env)]
            if subprocess.run(run, stdout=sys.stderr, check=False).returncode:
                sys.exit("dev.py: cannot make a virtual environment (Debian: install python3-venv)")
            pip = [str(env / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
            run = [*pip, "install", "--quiet", *requirements]
            if subprocess.run(run, stdout=sys.stderr, cwd=ROOT, check=False).returncode:
                sys.exit("dev.py: pip failed, see above")
            stamp.write_text(wanted)
    return env / "bin"


def tox(*arguments: str) -> None:
    """Become tox. Never returns."""
    python = make_env(TOX_ENV, ["tox>=4.22"], []) / "python"
    os.chdir(ROOT)
    os.execv(python, [str(python), "-m", "tox", *arguments])


def ebt(*arguments: str) -> None:
    """Become ``ebt``, in the caller's directory. Never returns.

    Exit code, terminal and Ctrl-C are ebt's own, because no process stands in between.
    """
    folders = [ROOT / "plugins" / f"eventbus-tasks-{name}" for name in PLUGINS]
    # One pip call: the plugins need the core, which need not be on any index.
    requirements = ["--editable", f"{ROOT}[cli]"]
    for folder in folders:
        requirements += ["--editable", str(folder)]
    inputs = [folder / "pyproject.toml" for folder in (ROOT, *folders)]
    command = make_env(RUN_ENV, requirements, inputs) / "ebt"
    os.execv(command, [str(command), *arguments])


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    if sys.version_info < OLDEST:
        have, need = sys.version.split()[0], ".".join(map(str, OLDEST))
        sys.exit(f"dev.py: this is Python {have}; {need} or newer is needed: python{need} dev.py")
    command, *rest = arguments or ["check"]
    if command == "check":
        tox("run", *rest)
    elif command == "tox":
        tox(*rest)
    elif command == "bench":
        tox("run", "-e", "bench", "--", *rest)
    elif command == "faults":
        chosen = ["-k", " or ".join(rest)] if rest else []
        tox("run", "-e", "faults", "--", "tests/faults/test_scenarios.py", "--table", *chosen)
    elif command == "random-kills":
        tox("run", "-e", "random-kills", "--", *rest)
    elif command == "ebt":
        ebt(*rest)
    elif command in ("-h", "--help", "help"):
        print(__doc__)
    else:
        sys.exit(f"dev.py: unknown command {command!r}\n\n{__doc__}")


if __name__ == "__main__":
    main(sys.argv[1:])

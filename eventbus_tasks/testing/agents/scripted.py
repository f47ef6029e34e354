"""A scripted agent: a real process that plays recorded lines in the place of a real program.

Two halves in one file. Imported, it installs the executable (`ScriptedCli`). Executed, it is that
executable: it writes down what it was given, plays its scenario, and exits. Standard library only.

A scenario is a list of steps, each one a dictionary with one key:

- ``{"line": {…}}``: one line of JSON on standard output; the text ``$SESSION`` in it becomes the
  value of the argument ``--session-id=`` or ``--resume=``, or an id of this run alone
- ``{"stdout": "…"}`` or ``{"stderr": "…"}``: text as it is
- ``{"wait": "SIGINT"}``: go on when that signal comes
- ``{"ignore": "SIGTERM"}``: do not react to that signal from here on
- ``{"leave": ["program", "argument"]}``: start a program in a session of its own, and leave it
- ``{"exit": 3}``: end with that status (without it: 0)
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["ScriptStep", "ScriptedCli"]

ScriptStep = dict[str, Any]
"""One step of a scenario."""


class ScriptedCli:
    """An executable with the name of an agent, in a directory of its own.

    Args:
        directory: Where; made if it is not there. To be put into ``PATH``.
        program: What it is called.
        version: What it answers to ``--version``.

    Attributes:
        directory: The same.
        executable: The program.
    """

    def __init__(self, directory: Path, program: str, version: str = "1.2.3") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "version").write_text(f"{version}\n", "utf-8")
        self.directory = directory
        self._numbers = itertools.count(1)
        self.executable: Path = directory / program
        source = Path(__file__).read_text("utf-8")
        # -I and -S: what it records is what it was given, and it starts in 20 ms.
        self.executable.write_text(f"#!{sys.executable} -IS\n{source}", "utf-8")
        self.executable.chmod(0o700)

    def environment(self, *steps: ScriptStep) -> dict[str, str]:
        """Write a scenario, and return the variables with which it is played.

        Those that were written before stay, so several can be played at the same time.
        """
        scenario = self.directory / f"scenario-{next(self._numbers)}.json"
        scenario.write_text(json.dumps(steps), "utf-8")
        return {
            "PATH": f"{self.directory}{os.pathsep}{os.environ['PATH']}",
            "SCRIPTED_AGENT": str(scenario),
        }

    @property
    def record(self) -> dict[str, Any]:
        """What the last run was given: ``argv``, ``env``, ``cwd`` and ``stdin`` to its end.

        Of several at the same time, the one that has begun to play last.

        Raises:
            FileNotFoundError: It was not run yet.
        """
        data: dict[str, Any] = json.loads((self.directory / "record.json").read_text("utf-8"))
        data["stdin"] = bytes.fromhex(data["stdin"])
        return data


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _session(argv: list[str]) -> str:
    for flag in ("--session-id=", "--resume="):
        for word in argv:
            if word.startswith(flag):
                return word.removeprefix(flag)
    # Like a real one's: another one for each run, also for those that run side by side.
    return f"00000000-0000-4000-8000-{os.getpid():012}"


def _play() -> int:
    if sys.argv[1:] == ["--version"]:
        _write_all(1, Path(sys.argv[0]).with_name("version").read_bytes())
        return 0
    given = {
        "argv": sys.argv,
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "stdin": sys.stdin.buffer.read().hex(),
    }
    scenario = Path(os.environ["SCRIPTED_AGENT"])
    # Complete or not there at all, also when several run at once.
    unfinished = scenario.with_name(f"record.{os.getpid()}.part")
    unfinished.write_text(json.dumps(given), "utf-8")
    unfinished.replace(scenario.with_name("record.json"))

    steps = json.loads(scenario.read_text("utf-8"))
    # Blocked before the first output: whoever has seen output can send one, and none is missed.
    awaited = {signal.Signals[step["wait"]] for step in steps if "wait" in step}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    session = _session(sys.argv)
    for step in steps:
        match step:
            case {"line": fields}:
                line = json.dumps(fields, ensure_ascii=False).replace("$SESSION", session)
                _write_all(1, line.encode("utf-8", "surrogatepass") + b"\n")
            case {"stdout": words}:
                _write_all(1, words.encode())
            case {"stderr": words}:
                _write_all(2, words.encode())
            case {"wait": name}:
                signal.sigwait({signal.Signals[name]})
            case {"ignore": name}:
                signal.signal(signal.Signals[name], signal.SIG_IGN)
            case {"leave": argv}:
                # Nobody waits for it, and it holds none of our streams: that is the point.
                subprocess.Popen(
                    argv,
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            case {"exit": status}:
                return int(status)
    return 0


if __name__ == "__main__":
    sys.exit(_play())

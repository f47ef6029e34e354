"""``ebt plugins install``: adds plugins to the environment in which this ``ebt`` lives."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from eventbus_tasks import PluginReport, terminal_safe
from eventbus_tasks._cli.exits import NOT_FOUND
from eventbus_tasks._cli.installers import OUR_NAME, Place, Plan, Refusal, make_plan
from eventbus_tasks._cli.messages import say
from eventbus_tasks._cli.tables import plugin_lines
from eventbus_tasks._cli.uv_receipt import requirement_name

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["install"]

# (name of the plugin, its distribution) -> version
Installed = Mapping[tuple[str, str], str]

LIST_DEADLINE: Final = 120.0
"""Seconds for the new process that lists the plugins; each of their hooks has its own deadline."""


def install(arguments: argparse.Namespace) -> int:
    """Install, and say what has come of it; return the exit code of the installer."""
    names: list[str] = arguments.names
    try:
        plan = make_plan(names, Place.here())
    except Refusal as refusal:
        say(f"plugins install: {refusal}")
        return refusal.code
    for note in plan.notes:
        say(f"plugins install: {note}")
    print(terminal_safe(_command_line(plan)), flush=True)
    if arguments.dry_run:
        return 0
    before = _installed()
    code = _run(plan)
    if code:
        say(f"plugins install: {os.path.basename(plan.argv[0])} has failed with status {code}")
        return code
    _tell(names, before)
    return 0


def _command_line(plan: Plan) -> str:
    """Return the command as one can type it."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in plan.environ.items()]
    return " ".join([*settings, shlex.join(plan.argv)])


def _installed() -> Installed:
    """Return the plugins that are installed now. Nothing of them is run."""
    return {
        (entry.name, entry.dist.name): entry.dist.version
        for entry in metadata.entry_points(group="eventbus_tasks")
        if entry.dist is not None
    }


def _run(plan: Plan) -> int:
    """Run the installer at our own terminal; return its exit code, as a shell says it."""
    with _left_to_the_installer():
        try:
            child = subprocess.Popen(plan.argv, env={**os.environ, **plan.environ})
        except OSError as error:
            say(f"plugins install: cannot run {plan.argv[0]}: {error.strerror}")
            return NOT_FOUND
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _left_to_the_installer() -> Iterator[None]:
    """Leave Ctrl-C to the installer, which has it too, and puts things in order before it ends."""
    ours = signal.getsignal(signal.SIGINT)
    if ours is signal.SIG_IGN:
        yield
        return
    # A function: what is ignored would be ignored by the installer as well.
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ours)


def _tell(names: Sequence[str], before: Installed) -> None:
    """Say which plugins have come, and in what state they are."""
    # Another process: this one has the old modules in memory, and uv may have moved its files.
    command = [sys.executable, "-P", "-m", "eventbus_tasks", "plugins", "--json"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIST_DEADLINE,
            check=True,
        )
        found = [_report(item) for item in json.loads(done.stdout)]
    except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
        lines = getattr(error, "stderr", None) or str(error).encode()
        last = lines.decode(errors="replace").strip().rpartition("\n")[2]
        say(f'installed; but "ebt plugins" fails now: {last}')
        return
    found = [report for report in found if not report.builtin]
    new = [one for one in found if before.get((one.name, one.distribution)) != one.version]
    asked = {requirement_name(name): name for name in names}
    asked.pop("", None)
    named = [one for one in found if requirement_name(one.distribution) in asked]
    if new:
        print("\nnew:" if len(new) == 1 else f"\nnew, {len(new)} plugins:")
    elif named:
        print("\nnothing is new:")
    else:
        print("\nno plugin has come")
    for line in plugin_lines([one for one in found if one in new or one in named]):
        print(terminal_safe(line))
    owners = {requirement_name(one.distribution) for one in found}
    for name in sorted(asked.keys() - owners - {OUR_NAME}):
        hint = "" if name.startswith(OUR_NAME) else f"; ours are called {OUR_NAME}-…"
        say(f"plugins install: {asked[name]} has no plugin for ebt{hint}")


def _report(item: Mapping[str, Any]) -> PluginReport:
    return PluginReport(**{**item, "hooks": tuple(item["hooks"])})

"""``ebt run``: its arguments, and what they ask for."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from eventbus_tasks._cli.exits import TABLE

if TYPE_CHECKING:
    from eventbus_tasks import WhenBusy

__all__ = ["HELP", "RunOptions", "configure", "split_command"]

HELP: Final = "run an agent or a command, and show what it does"

_DESCRIPTION: Final = """\
Run an agent in a project directory, or any command, until nothing of it is left.

One task at a time works in a directory; a second one is refused, unless it is told to --queue or
to --share. Ctrl-C stops the task and everything it has
started, politely; a second Ctrl-C kills it.
"""

_EPILOG: Final = (
    """\
output:
  On a terminal you see what is going on, without control sequences. Otherwise a command's
  output is passed on byte for byte, as it comes, and of an agent you get what it says.
  Standard error of a command is part of its output. Its standard input is empty.

at a terminal:
  --pty gives a command a terminal of its own, for programs that work differently without; nobody
  types there. -i hands your terminal over to it: keys, Ctrl-C included, go to the command, and
  what it shows is shown as it is. Ctrl-] three times within a second stops it all the same.

in the background:
  --detach returns once the task runs, or waits for its turn, and prints its number; --json: an
  object. A process in a session of its own stays with it and tells its end; should that be killed,
  the task goes on all the same. It needs a plugin that keeps what tasks write, for nobody else
  reads it: eventbus-tasks-disk. Within a task of ebt it ends with that task, as everything does.

examples:
  ebt run "add a test for the parser"
  ebt run --agent claude --option model=opus -C ../api "find out why the login is slow"
  git diff | ebt run -
  ebt run --agent codex --resume SESSION "and now the tests"
  ebt run -- make -j4 test
  ebt run --queue -- make test
  ebt run -i -- python3
  id=$(ebt run --detach -- make test); ebt logs -f $id; ebt wait $id; ebt cancel $id
  ebt run --timeout 600 --name train -- python train.py --epochs 5
  ebt run --json -- make | jq -r 'select(.event == "output.line") | .text'

"""
    + TABLE
)

_NAME_LENGTH: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """One call of ``ebt run``, checked.

    Attributes:
        name: The name of the task.
        directory: The project directory.
        agent: The agent that was asked for, or ``None``.
        prompt: What the agent is told.
        argv: The command, or nothing.
        timeout: Seconds it may run.
        when_busy: What to do while another task works in the directory; ``None`` for the setting.
        resume: The session to go on with, or ``None``.
        options: For the agent's plugin.
        json: Write events.
        raw: Write the agent's output as it is.
        detach: Leave it to a background process and return once it runs.
        pty_size: Columns and lines, for a command that gets a terminal of its own.
        interactive: Hand the local terminal over to it.
        backend: The event loop: ``"asyncio"`` or ``"trio"``.
    """

    name: str
    directory: str
    agent: str | None
    prompt: str
    argv: tuple[str, ...]
    timeout: float | None
    when_busy: WhenBusy | None
    resume: str | None
    options: Mapping[str, Any]
    json: bool
    raw: bool
    detach: bool
    pty_size: tuple[int, int] | None
    interactive: bool
    backend: str


def split_command(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """Return the arguments before the first ``--``, and those behind it, if there is one.

    argparse has changed its mind about ``--`` from version to version; a command must get its
    own arguments exactly as they are.
    """
    if "--" not in arguments:
        return arguments, None
    position = arguments.index("--")
    return arguments[:position], arguments[position + 1 :]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = 'ebt run [options] "prompt"\n       ebt run [options] -- COMMAND [ARGUMENT ...]'
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument(
        "prompt", nargs="*", help="what the agent is to do; - or nothing: read standard input"
    )
    parser.add_argument(
        "-a", "--agent", help="which agent (default: the setting 'agent', which is claude)"
    )
    parser.add_argument("-n", "--name", help="name of the task (default: made from what it does)")
    parser.add_argument(
        "-C", "--directory", default=".", metavar="DIR", help="work in DIR instead of here"
    )
    parser.add_argument(
        "-t", "--timeout", type=_seconds, metavar="S", help="stop it after S seconds"
    )
    parser.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="KEY=VALUE",
        help="an option for the agent's plugin (repeatable); VALUE may be JSON",
    )
    busy = parser.add_mutually_exclusive_group()
    busy.add_argument(
        "-q",
        "--queue",
        dest="when_busy",
        action="store_const",
        const="queue",
        help="while another task works in the directory, wait for it",
    )
    busy.add_argument(
        "--share",
        dest="when_busy",
        action="store_const",
        const="share",
        help="work in the directory at the same time as other tasks",
    )
    parser.add_argument(
        "-r", "--resume", metavar="SESSION", help="let the agent go on with an earlier session"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="write each event as a line of JSON")
    how.add_argument("--raw", action="store_true", help="write an agent's own output, as it is")
    parser.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="run it in the background: print its number, and leave the terminal to you",
    )
    terminal = parser.add_mutually_exclusive_group()
    terminal.add_argument("--pty", action="store_true", help="give a command a terminal of its own")
    terminal.add_argument(
        "-i",
        "--interactive",
        action="store_true",
        help="hand your terminal over to a command (keys and Ctrl-C go to it)",
    )
    parser.add_argument(
        "--backend", choices=("asyncio", "trio"), default="asyncio", help="the event loop to use"
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the task and return the exit code."""
    options = _read_options(arguments)
    if options.detach:
        from eventbus_tasks._cli.background import run_in_background

        return run_in_background(options)
    from eventbus_tasks._cli.running import run_task

    return run_task(options)


def _read_options(arguments: argparse.Namespace) -> RunOptions:
    """Check what belongs together; ends the program with a message when it does not fit."""
    error: Callable[[str], NoReturn] = arguments.parser.error
    words, argv = arguments.prompt, tuple(arguments.command_words or ())
    if arguments.command_words is not None:
        if not argv:
            error("behind -- there must be a command")
        if words:
            error(f"either a prompt or a command, not both: {words[0]!r} stands before the --")
        prompt = ""
        if arguments.agent not in (None, "command"):
            # As anywhere else, -- protects what begins with a dash: here, the prompt.
            if len(argv) > 1:
                error(f"the agent {arguments.agent!r} takes a prompt, not a command")
            prompt, argv = argv[0], ()
    else:
        if len(words) > 1:
            error("put the prompt in quotes; for a command put -- before it: ebt run -- COMMAND …")
        prompt = _read_prompt(words[0] if words else None, error)
    if arguments.detach and arguments.raw:
        error("--detach shows no output that could be raw: ebt logs -f --raw TASK")
    at_terminal = arguments.pty or arguments.interactive
    if at_terminal and not argv:
        error("--pty and -i are for commands: put one behind --")
    if arguments.interactive:
        if arguments.json or arguments.detach:
            error("-i hands the terminal over: it cannot go with --json or --detach")
        if not (os.isatty(0) and os.isatty(1)):
            error("-i needs a terminal; for a command that wants to see one: --pty")
    if arguments.backend == "trio":
        from importlib.util import find_spec

        if find_spec("trio") is None:
            error("--backend trio needs trio: pip install trio")
    return RunOptions(
        name=arguments.name or _make_name(prompt, argv),
        directory=arguments.directory,
        agent=arguments.agent,
        prompt=prompt,
        argv=argv,
        timeout=arguments.timeout,
        when_busy=arguments.when_busy,
        resume=arguments.resume,
        options=_options(arguments, argv, error),
        json=arguments.json,
        raw=arguments.raw,
        detach=arguments.detach,
        pty_size=_window_size() if at_terminal else None,
        interactive=arguments.interactive,
        backend=arguments.backend,
    )


def _window_size() -> tuple[int, int]:
    from eventbus_tasks._cli.keyboard import window_size

    return window_size() or (80, 24)


def _options(
    arguments: argparse.Namespace, argv: tuple[str, ...], error: Callable[[str], NoReturn]
) -> dict[str, Any]:
    options = dict(arguments.option)
    if arguments.resume is not None:
        if argv:
            error("a command has no session to be resumed")
        if "resume" in options:
            error("the session is given twice: --resume and --option resume=…")
    return options


def _read_prompt(word: str | None, error: Callable[[str], NoReturn]) -> str:
    if word not in (None, "-"):
        prompt = str(word)
    elif word is None and os.isatty(0):
        error('what is to be done? ebt run "prompt", or ebt run -- COMMAND …')
    else:
        try:
            prompt = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError:
            error("standard input is not UTF-8")
        except OSError as problem:
            error(f"standard input cannot be read: {problem.strerror}")
    if not prompt.strip():
        error("the prompt is empty")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        error("the prompt is not valid text")
    return prompt


def _make_name(prompt: str, argv: tuple[str, ...]) -> str:
    text = " ".join([os.path.basename(argv[0]) or argv[0], *argv[1:]]) if argv else prompt
    line = " ".join(text.replace("\0", " ").split())
    return line if len(line) <= _NAME_LENGTH else line[: _NAME_LENGTH - 1] + "…"


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of seconds >= 0, not {text!r}")
    return number


def _option(text: str) -> tuple[str, Any]:
    import json

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, not {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value

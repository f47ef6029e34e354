"""The entry point: finds the command, runs it, and turns whatever happens into an exit code.

Start-up time is felt at every call, so commands import what they need when they run, and
plugins are loaded only for their own commands and for the list of all of them.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from eventbus_tasks import EventbusTasksError, __version__
from eventbus_tasks._cli.exits import INTERNAL, OUTPUT_CLOSED, OUTPUT_ERROR, USAGE, code_of_error
from eventbus_tasks._cli.messages import configure_logging, is_debugging, say
from eventbus_tasks._cli.streams import OutputError, ensure_standard_streams, give_up_unwritten

if TYPE_CHECKING:
    from eventbus_tasks import CommandContribution, PluginHost

__all__ = ["main"]

# Each is a module of this package, with `HELP` and `configure`.
_BUILT_IN: Final = ("run", "cancel", "wait", "agents", "plugins", "doctor", "new-plugin")

# Commands that people expect, and the distribution whose plugin has them.
_ELSEWHERE: Final = {
    "ls": "eventbus-tasks-disk",
    "show": "eventbus-tasks-disk",
    "logs": "eventbus-tasks-disk",
    "gc": "eventbus-tasks-disk",
}

_EPILOG: Final = """\
examples:
  ebt run "fix the failing test"      an agent works in this directory
  ebt run -- make -j4 test            any command, in the background's care
  ebt run --json -- make | jq .event  what happens, as JSON lines
  ebt cancel 12                       stop a task, whoever has started it
  ebt plugins                         what is installed, and what is wrong with it
  ebt doctor                          what works here, what does not, and what to do

"ebt COMMAND --help" says more about each command.
"""


# Abbreviated options would change their meaning with every new option.
_PARSING: Final[dict[str, Any]] = {
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "allow_abbrev": False,
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and say where help is."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and exit with 2."""
        say(f"{message} (see: {self.prog} --help)")
        raise SystemExit(USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments; those of the process when left out.
    """
    ensure_standard_streams()
    configure_logging()
    try:
        return _code_of(list(sys.argv[1:] if argv is None else argv))
    finally:
        give_up_unwritten()


def _code_of(arguments: list[str]) -> int:
    try:
        try:
            code = _dispatch(arguments)
        except SystemExit as error:
            code = _code_of_exit(error)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = OUTPUT_CLOSED
    except EventbusTasksError as error:
        for line in str(error).split("\n"):
            say(line)
        code = OUTPUT_ERROR if isinstance(error, OutputError) else code_of_error(error)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EIO:
            # The terminal has been closed: what its SIGHUP means, even if that comes later.
            return 128 + signal.SIGHUP
        if is_debugging():
            raise
        say(f"internal error: {type(error).__name__}: {error} (EBT_DEBUG=1 shows where)")
        code = INTERNAL
    return code


def _dispatch(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "--help"
    if command in _BUILT_IN:
        module = _module_of(command)
        words, tail = arguments, None
        if command == "run":
            words, tail = module.split_command(arguments)
        # Not the parser of everything: what is wrong here is said by this command.
        parser = Parser(prog=f"ebt {command}", **_PARSING)
        module.configure(parser)
        parsed = parser.parse_args(words[1:])
        parsed.command_words = tail
        return int(parsed.run(parsed))
    if command.startswith("-") and command not in ("-h", "--help"):
        build_parser().parse_args(arguments)  # --version, or an error; neither comes back
    if not command.startswith("-"):
        from eventbus_tasks._cli.quick import find_configure

        quick = find_configure(command)
        if quick is not None:
            return _run_contribution(command, "", quick[1], quick[0], arguments)
    from eventbus_tasks._cli.host import load_host

    host = load_host()
    contributions = [item for name, item in host.commands.items() if name not in _BUILT_IN]
    if command.startswith("-"):
        build_parser(contributions).print_help()
        return 0
    for contribution in contributions:
        if contribution.name == command:
            name, text, owner = contribution.name, contribution.help, contribution.plugin
            return _run_contribution(name, text, owner, contribution.configure, arguments)
    say(_why_missing(command, host, [item.name for item in contributions]))
    return USAGE


def _module_of(command: str) -> Any:
    return importlib.import_module(f"eventbus_tasks._cli.{command.replace('-', '_')}")


def build_parser(contributions: Sequence[CommandContribution] = ()) -> argparse.ArgumentParser:
    """Return the parser of everything.

    Args:
        contributions: Commands of plugins; they are listed, not configured.
    """
    parser = Parser(
        prog="ebt",
        description="Run agents and other long commands, watch them, and stop all of them.",
        epilog=_EPILOG,
        **_PARSING,
    )
    parser.add_argument("--version", action="version", version=f"ebt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in _BUILT_IN:
        module = _module_of(name)
        module.configure(commands.add_parser(name, help=module.HELP, **_PARSING))
    for item in sorted(contributions, key=lambda item: item.name):
        commands.add_parser(item.name, help=item.help, **_PARSING)
    return parser


def _run_contribution(
    name: str,
    text: str,
    plugin: str,
    configure: Callable[[argparse.ArgumentParser], Any],
    arguments: list[str],
) -> int:
    """Run a command of a plugin; what goes wrong in it is said in one line, with its name."""
    parser = Parser(prog=f"ebt {name}", description=text, **_PARSING)
    try:
        configure(parser)
        parsed = parser.parse_args(arguments[1:])
        function = getattr(parsed, "run", None)
        if not callable(function):
            raise TypeError("its configure() did not set the default 'run'")
        return int(function(parsed) or 0)
    except (BrokenPipeError, EventbusTasksError):
        raise
    except Exception as error:
        if is_debugging():
            raise
        problem = f"{type(error).__name__}: {error}"
        say(f"{name}: the plugin {plugin!r} failed: {problem}")
        return INTERNAL


def _why_missing(command: str, host: PluginHost, known: Sequence[str]) -> str:
    from eventbus_tasks._cli.host import find_report

    distribution = _ELSEWHERE.get(command)
    if distribution is None:
        import difflib

        close = difflib.get_close_matches(command, [*_BUILT_IN, *_ELSEWHERE, *known], n=1)
        hint = f"did you mean {close[0]!r}?" if close else "ebt --help lists them"
        return f"there is no command {command!r}; {hint}"
    report = find_report(host, distribution)
    if report is None:
        return f"{command} needs the plugin {distribution}: ebt plugins install {distribution}"
    if report.state == "active":
        return f"{command}: {distribution} {report.version} does not have this command; update it"
    return f"{command} needs the plugin {distribution}, which is {report.state}: {report.reason}"


def _code_of_exit(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    say(str(error.code))
    return 1

"""``ebt new-plugin``: writes a distribution with a plugin that installs, is tested, and works."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["HELP", "KINDS", "configure"]

HELP: Final = "write a plugin of your own: a complete, tested distribution"

KINDS: Final[Mapping[str, str]] = {
    "agent": "builds the command of an agent",
    "termination": "decides how tasks are stopped",
    "notifier": "says what became of a task",
    "journal": "keeps the events of tasks",
    "command": "adds a command to ebt",
}

_EPILOG: Final = """\
kinds:
{kinds}

examples:
  ebt new-plugin shout                       an agent "shout", in ./ebt-shout
  ebt new-plugin patience --kind termination -C ~/src
"""

_LONGEST: Final = 40

# Words that mean something else already: agents, commands and settings of the core.
_TAKEN: Final = frozenset({"command", "core", "testing", "plugin", "plugins"})


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    kinds = "\n".join(f"  {name:<13}{text}" for name, text in KINDS.items())
    parser.description = "Write a distribution with one plugin: code, types, tests, README."
    parser.epilog = _EPILOG.format(kinds=kinds)
    parser.add_argument(
        "name", metavar="NAME", help="one word for it, in lower case; hyphens may join parts"
    )
    parser.add_argument(
        "--kind", choices=list(KINDS), default="agent", help="what it does (default: agent)"
    )
    parser.add_argument(
        "-C",
        "--directory",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where the new folder is made (default: here)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the distribution; nothing that exists is changed."""
    import shutil

    from eventbus_tasks._cli.exits import FAILED, USAGE
    from eventbus_tasks._cli.messages import say

    word = arguments.name.removeprefix("ebt-")
    problem = _problem_of(word) or _taken_by(word)
    if problem:
        say(f"new-plugin: {arguments.name!r} {problem}")
        return USAGE
    values = _values(word, arguments.kind)
    folder: Path = arguments.directory / values["distribution"]
    try:
        folder.mkdir()
    except FileExistsError:
        say(f"new-plugin: {folder} exists already; choose another name, or remove it first")
        return USAGE
    except OSError as error:
        say(f"new-plugin: {folder}: {error.strerror}")
        return USAGE
    try:
        count = _write(folder, arguments.kind, values)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)  # nothing of anybody else's is in it
        if not isinstance(error, OSError):
            raise
        say(f"new-plugin: {error}")
        return FAILED
    print(_next_steps(folder, arguments.kind, count, values))
    return 0


def _problem_of(word: str) -> str:
    import re

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", word):
        return "is no name for a plugin: lower-case letters and digits, joined by single hyphens"
    if len(word) > _LONGEST:
        return f"is too long: {_LONGEST} characters at most"
    if word.partition("-")[0] in ("core", "eventbus"):
        return "begins like the core's own names"
    if word in _TAKEN:
        return "means something else already"
    return ""


def _taken_by(word: str) -> str:
    from importlib import metadata

    for entry in metadata.entry_points(group="eventbus_tasks"):
        if entry.name == word:
            owner = "another distribution" if entry.dist is None else entry.dist.name
            # Its own author may write it anew elsewhere; anybody else would get a broken plugin.
            if entry.dist is None or entry.dist.name != f"ebt-{word}":
                return f"is the name of an installed plugin, of {owner}"
    return ""


def _values(word: str, kind: str) -> dict[str, str]:
    from eventbus_tasks import __version__

    major, minor = __version__.split(".")[:2]
    table = word.replace("-", "_")
    return {
        "word": word,
        "table": table,
        "distribution": f"ebt-{word}",
        "module": f"ebt_{table}",
        "title": "".join(part.capitalize() for part in word.split("-")),
        "kind": kind,
        "does": KINDS[kind],
        "core": f"eventbus-tasks>={major}.{minor},<{int(major) + 1}",
    }


def _write(folder: Path, kind: str, values: Mapping[str, str]) -> int:
    """Fill in the templates; return how many files there are.

    Raises:
        OSError: A file could not be written.
    """
    from importlib import resources
    from string import Template

    root = resources.files("eventbus_tasks._cli") / "plugin_template"
    package = f"src/{values['module']}"
    count = 0
    for source in (root / "common", root / kind):
        for name, content in _templates(source):
            # In a name, "+" stands for a folder, and no template begins with a dot.
            path = name.removesuffix(".tmpl").replace("+", "/")
            path = path.replace("PACKAGE", package).replace("DOT", ".")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8") as file:
                file.write(Template(content).substitute(values))
            count += 1
    return count


def _templates(source: Traversable) -> list[tuple[str, str]]:
    found = [(item.name, item.read_text("utf-8")) for item in source.iterdir() if item.is_file()]
    return sorted(found)


def _next_steps(folder: Path, kind: str, count: int, values: Mapping[str, str]) -> str:
    import shlex

    word = values["word"]
    use = {
        "agent": f'ebt run --agent {word} "hello"    # and this uses it',
        "command": f"ebt {word} --help                # and this is your command",
    }.get(kind, 'ebt run -- sh -c "sleep 1"     # and this uses it')
    return "\n".join(
        [
            f"{folder}: a plugin that {values['does']}, {count} files",
            "next:",
            f"  cd {shlex.quote(str(folder))}",
            "  python3 -m venv .venv && . .venv/bin/activate",
            '  pip install --editable ".[test]"',
            "  pytest                         # all of them pass; now change what it does",
            f"  ebt plugins                    # lists {word}",
            f"  {use}",
        ]
    )

"""The receipt of ``uv tool install``: what a tool's environment was made of, and how to add to it.

``uv tool install`` makes the environment exactly of what it is told, so all of the receipt has to
be said again: the tool itself, every ``--with``, the Python, the indexes. (Format seen with uv
0.13. What is not known here is refused, and not forgotten.)
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit, urlunsplit

from eventbus_tasks._cli.installers import Place, Plan, Refusal, missing

__all__ = ["plan_uv_tool", "requirement_name"]

RECEIPT: Final = "uv-receipt.toml"

_NAME: Final = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(.*)", re.DOTALL)

# What else the table of a tool may have; anything more changes what is installed.
_KNOWN: Final = frozenset({"requirements", "python", "entrypoints", "options"})
_KNOWN_OF_REQUIREMENT: Final = frozenset(
    {
        "name",
        "extras",
        "specifier",
        "marker",
        "directory",
        "editable",
        "path",
        "url",
        "git",
        "subdirectory",
    }
)

# Options of the receipt whose argument has the same name.
_SAME: Final = frozenset(
    {
        "default-index",
        "exclude-newer",
        "extra-index-url",
        "find-links",
        "fork-strategy",
        "index-strategy",
        "index-url",
        "keyring-provider",
        "link-mode",
        "no-binary",
        "no-binary-package",
        "no-build",
        "no-build-isolation",
        "no-build-package",
        "no-index",
        "no-sources",
        "prerelease",
        "resolution",
    }
)


class _UnknownError(Exception):
    """Something in a receipt that this module cannot say again."""


def requirement_name(requirement: str) -> str:
    """Return the normalized name of the package that a requirement names.

    Args:
        requirement: As on a command line.

    Returns:
        The name, or ``""`` for a path or an address.
    """
    found = _NAME.fullmatch(requirement)
    if found is None or (found[2] and found[2][0] not in "[@<>=!~;("):
        return ""
    return normalized(found[1])


def normalized(name: str) -> str:
    """Return the spelling of a name under which packages are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def plan_uv_tool(names: Sequence[str], place: Place) -> Plan:
    """Return the ``uv tool install`` that keeps what is there and adds packages.

    Raises:
        Refusal: The receipt cannot be read, or says what cannot be said again; or uv is missing.
    """
    path = place.prefix / RECEIPT
    try:
        receipt = tomllib.loads(path.read_text("utf-8"))["tool"]
        arguments, notes = _arguments(receipt, names, place)
        entrypoints = receipt.get("entrypoints", [])
        folders = {Path(item["install-path"]).parent for item in entrypoints}
    except _UnknownError as error:
        added = " ".join(f"--with {name}" for name in names)
        raise Refusal(
            f"this environment was made with {error} ({path}), which ebt cannot repeat. Run the "
            f'"uv tool install" with which you made it once more, with "{added}" at its end'
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Refusal(f"cannot read {path}: {type(error).__name__}: {error}") from None
    uv = place.which("uv")
    if uv is None:
        raise missing("uv", path, arguments)
    wanted = {"UV_TOOL_DIR": (place.prefix.parent, place.data_home / "uv" / "tools")}
    if len(folders) == 1:
        usual = place.environ.get("XDG_BIN_HOME") or (
            place.data_home.parent / "bin"
            if place.environ.get("XDG_DATA_HOME")
            else place.home / ".local" / "bin"
        )
        wanted["UV_TOOL_BIN_DIR"] = (folders.pop(), Path(usual))
    return Plan(argv=(uv, *arguments), environ=place.differing(**wanted), notes=tuple(notes))


def _arguments(
    receipt: Mapping[str, Any], names: Sequence[str], place: Place
) -> tuple[list[str], list[str]]:
    unknown = sorted(key for key in receipt.keys() - _KNOWN if receipt[key])
    if unknown:
        raise _UnknownError(", ".join(unknown))
    requirements = list(receipt["requirements"])
    folder = normalized(place.prefix.name)
    tool = next((one for one in requirements if normalized(one["name"]) == folder), requirements[0])
    requirements.remove(tool)

    # What is asked for by its bare name and is there already stays as it is: it may be pinned.
    there = {normalized(one["name"]) for one in (tool, *requirements)}
    added = [name for name in names if normalized(name.strip()) not in there]
    replaced = {requirement_name(name) for name in added} - {""}
    tool_name = normalized(tool["name"])
    mine = [name for name in added if requirement_name(name) == tool_name]
    others = [name for name in added if requirement_name(name) != tool_name]

    arguments = ["tool", "install"]
    if receipt.get("python"):
        arguments += ["--python", receipt["python"]]
    options, notes = _options(receipt.get("options", {}))
    arguments += options
    if mine:
        arguments.append(mine[-1])
    elif tool.get("editable"):
        arguments += ["--editable", _spoken(tool)]
    else:
        arguments.append(_spoken(tool))

    exposed = {normalized(one["from"]) for one in receipt.get("entrypoints", []) if "from" in one}
    for one in requirements:
        name = normalized(one["name"])
        if name in replaced:
            continue
        if name in exposed - {tool_name}:
            arguments.append("--with-executables-from")
        elif one.get("editable"):
            arguments.append("--with-editable")
        else:
            arguments.append("--with")
        arguments.append(_spoken(one))
    for name in others:
        arguments += ["--with", name]
    return arguments, notes


def _spoken(requirement: Mapping[str, Any]) -> str:
    """Return a requirement of the receipt as it is written on a command line."""
    unknown = sorted(requirement.keys() - _KNOWN_OF_REQUIREMENT)
    if unknown:
        raise _UnknownError(f"{', '.join(unknown)} for {requirement['name']}")
    extras = f"[{','.join(requirement['extras'])}]" if requirement.get("extras") else ""
    if requirement.get("editable"):
        return f"{requirement['editable']}{extras}"
    text = f"{requirement['name']}{extras}"
    address = _address(requirement)
    if address:
        text += f" @ {address}"
    elif requirement.get("specifier"):
        text += requirement["specifier"]
    if requirement.get("marker"):
        text += f" ; {requirement['marker']}"
    return text


def _address(requirement: Mapping[str, Any]) -> str:
    subdirectory = requirement.get("subdirectory")
    fragment = f"#subdirectory={subdirectory}" if subdirectory else ""
    for key in ("directory", "path"):
        if key in requirement:
            return Path(requirement[key]).absolute().as_uri() + fragment
    if "url" in requirement:
        return f"{requirement['url']}{fragment}"
    if "git" in requirement:
        parts = urlsplit(requirement["git"])
        query = parse_qs(parts.query)
        fragment = fragment or "".join(
            f"#subdirectory={it}" for it in query.pop("subdirectory", ())
        )
        points = [query.pop(key)[0] for key in ("rev", "tag", "branch") if key in query]
        if query:
            raise _UnknownError(f"{', '.join(sorted(query))} for {requirement['name']}")
        # The commit that was found then is left out: an upgrade would not keep it either.
        bare = urlunsplit(parts._replace(query="", fragment=""))
        return f"git+{bare}{''.join(f'@{point}' for point in points)}{fragment}"
    return ""


def _options(options: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the arguments for the options of a receipt, and notes about those that have none."""
    arguments: list[str] = []
    forgotten: list[str] = []
    for key, value in options.items():
        if key == "index":
            arguments += _indexes(value)
        elif key in _SAME:
            arguments += _said(key, value)
        elif value:
            forgotten.append(key)
    if not forgotten:
        return arguments, []
    which = ", ".join(forgotten)
    return arguments, [f"options of the environment that are not repeated: {which}"]


def _indexes(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for table in tables:
        yield "--default-index" if table.get("default") else "--index"
        yield f"{table['name']}={table['url']}" if table.get("name") else table["url"]


def _said(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        if value:
            yield f"--{key}"
        return
    for item in value if isinstance(value, list) else [value]:
        yield f"--{key}"
        yield str(item)

"""One typed settings object, its sources and their precedence.

Later sources win: defaults, the user's file (``~/.config/eventbus-tasks/config.toml``), the
project's file (``.eventbus-tasks.toml``, or ``[tool.eventbus-tasks]`` in ``pyproject.toml``),
environment variables (``EBT_GRACE``, ``EBT_DISK_RETAIN``), arguments.

A project's file cannot choose plugins or executables, because a cloned repository must not run
code: such keys are honoured from the user's own sources only.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

from eventbus_tasks.errors import SettingsError
from eventbus_tasks.policies import WhenBusy

__all__ = ["Settings"]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")

T = TypeVar("T")

_USER_ONLY: Final = {"user_only": True}
_PREFIX: Final = "EBT_"


def _home() -> Path | None:
    """Return the home directory; users of containers that are known by number only have none."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    if not base:
        home = _home()
        if home is None:
            problem = "is not set, and this user has no home directory; or set EBT_STATE_DIR"
            raise SettingsError("environment", "HOME", problem)
        base = str(home / ".local" / "state")
    return Path(base) / "eventbus-tasks"


def _user_file() -> Path | None:
    named = os.environ.get("EBT_CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    if not base:
        home = _home()
        if home is None:
            return None
        base = str(home / ".config")
    return Path(base) / "eventbus-tasks" / "config.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, checked.

    Attributes:
        agent: The agent that is meant when a prompt names none.
        when_busy: What to do with a task whose project another one works in, unless the request
            says so: ``"reject"``, ``"queue"`` or ``"share"``.
        max_running: Tasks of one engine that may run at the same time; others wait, in the order
            in which they were accepted. ``None`` for any number.
        state_dir: Where what belongs to the user, not to a project, is kept.
        output_dir: Disk-backed directory for unnamed logs; ``None`` for the state directory.
        python: Interpreter for the warden; ``None`` for the one that runs this program.
        cgroup: Control group (v2) below which each task gets one of its own: ``"auto"`` for the
            one of this program, if it was delegated to it; a directory; or ``"off"``.
        prompt_loop: Ask the kernel (Linux 6.12 and later) for short time slices for the thread of
            the loop, so that it runs as soon as it wakes, beside tasks that take all processors.
        hook_deadline: Seconds that a hook may take.
        import_deadline: Seconds that the import of a plugin may take.
        journal_deadline: Seconds that making a journal durable may take.
        receiver_deadline: Seconds that async receivers of a terminal event may take before
            those who wait for the task go on.
        overrun_after: Seconds after which a sync receiver is named for blocking the loop.
        answer_deadline: Seconds that an agent's request for a permission or an answer stays open;
            then it is denied.
        allow_tools: Names of tools (patterns like ``mcp__docs__*``) that every agent may use when
            it asks for a permission.
        deny_tools: The same for tools that no agent may use; stronger than `allow_tools`.
        retained_logs: Ended tasks of one engine whose unnamed logs are kept whole; each of them
            costs a descriptor. Of older tasks the last 64 KiB are kept.
        disable_plugins: Names of plugins that are not loaded.
        plugins: Names of the only plugins that are loaded; ``None`` for all.
        plugin_order: Names of plugins that are asked first, in this order.
    """

    agent: str = "claude"
    when_busy: WhenBusy = field(default="reject", metadata=_USER_ONLY)
    max_running: int | None = field(default=None, metadata={**_USER_ONLY, "minimum": 1})
    state_dir: Path = field(default_factory=_state_dir, metadata=_USER_ONLY)
    output_dir: Path | None = field(default=None, metadata=_USER_ONLY)
    python: Path | None = field(default=None, metadata=_USER_ONLY)
    cgroup: str = field(default="auto", metadata=_USER_ONLY)
    prompt_loop: bool = field(default=True, metadata=_USER_ONLY)
    hook_deadline: float = field(default=10.0, metadata=_USER_ONLY)
    import_deadline: float = field(default=20.0, metadata=_USER_ONLY)
    journal_deadline: float = field(default=30.0, metadata=_USER_ONLY)
    receiver_deadline: float = field(default=5.0, metadata=_USER_ONLY)
    overrun_after: float = field(default=0.25, metadata=_USER_ONLY)
    answer_deadline: float = field(default=60.0, metadata={**_USER_ONLY, "minimum": 0})
    allow_tools: tuple[str, ...] = field(default=(), metadata=_USER_ONLY)
    deny_tools: tuple[str, ...] = field(default=(), metadata=_USER_ONLY)
    retained_logs: int = field(default=128, metadata={**_USER_ONLY, "minimum": 0})
    disable_plugins: tuple[str, ...] = field(default=(), metadata=_USER_ONLY)
    plugins: tuple[str, ...] | None = field(default=None, metadata=_USER_ONLY)
    plugin_order: tuple[str, ...] = field(default=(), metadata=_USER_ONLY)
    _tables: Mapping[type, Any] = field(default_factory=dict, repr=False, hash=False)
    _given: Mapping[type, Any] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        for name, item in _limited(Settings).items():
            try:
                _check_minimum(item, getattr(self, name))
            except ValueError as error:
                raise SettingsError("arguments", name, str(error)) from None

    def table(self, declared: type[T]) -> T:
        """Return a plugin's table; its defaults where nobody set anything.

        Args:
            declared: The dataclass that was given to ``ebt_register_settings``.
        """
        known = self._given.get(declared, self._tables.get(declared))
        return cast("T", declared() if known is None else known)

    def with_tables(self, *tables: object) -> Settings:
        """Return a copy in which a program decides whole tables of plugins, for every project.

        Args:
            tables: Objects of the dataclasses that plugins have declared.
        """
        return dataclasses.replace(self, _given={**self._given, **{type(t): t for t in tables}})

    def pinned(self, engine: Settings) -> Settings:
        """Return these settings with everything that a project cannot decide from `engine`'s."""
        kept = {
            name: getattr(engine, name)
            for name, item in _fields(Settings).items()
            if item.metadata.get("user_only")
        }
        return dataclasses.replace(self, _given=engine._given, **kept)

    @classmethod
    def load(
        cls,
        project_dir: Path | None = None,
        *,
        tables: Mapping[str, type] | None = None,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Settings:
        """Read every source.

        Args:
            project_dir: Whose own file is read too.
            tables: The tables that plugins have declared, by name.
            environ: Variables; the process's own when left out.
            overrides: Values of highest precedence (``{"agent": …, "disk": {…}}``).

        Raises:
            SettingsError: Names file and key, and says what to do.
        """
        declared: dict[str, type] = dict(tables or {})
        values: dict[str, dict[str, Any]] = {"": {}, **{name: {} for name in declared}}
        user_file = _user_file()
        if user_file is not None:
            _merge(values, declared, _read_toml(user_file), str(user_file), project=False)
        if project_dir is not None:
            own = project_dir / ".eventbus-tasks.toml"
            data = _read_toml(own)
            if not data:
                own = project_dir / "pyproject.toml"
                data = _read_toml(own, lenient=True).get("tool", {}).get("eventbus-tasks", {})
            _merge(values, declared, data, str(own), project=True)
        _merge_environ(values, declared, os.environ if environ is None else environ)
        _merge(values, declared, dict(overrides or {}), "arguments", project=False)
        made = {kind: kind(**values[name]) for name, kind in declared.items()}
        return cls(**values[""], _tables=MappingProxyType(made))


def _read_toml(path: Path, *, lenient: bool = False) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        if lenient:  # a broken pyproject.toml is the business of other tools
            logger.warning("%s could not be read: %s", path, error)
            return {}
        raise SettingsError(str(path), "", f"cannot be read: {error}") from error


@functools.cache
def _fields(kind: type) -> dict[str, dataclasses.Field[Any]]:
    return {item.name: item for item in dataclasses.fields(kind) if not item.name.startswith("_")}


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@functools.cache
def _limited(kind: type) -> dict[str, dataclasses.Field[Any]]:
    return {name: item for name, item in _fields(kind).items() if "minimum" in item.metadata}


@functools.cache
def _variables(table: str, kind: type) -> dict[str, str]:
    """Return the variables that set the fields of a table, and their fields."""
    return {
        _PREFIX + "_".join(part for part in (table, name) if part).upper(): name
        for name in _fields(kind)
    }


def _merge(
    values: dict[str, dict[str, Any]],
    declared: Mapping[str, type],
    data: Mapping[str, Any],
    source: str,
    *,
    project: bool,
) -> None:
    core = _fields(Settings)
    for key, value in data.items():
        if key in core and not (key in declared and isinstance(value, Mapping)):
            _set(values[""], Settings, key, value, source, key, project=project)
        elif key in declared:
            if not isinstance(value, Mapping):
                raise SettingsError(source, key, "must be a table")
            for name, item in value.items():
                if name not in _fields(declared[key]):
                    raise _unknown(source, f"{key}.{name}", name, _fields(declared[key]))
                dotted = f"{key}.{name}"
                _set(values[key], declared[key], name, item, source, dotted, project=project)
        elif isinstance(value, Mapping):
            # The table of a plugin that is not loaded here: not ours to judge.
            logger.debug("%s: no loaded plugin has declared the table %r", source, key)
        else:
            raise _unknown(source, key, key, [*core, *declared])


def _merge_environ(
    values: dict[str, dict[str, Any]], declared: Mapping[str, type], environ: Mapping[str, str]
) -> None:
    for table, kind in {"": Settings, **declared}.items():
        for variable, name in _variables(table, kind).items():
            if variable in environ:
                dotted = f"{table}.{name}" if table else name
                _set(values[table], kind, name, environ[variable], variable, dotted, project=False)


def _unknown(source: str, dotted: str, key: str, known: Any) -> SettingsError:
    close = difflib.get_close_matches(key, list(known), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
    return SettingsError(source, dotted, "is not a setting" + hint)


def _set(
    values: dict[str, Any],
    kind: type,
    name: str,
    value: Any,
    source: str,
    dotted: str,
    *,
    project: bool,
) -> None:
    item = _fields(kind)[name]
    if project and item.metadata.get("user_only"):
        logger.warning("%s: %s is honoured in your own settings only; ignored", source, dotted)
        return
    hints = _hints(kind)
    try:
        values[name] = _convert(value, hints[name])
        _check_minimum(item, values[name])
    except (TypeError, ValueError, RuntimeError) as error:  # there is no home for a ~
        raise SettingsError(source, dotted, str(error)) from error


def _check_minimum(item: dataclasses.Field[Any], value: Any) -> None:
    minimum = item.metadata.get("minimum")
    if minimum is not None and value is not None and value < minimum:
        raise ValueError(f"must be at least {minimum}, not {value!r}")


def _convert(value: Any, wanted: Any) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(wanted) if option is not type(None)]
        if value is None or (value == "" and options[0] is not str):
            return None
        return _convert(value, options[0])
    if origin is typing.Literal:
        allowed = typing.get_args(wanted)
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(map(repr, allowed))}, not {value!r}")
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            raise TypeError(f"must be a list, not {value!r}")
        inner = typing.get_args(wanted)[0]
        return tuple(_convert(_strip(part), inner) for part in parts if _strip(part) != "")
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError(f"must be a table, not {value!r}")
        return dict(value)
    return _convert_scalar(value, wanted)


def _strip(part: Any) -> Any:
    return part.strip() if isinstance(part, str) else part


def _convert_scalar(value: Any, wanted: Any) -> Any:
    if wanted is bool:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        if isinstance(value, bool):
            return value
        raise TypeError(f"must be true or false, not {value!r}")
    if wanted in (int, float) and not isinstance(value, bool):
        if isinstance(value, (int, float, str)):
            number = wanted(value)
            if wanted is int and isinstance(value, float) and number != value:
                raise ValueError(f"must be a whole number, not {value!r}")
            if number != number or number in (float("inf"), float("-inf")):
                raise ValueError(f"must be a finite number, not {value!r}")
            return number
        raise TypeError(f"must be a number, not {value!r}")
    if wanted is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    if wanted is Any or (wanted is str and isinstance(value, str)):
        return value
    raise TypeError(f"must be {getattr(wanted, '__name__', wanted)}, not {value!r}")

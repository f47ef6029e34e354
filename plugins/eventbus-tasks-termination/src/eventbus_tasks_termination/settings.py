"""The settings table ``[termination]``, and the policy that it makes for an agent."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from eventbus_tasks import SettingsError, TerminationPolicy
from eventbus_tasks_termination.ladders import AGENT_LADDERS, DEFAULT_GRACE, DEFAULT_LADDER
from eventbus_tasks_termination.parsing import parse_seconds, parse_size, parse_step

__all__ = ["TABLE", "TerminationSettings", "policy_for"]

TABLE: Final = "termination"

_USER_ONLY: Final = {"user_only": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationSettings:
    """How tasks are stopped and limited. What is left out stays as it is without this plugin.

    Values are checked when the settings are read, those for agents that never run included.

    Attributes:
        steps: The stop ladder, for agents without a ladder of their own: ``"TERM:tree:5"`` is a
            signal, whom it goes to (``leader``, ``group``, ``tree``) and the seconds until the
            next rung; scope and seconds may be left out. SIGKILL follows the last one. An
            empty list means SIGKILL at once.
        grace: Seconds of every rung that names none itself, also of built-in ladders.
        kill_wait: Seconds to wait for processes to disappear after SIGKILL.
        exit_grace: Seconds that leftovers of a normal exit get to end by themselves.
        timeout: Seconds that a task may run in all; 0 for no limit.
        idle_timeout: Seconds that a task may run without any output; 0 for no limit. Agents may
            be silent for minutes while their model's service fails: be generous.
        max_output: Bytes that a task may write, as a number or like ``"10MiB"``; 0 for no limit.
        keep: What happens then: ``"stop"`` ends the task, ``"tail"`` gives up old bytes.
        after_exit: ``"kill"`` ends leftovers of a normal exit, ``"leave"`` keeps and names them.
            Not honoured in a project's own file.
        on_host_death: ``"kill"`` ends the task with its host, ``"detach"`` lets it run on. Not
            honoured in a project's own file.
        agents: One table for each agent, with any of the keys above but the last two:
            ``[termination.agents.claude]``.

    Raises:
        SettingsError: A value cannot be used: names the key and says what to write.
    """

    steps: tuple[str, ...] | None = None
    grace: float | None = None
    kill_wait: float | None = None
    exit_grace: float | None = None
    timeout: float | None = None
    idle_timeout: float | None = None
    max_output: Any = None
    keep: Literal["stop", "tail"] | None = None
    after_exit: Literal["kill", "leave"] | None = field(default=None, metadata=_USER_ONLY)
    on_host_death: Literal["kill", "detach"] | None = field(default=None, metadata=_USER_ONLY)
    agents: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that no policy can be made of."""
        _read(_own_values(self), TABLE)
        for agent, table in self.agents.items():
            _read(table, f"{TABLE}.agents.{agent}")


def policy_for(settings: TerminationSettings, agent: str) -> TerminationPolicy | None:
    """Return the policy for an agent, or ``None`` if there is nothing to say about it.

    The agent's own table comes before the general settings, those before the built-in ladder.
    """
    general = _read(_own_values(settings), TABLE)
    own = _read(settings.agents.get(agent, {}), f"{TABLE}.agents.{agent}")
    ladder = AGENT_LADDERS.get(agent)
    if not general and not own and ladder is None:
        return None
    values = {**general, **own}
    grace = values.pop("grace", None)
    # General steps are for agents that nothing better is known about.
    texts = own.get("steps", ladder or general.get("steps", DEFAULT_LADDER))
    default = DEFAULT_GRACE if grace is None else grace
    built_in = texts is ladder
    values["steps"] = tuple(
        # A grace that somebody has set beats the seconds of a ladder that nobody has set.
        dataclasses.replace(step, grace=grace) if built_in and grace is not None else step
        for step in (parse_step(text, default) for text in texts)
    )
    for limit in ("timeout", "idle_timeout", "max_output"):
        if values.get(limit) == 0:
            values[limit] = None
    return TerminationPolicy(**values)


def _own_values(settings: TerminationSettings) -> dict[str, Any]:
    """Return what is set in the table itself, by key."""
    values = {
        item.name: getattr(settings, item.name)
        for item in dataclasses.fields(settings)
        if item.name != "agents"
    }
    return {name: value for name, value in values.items() if value is not None}


def _read(table: Any, place: str) -> dict[str, Any]:
    """Return the checked values of one table.

    Raises:
        SettingsError: Names the key.
    """
    if not isinstance(table, Mapping):
        raise SettingsError("settings", place, f"must be a table, not {table!r}")
    known = _KEYS if place == TABLE else {key: _KEYS[key] for key in _KEYS if key not in _GENERAL}
    values: dict[str, Any] = {}
    for key, value in table.items():
        dotted = f"{place}.{key}"
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            if key in _GENERAL:
                hint = f"it applies to all agents: set {TABLE}.{key}"
            raise SettingsError("settings", dotted, f"is not a setting here; {hint}")
        try:
            values[key] = known[key](value)
        except ValueError as error:
            raise SettingsError("settings", dotted, str(error)) from error
    return values


def _steps(value: Any) -> tuple[str, ...]:
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        raise ValueError(f"must be a list like ['INT:leader:5', 'TERM'], not {value!r}")
    for text in texts:
        parse_step(text, DEFAULT_GRACE)
    return tuple(texts)


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be {' or '.join(map(repr, words))}, not {value!r}")
        return str(value)

    return check


_GENERAL: Final = ("after_exit", "on_host_death")

_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "steps": _steps,
        "grace": parse_seconds,
        "kill_wait": parse_seconds,
        "exit_grace": parse_seconds,
        "timeout": parse_seconds,
        "idle_timeout": parse_seconds,
        "max_output": parse_size,
        "keep": _one_of("stop", "tail"),
        "after_exit": _one_of("kill", "leave"),
        "on_host_death": _one_of("kill", "detach"),
    }
)

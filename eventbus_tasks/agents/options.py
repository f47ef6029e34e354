"""The options of one request for an agent, read without trusting anything."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Self, get_type_hints

from eventbus_tasks.errors import InvalidRequestError

__all__ = ["AgentOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """Base of the options of one request: a dataclass of what an agent's plugin understands.

    Derive a frozen, keyword-only dataclass whose fields have defaults and are of the types
    ``str | None``, ``int | None``, ``bool`` or ``tuple[str, ...]``, and read those of a request
    with `of`::

        @dataclass(frozen=True, slots=True, kw_only=True)
        class ShoutOptions(AgentOptions):
            agent = "shout"
            model: str | None = None

    Class attributes:
        agent: The agent, for messages.
        reserved: Flags that the plugin itself gives, so ``args`` must not have them.
    """

    agent: ClassVar[str] = "the agent"
    reserved: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, options: Mapping[str, Any], settings: object | None = None) -> Self:
        """Check the options of a request, on top of settings.

        Args:
            options: ``task.request.options``; ``None`` as a value is the same as leaving it out.
            settings: An object with attributes of the same names, which are the defaults.

        Raises:
            InvalidRequestError: An option is unknown, or its value cannot be used: says which
                and why.
        """
        hints = get_type_hints(cls)
        known = [item.name for item in fields(cls)]
        values = {name: getattr(settings, name) for name in known if hasattr(settings, name)}
        for name, value in options.items():
            field = f"options.{name}"
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                listed = ", ".join(sorted(known))
                problem = f"is not an option of {cls.agent}; {hint}known: {listed}"
                raise InvalidRequestError(field, problem)
            if value is not None:
                values[name] = _read(field, hints[name], value)
        for word in values.get("args", ()):
            if _flag(word) in cls.reserved:
                raise InvalidRequestError("options.args", f"{word!r} is decided by the plugin")
        return cls(**values)


def _flag(argument: str) -> str:
    return argument.split("=", 1)[0]


def _read(field: str, wanted: Any, value: Any) -> Any:
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):
        (wanted,) = (part for part in typing.get_args(wanted) if part is not types.NoneType)
    return _READERS[wanted](field, value)


def _word(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(field, f"must be a string that is not empty, not {value!r}")
    return value


def _words(field: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray)):
        raise InvalidRequestError(field, f"must be a list of strings, not {value!r}")
    return tuple(_word(f"{field}[{position}]", word) for position, word in enumerate(value))


def _number(field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequestError(field, f"must be a number >= 1, not {value!r}")
    return value


def _switch(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequestError(field, f"must be true or false, not {value!r}")
    return value


_READERS: Final[Mapping[Any, Any]] = {
    str: _word,
    int: _number,
    bool: _switch,
    tuple[str, ...]: _words,
}

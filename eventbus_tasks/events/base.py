"""What every event has, and the registry of wire names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar

from eventbus_tasks._encoding import encode
from eventbus_tasks.policies import Stream
from eventbus_tasks.request import NO_TASK, TaskRef

__all__ = ["EVENT_TYPES", "OutputSource", "TaskEvent", "event_from_dict", "register_event"]

UNSTAMPED: Final = datetime(1970, 1, 1, tzinfo=UTC)


class OutputSource(Protocol):
    """Where an event's bytes can be read on demand."""

    def read(self, start: int, end: int, stream: Stream = "stdout") -> bytes:
        """Return the bytes from offset `start` to offset `end` of a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Something that happened to a task.

    Attributes:
        task: Whose event it is.
        seq: Its number in the task's journal, gapless from 1. Events that are not journaled
            carry the number of the event they derive from.
        at: When it happened, in UTC.
    """

    name: ClassVar[str] = ""
    journaled: ClassVar[bool] = True
    _decoders: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    task: TaskRef = NO_TASK
    seq: int = 0
    at: datetime = UNSTAMPED

    def stamp(self, task: TaskRef, seq: int, at: datetime) -> Self:
        """Return a copy that belongs to a task, with its number and time."""
        return dataclasses.replace(self, task=task, seq=seq, at=at)

    def _stamp_here(self, task: TaskRef, seq: int, at: datetime) -> None:
        """Do what `stamp` does to an event that nobody else has seen yet, without a copy."""
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "seq", seq)
        object.__setattr__(self, "at", at)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; ``"event"`` holds the wire name."""
        data: dict[str, Any] = {"event": self.name}
        for name in _wire_names(type(self)):
            data[name] = encode(getattr(self, name))
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild an event of this class from `to_dict`; unknown keys are ignored."""
        values: dict[str, Any] = {}
        for name in _wire_names(cls):
            if name in data:
                decode = _COMMON_DECODERS.get(name) or cls._decoders.get(name)
                values[name] = data[name] if decode is None else decode(data[name])
        return cls(**values)


_known_wire_names: Final[dict[type, tuple[str, ...]]] = {}


def _wire_names(cls: type[TaskEvent]) -> tuple[str, ...]:
    """Return the attributes that are serialised."""
    names = _known_wire_names.get(cls)
    if names is None:
        items = dataclasses.fields(cls)
        names = tuple(item.name for item in items if item.metadata.get("wire", True))
        _known_wire_names[cls] = names
    return names


_COMMON_DECODERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "task": lambda data: TaskRef(**data),
    "at": datetime.fromisoformat,
}

EVENT_TYPES: Final[dict[str, type[TaskEvent]]] = {}
"""Every registered event class by its wire name."""

_E = TypeVar("_E", bound=type[TaskEvent])


def register_event(cls: _E) -> _E:
    """Make an event class known under its wire name (also a class decorator).

    Raises:
        TypeError: It is not a frozen dataclass derived from `TaskEvent`.
        ValueError: The wire name is missing or already belongs to another class.
    """
    params = getattr(cls, "__dataclass_params__", None)
    if not (isinstance(cls, type) and issubclass(cls, TaskEvent) and params and params.frozen):
        raise TypeError(f"{cls!r} must be a frozen dataclass derived from TaskEvent")
    if not cls.name or cls.name == getattr(cls.__base__, "name", None):
        raise ValueError(f"{cls.__name__} needs a wire name of its own (name: ClassVar[str])")
    known = EVENT_TYPES.setdefault(cls.name, cls)
    if known is not cls and known.__qualname__ != cls.__qualname__:
        raise ValueError(f"the wire name {cls.name!r} already belongs to {known.__name__}")
    EVENT_TYPES[cls.name] = cls
    return cls


def event_from_dict(data: Mapping[str, Any]) -> TaskEvent:
    """Rebuild an event from `TaskEvent.to_dict`.

    Raises:
        KeyError: The wire name is unknown: the plugin that defines it is not loaded.
    """
    return EVENT_TYPES[data["event"]].from_dict(data)

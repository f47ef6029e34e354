"""What the public face promises: names, documentation, errors and events that travel."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import json
import pickle
import subprocess
import sys
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

import eventbus_tasks
from eventbus_tasks import errors, events

ERRORS: Final = [
    item
    for item in vars(errors).values()
    if inspect.isclass(item) and issubclass(item, errors.EventbusTasksError)
]
EVENTS: Final = sorted(
    (cls for cls in events.EVENT_TYPES.values() if cls.__module__.startswith("eventbus_tasks.")),
    key=lambda cls: cls.name,
)

SAMPLES: Final[dict[object, object]] = {
    bool: True,
    int: 7,
    float: 1.5,
    str: "naïve \u2028 \x1b[0m text",
    bytes: b"\x00\xff",
    Path: Path("/some/where"),
    datetime: datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    Any: {"key": ["value", 1, None]},
    types.NoneType: None,
}


def sample(annotation: Any) -> Any:
    """Return a value that fits an annotation."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, typing.TypeVar):
        return sample(annotation.__bound__ or str)
    if annotation in SAMPLES:
        return SAMPLES[annotation]
    if origin is typing.Literal:
        return args[-1]
    if origin in (typing.Union, types.UnionType):
        return sample(args[0])
    if origin is tuple:
        return tuple(sample(item) for item in args if item is not Ellipsis)
    if origin is list:
        return [sample(args[0])]
    if origin is not None and issubclass(origin, Mapping):
        return {sample(args[0]): sample(args[1])}
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return list(annotation)[-1]
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return build(annotation, only_required=True)
    raise NotImplementedError(f"teach sample() a value for {annotation!r}")


def build(cls: type[Any], *, only_required: bool) -> Any:
    """Return an instance of a dataclass with a value in each field that travels."""
    hints = typing.get_type_hints(cls)
    values = {}
    for item in dataclasses.fields(cls):
        has_default = (item.default, item.default_factory) != (dataclasses.MISSING,) * 2
        if item.init and item.metadata.get("wire", True) and not (only_required and has_default):
            values[item.name] = sample(hints[item.name])
    return cls(**values)


def is_ours(name: str, value: object) -> bool:
    """Whether a name in the face is meant for users: no module, no private name."""
    return not (name.startswith("_") or inspect.ismodule(value) or name == "annotations")


def test_all_is_sorted() -> None:
    """`__all__` is in ruff's order: constants, classes, functions, each by name; no name twice."""

    def key(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert list(eventbus_tasks.__all__) == sorted(set(eventbus_tasks.__all__), key=key)


def test_all_is_complete() -> None:
    """The face lists every public name that it has, and has every name that it lists."""
    public = {name for name, value in vars(eventbus_tasks).items() if is_ours(name, value)}
    listed = {name for name in eventbus_tasks.__all__ if not name.startswith("_")}
    assert public <= listed, f"not in __all__: {sorted(public - listed)}"
    missing = [name for name in eventbus_tasks.__all__ if not hasattr(eventbus_tasks, name)]
    assert not missing


def test_lazy_names_are_those_that_type_checkers_see() -> None:
    """What is imported on demand comes from where type checkers look for it."""
    tree = ast.parse(Path(eventbus_tasks.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: (node.module or "").removeprefix("eventbus_tasks.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == eventbus_tasks._HOMES
    assert set(seen) == {name for name in eventbus_tasks.__all__ if not name.startswith("_")}


def test_unknown_name() -> None:
    """A name that the face does not have is an `AttributeError`, as in every module."""
    with pytest.raises(AttributeError, match="no attribute 'TaskEngin'"):
        _ = eventbus_tasks.TaskEngin


@pytest.mark.parametrize("name", ["anyio", "asyncio", "pluggy", "blinker"])
def test_import_is_cheap(name: str) -> None:
    """Importing the face imports no event loop and no plugin system."""
    code = f"import sys, eventbus_tasks; sys.exit({name!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_face_has_every_error_and_event() -> None:
    """Whatever can be raised at or told to a user can be imported from the face."""
    needed = {cls.__name__ for cls in (*ERRORS, *EVENTS)}
    assert needed <= set(eventbus_tasks.__all__), sorted(needed - set(eventbus_tasks.__all__))


@pytest.mark.parametrize("name", eventbus_tasks.__all__)
def test_name_is_documented(name: str) -> None:
    """Every public class and function says what it is."""
    value = getattr(eventbus_tasks, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        text = value.__doc__ or ""
        # A dataclass without a docstring gets its signature as one.
        assert text.strip(), f"{name} has no docstring"
        assert not text.startswith(f"{name}("), f"{name} has no docstring"


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_error_survives_pickling(cls: type[errors.EventbusTasksError]) -> None:
    """An error that comes back from another process has its class, text and fields."""
    hints = typing.get_type_hints(cls.__init__)
    arguments = [sample(hint) for name, hint in hints.items() if name != "return"]
    error = cls(*(arguments or ["text"]))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_error_stands_in_the_tree(cls: type[errors.EventbusTasksError]) -> None:
    """The tree at the top of `errors` names every error, and every error says what it means."""
    assert cls.__name__ in (errors.__doc__ or "")
    assert cls.__doc__


@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.__name__)
def test_event_is_documented(cls: type[events.TaskEvent]) -> None:
    """Every event says when it happens, and describes each field of its own."""
    text = cls.__doc__ or ""
    assert text.strip()
    assert not text.startswith(f"{cls.__name__}(")
    inherited = {item.name for base in cls.__mro__[1:-1] for item in dataclasses.fields(base)}
    own = {item.name for item in dataclasses.fields(cls) if item.metadata.get("wire", True)}
    missing = [name for name in own - inherited if f"{name}: " not in text]
    assert not missing, f"{cls.__name__} does not describe {missing}"


@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.__name__)
def test_event_has_its_own_wire_name(cls: type[events.TaskEvent]) -> None:
    """A wire name is dotted, belongs to one class, and leads back to it."""
    assert [other for other in EVENTS if other.name == cls.name] == [cls]
    assert events.EVENT_TYPES[cls.name] is cls
    assert "." in cls.name


def test_every_event_is_registered() -> None:
    """Each event class is in the registry, but for the bases that are only inherited from."""
    classes = {
        item
        for item in vars(events).values()
        if inspect.isclass(item) and issubclass(item, events.TaskEvent)
    }
    bases = {base for cls in classes for base in cls.__mro__[1:]}
    assert classes - bases == set(EVENTS)


@pytest.mark.parametrize("only_required", [False, True])
@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.__name__)
def test_event_round_trips(cls: type[events.TaskEvent], only_required: bool) -> None:
    """An event becomes JSON and the same event again, with all fields set or only those needed."""
    event = build(cls, only_required=only_required)
    data = json.loads(json.dumps(event.to_dict()))
    assert data["event"] == cls.name
    again = events.event_from_dict(data)
    assert type(again) is cls
    assert again == event


@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.__name__)
def test_event_is_frozen(cls: type[events.TaskEvent]) -> None:
    """A receiver cannot change what the next receiver sees."""
    event = build(cls, only_required=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, "seq", 99)  # noqa: B010 - an assignment would not pass mypy

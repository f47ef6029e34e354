"""Frozen events that are made by the thousand, quickly."""

from __future__ import annotations

from typing import Any

from eventbus_tasks.events import TaskEvent

__all__ = ["draft_of"]


def draft_of(event_type: type[TaskEvent]) -> Any:
    """Return a class whose objects can be filled plainly, and then become events of that type.

    The initializer of a frozen dataclass pays for each attribute that it has to force in; a task
    may write a million lines a second. A class with the same slots can be filled plainly and
    then become the other one (``draft.__class__ = event_type``): 0.15 us for a line instead of
    1.05 us. Every attribute has to be set, those with defaults too.
    """
    body = {
        "__slots__": event_type.__slots__,
        # Both, or the interpreter takes the slow way to either of them.
        "__setattr__": object.__setattr__,
        "__delattr__": object.__delattr__,
    }
    return type(f"{event_type.__name__}Draft", (TaskEvent,), body)

"""Values of events as plain JSON data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = ["encode"]


def encode(value: Any) -> Any:
    """Return a value as plain JSON data.

    Raises:
        TypeError: It cannot be part of an event.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if hasattr(value, "to_dict"):
        return value.to_dict()
    raise TypeError(f"{value!r} cannot be part of an event")

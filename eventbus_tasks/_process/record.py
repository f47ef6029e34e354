"""The end record: what is known about a task after everybody who could tell has died."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Final

from eventbus_tasks._process import wire

__all__ = ["VERSION", "write_end_record"]

VERSION: Final = 1


def write_end_record(
    descriptor: int,
    logs: Sequence[int],
    message: wire.Ended | wire.SpawnFailed,
    started_at: float,
) -> str | None:
    """Write the record, make it and the logs durable, and return what went wrong, if anything.

    The record is one JSON object: ``version``, ``started_at``, ``ended_at`` and the fields of
    the message. The logs become durable first: a record must not promise bytes that a power
    cut may still take.
    """
    data: dict[str, Any] = json.loads(wire.encode(message))
    data.update(version=VERSION, started_at=started_at, ended_at=data.pop("at"))
    data.pop("record_error", None)
    try:
        for log in logs:
            os.fsync(log)
        content = json.dumps(data, separators=(",", ":")).encode() + b"\n"
        os.ftruncate(descriptor, 0)
        written = 0
        while written < len(content):
            written += os.pwrite(descriptor, content[written:], written)
        os.fsync(descriptor)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return None

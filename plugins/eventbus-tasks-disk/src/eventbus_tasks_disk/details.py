"""Everything that the journal of one task says."""

from __future__ import annotations

import os
from typing import Any

from eventbus_tasks_disk.history import ENDS, Entry
from eventbus_tasks_disk.records import records_forwards
from eventbus_tasks_disk.storage import ARRIVALS, END_RECORD, JOURNAL, LOGS, MARKDOWN

__all__ = ["details_of"]


def details_of(entry: Entry) -> dict[str, Any]:
    """Read a journal from its beginning to its end; never raises for what is in it.

    Returns:
        ``request``, ``argv``, ``pid``, ``outcome``, ``stops``, ``signals``, ``events`` (how many
        there are), ``problems`` (what is damaged or missing, readable) and ``files`` (paths).
    """
    details: dict[str, Any] = {
        "request": None,
        "argv": None,
        "pid": None,
        "outcome": None,
        "stops": [],
        "signals": [],
        "events": 0,
        "problems": [],
        "files": _files_of(entry),
    }
    problems: list[str] = details["problems"]
    try:
        journal = entry.open(JOURNAL)
    except OSError as error:
        problems.append(f"the journal cannot be opened: {error.strerror}")
        return details
    try:
        _read(journal, details)
    except OSError as error:
        problems.append(f"the journal cannot be read: {error.strerror}")
    finally:
        os.close(journal)
    return details


def _read(journal: int, details: dict[str, Any]) -> None:
    problems: list[str] = details["problems"]
    expected = 1
    damaged = 0
    for record in records_forwards(journal):
        if record is None:
            damaged += 1
            continue
        seq = record.get("seq")
        if not isinstance(seq, int):
            damaged += 1
            continue
        if seq > expected:
            problems.append(f"events {expected} to {seq - 1} are missing")
        expected = seq + 1
        details["events"] += 1
        match record.get("event"):
            case "task.accepted" if isinstance(record.get("request"), dict):
                details["request"] = record["request"]
                details["argv"] = record["request"].get("argv") or None
            case "task.started":
                details["pid"] = record.get("pid")
                details["argv"] = record.get("argv") or details["argv"]
            case "task.stopping":
                details["stops"].append({"reason": record.get("reason"), "at": record.get("at")})
            case "task.signal_sent":
                details["signals"].append({"signal": record.get("signal"), "at": record.get("at")})
            case str() as name if name in ENDS and isinstance(record.get("outcome"), dict):
                details["outcome"] = record["outcome"]
    if damaged:
        problems.append(f"{damaged} damaged lines in the journal")


def _files_of(entry: Entry) -> dict[str, str]:
    suffixes = {
        "markdown": MARKDOWN,
        "stdout": LOGS["stdout"],
        "stderr": LOGS["stderr"],
        "events": JOURNAL,
        "arrivals": ARRIVALS,
        "end_record": END_RECORD,
    }
    paths = {name: entry.path_of(suffix) for name, suffix in suffixes.items()}
    return {name: path for name, path in paths.items() if os.path.lexists(path)}

"""Which agent session is worked in by which task: between all hosts of a user.

An agent that goes on with a session in two processes at once mixes the histories of both. A session
is claimed by a small file that names the task. The claim holds for as long as the task's guardian
lives; before it has one that can be found, for as long as its host lives and has not given it up.
What the dead have left is nobody's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.lock import private_directory, read_holder, write_holder
from eventbus_tasks._process.visit import has_guardian

__all__ = ["claim_session", "release_session"]

_SUFFIX: Final = ".json"

_OLD: Final = 86400.0
"""Seconds after which a claim is looked at again, in case that nobody is behind it any more."""


def claim_session(
    state_dir: Path, agent: str, session_id: str, holder: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Claim a session for a task; to repeat it does no harm.

    Args:
        state_dir: The state directory of the user.
        agent: Whose session it is.
        session_id: The agent's name for it.
        holder: What others shall be told about the task: its ``uid``; as long as it has no guardian
            that can be found, ``host``: number and start time of its host; anything for people.

    Returns:
        ``None`` if it is ours now, else what the task says about itself that works in it.

    Raises:
        OSError: Nothing can be claimed.
    """
    with _locked(state_dir) as directory:
        _tidy(state_dir, directory)
        path = directory / _name(agent, session_id)
        found = read_holder(path)
        if found is not None and found.get("uid") != holder["uid"] and _lives(state_dir, found):
            return found
        write_holder(path, {**holder, "session": session_id})
    return None


def release_session(state_dir: Path, agent: str, session_id: str, uid: str) -> None:
    """Give a session up. Does nothing if another task has claimed it meanwhile.

    Raises:
        OSError: It cannot be given up; it is free all the same when the host has ended.
    """
    with _locked(state_dir) as directory:
        path = directory / _name(agent, session_id)
        found = read_holder(path)
        if found is not None and found.get("uid") == uid:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[Path]:
    """Hold the lock of all claims for a moment; yield their directory."""
    directory = state_dir / "sessions"
    private_directory(directory)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(directory / "lock", flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(descriptor)


def _name(agent: str, session_id: str) -> str:
    # The name of a session comes from its agent, and may have any form.
    key = f"{agent}\0{session_id}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(key).hexdigest()[:32] + _SUFFIX


def _lives(state_dir: Path, holder: Mapping[str, Any]) -> bool:
    host = holder.get("host")
    if isinstance(host, list) and len(host) == 2 and isinstance(host[0], int) and host[0] > 0:
        process = read_process(host[0])
        if process is not None and process.start_time == host[1]:
            return True
    return has_guardian(state_dir, str(holder.get("uid", "")))


def _tidy(state_dir: Path, directory: Path) -> None:
    """Remove old claims of those who have died."""
    for path in directory.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _OLD:
                continue
            found = read_holder(path)
            if found is None or not _lives(state_dir, found):
                path.unlink()

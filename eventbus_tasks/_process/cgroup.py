"""A control group (v2) for each task, where one may be made: the kernel's own list of a family.

Nobody leaves it by forking, by a session of its own or by wiping the environment, and
``cgroup.kill`` ends all of it at once, whoever forks meanwhile. It comes on top of the walk down
the tree, never instead of it: programs that may, move to other groups.

Everything here works in the file system of the kernel, which no disk can stall.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = [
    "AUTO",
    "OFF",
    "CgroupError",
    "TaskCgroup",
    "find_base",
    "kill_groups",
    "remove_groups",
    "task_cgroups",
]

AUTO: Final = "auto"
OFF: Final = "off"

_PREFIX: Final = "ebt-"
_DELEGATED: Final = ("user.delegate", "trusted.delegate")
"""What systemd writes on the groups that it leaves to others."""

_TRIES: Final = 50
_PAUSE: Final = 0.001
"""Seconds between tries to remove a group: what was reaped is gone from it in far less."""


class CgroupError(Exception):
    """Tasks get no group of their own; says why, for a person."""


def find_base(wanted: str) -> str:
    """Return the group below which tasks get groups of their own.

    Args:
        wanted: A directory; ``"auto"`` for the group of this process if it was delegated; or
            ``"off"``.

    Raises:
        CgroupError: There is none.
    """
    if wanted == OFF:
        raise CgroupError("it is switched off (setting cgroup)")
    top, root = _mount()
    if wanted != AUTO:
        base = os.path.realpath(wanted)
        if os.path.commonpath((base, top)) != top:
            raise CgroupError(f"{base} is not below {top}, where cgroup v2 is mounted")
    else:
        base = os.path.normpath(os.path.join(top, os.path.relpath(_own_path(), root)))
        if not _is_delegated(base, top):
            raise CgroupError(f"the group of this program, {base}, was not delegated to it")
    if not os.path.exists(f"{base}/cgroup.procs"):
        raise CgroupError(f"{base} is not a group")
    for path in (base, f"{base}/cgroup.procs"):
        if not os.access(path, os.W_OK):
            raise CgroupError(f"{path} may not be written to")
    return base


def _mount() -> tuple[str, str]:
    """Return where version 2 is mounted, and which of its groups is on top there."""
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 "):
                fields = before.split()
                return fields[4], fields[3]
    raise CgroupError("cgroup v2 is not mounted")


def _own_path() -> str:
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            if line.startswith("0::"):
                return line[3:].rstrip("\n")
    raise CgroupError("this program is in no group of cgroup v2")


def _is_delegated(base: str, top: str) -> bool:
    """Whether somebody has said that whoever runs there may make groups.

    Being allowed to is not enough: root is, everywhere, and would disturb the service manager.
    """
    path = base
    while True:
        for name in _DELEGATED:
            with contextlib.suppress(OSError):
                if os.getxattr(path, name) == b"1":
                    return True
        if path in (top, "/"):
            break
        path = os.path.dirname(path)
    with contextlib.suppress(OSError):  # managers that write no such mark give it away
        return os.stat(base).st_uid == os.geteuid() != 0
    return False


@dataclass(frozen=True, slots=True)
class TaskCgroup:
    """The group of one task.

    Attributes:
        path: Its directory.
        fd: A descriptor of it, to start the leader in.
    """

    path: str
    fd: int = -1

    @classmethod
    def of(cls, base: str, uid: str) -> TaskCgroup:
        """Return the group of a task that somebody else has made, or has not."""
        return cls(f"{base}/{_PREFIX}{uid}")

    @classmethod
    def make(cls, base: str, uid: str) -> TaskCgroup:
        """Make the group of a task.

        Raises:
            OSError: It cannot be made, or the kernel cannot kill it as a whole (before 5.14).
        """
        path = cls.of(base, uid).path
        os.mkdir(path)
        try:
            os.stat(f"{path}/cgroup.kill")
            return cls(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:
            os.rmdir(path)
            raise

    def kill(self) -> None:
        """Have the kernel kill everything in it, and in groups below it."""
        # Where it cannot be done, the walk down the tree goes on regardless.
        with contextlib.suppress(OSError), open(f"{self.path}/cgroup.kill", "wb") as file:
            file.write(b"1")

    def remove(self) -> None:
        """Take it away, once its last process is gone; what does not go is left to be found."""
        if self.fd >= 0:
            os.close(self.fd)
        for _ in range(_TRIES):
            if _remove(self.path):
                return
            time.sleep(_PAUSE)


def _remove(path: str) -> bool:
    """Remove a group and those below it, if nobody is in them; return whether it has gone."""
    for folder, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def task_cgroups() -> Iterator[tuple[str, TaskCgroup, list[int]]]:
    """Yield the groups of tasks on this machine: unique id, group, and who is in it."""
    try:
        top, _ = _mount()
    except CgroupError:
        return
    for folder, _, _ in os.walk(top):
        uid = os.path.basename(folder)
        if uid.startswith(_PREFIX):
            members: list[int] = []
            with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs", "rb") as file:
                members = [int(line) for line in file]
            yield uid.removeprefix(_PREFIX), TaskCgroup(folder), members


def kill_groups(uids: Collection[str]) -> None:
    """Kill whoever is in the groups of some tasks."""
    for uid, group, _ in task_cgroups():
        if uid in uids:
            group.kill()


def remove_groups(uids: Collection[str]) -> None:
    """Take the groups of some tasks away, if nobody is in them."""
    for uid, group, members in tuple(task_cgroups()):
        if uid in uids and not members:
            group.remove()

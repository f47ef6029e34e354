"""Parts of the machine that only root can lend: control groups."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PidsGroup", "group_of_pids", "make_group"]


@contextlib.contextmanager
def make_group(controller: str) -> Iterator[Path]:
    """Make a group of a version 1 controller with this process in it; remove it afterwards."""
    root = Path("/sys/fs/cgroup") / controller
    group = root / f"ebt-faults-{os.getpid()}"
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield group
    finally:
        (root / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):
            for pid in (group / "cgroup.procs").read_text().split():
                (root / "cgroup.procs").write_text(pid)
        group.rmdir()


class PidsGroup:
    """A group whose processes are counted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def freeze_count(self) -> None:
        """Let nobody fork any more."""
        count = (self._path / "pids.current").read_text()
        (self._path / "pids.max").write_text(count)

    def thaw_count(self) -> None:
        """Let everybody fork again."""
        (self._path / "pids.max").write_text("max")


@contextlib.contextmanager
def group_of_pids() -> Iterator[PidsGroup]:
    """Move this process into a group that counts processes."""
    with make_group("pids") as path:
        yield PidsGroup(path)

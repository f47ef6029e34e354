"""Keeps a task's bytes in an unnamed file, which vanishes with the task."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus_tasks.hookspecs import hookimpl
from eventbus_tasks.policies import LogFiles

if TYPE_CHECKING:
    from eventbus_tasks.task import Task


class UnnamedLog:
    """Opens files without a name in a directory on disk (not in memory: logs can be large)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, *, separate_stderr: bool) -> LogFiles:
        """Open one file, or two.

        Raises:
            OSError: The directory cannot be used.
        """
        try:
            stdout = open_unnamed(self._directory)
        except FileNotFoundError:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            stdout = open_unnamed(self._directory)
        try:
            stderr = open_unnamed(self._directory) if separate_stderr else None
        except OSError:
            os.close(stdout)
            raise
        return LogFiles(stdout=stdout, stderr=stderr)


def open_unnamed(directory: Path) -> int:
    """Return a descriptor of a new unnamed file, for reading and writing.

    Raises:
        OSError: The directory cannot be written to.
    """
    with contextlib.suppress(OSError):  # not every file system has O_TMPFILE
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    descriptor, name = tempfile.mkstemp(prefix="log-", dir=directory)
    os.unlink(name)
    return descriptor


@hookimpl(trylast=True)
def ebt_output_log(task: Task) -> UnnamedLog:
    """Answer for every task whose bytes no plugin keeps."""
    settings = task.settings
    return UnnamedLog(settings.output_dir or settings.state_dir / "unnamed")

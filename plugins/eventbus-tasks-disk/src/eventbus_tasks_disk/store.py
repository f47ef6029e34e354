"""Opens the named files that the output of a task goes to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from eventbus_tasks.policies import LogFiles
from eventbus_tasks_disk.journal import folder_of
from eventbus_tasks_disk.settings import DiskSettings
from eventbus_tasks_disk.storage import ARRIVALS, END_RECORD, LOGS, TaskFolder
from eventbus_tasks_disk.unfinished import take_lock

if TYPE_CHECKING:
    from eventbus_tasks import Task

__all__ = ["DiskStore"]


class DiskStore:
    """Where the output of one task is kept.

    Args:
        task: Whose output it is.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def open(self, *, separate_stderr: bool) -> LogFiles:
        """Make the files, beside the journal of the task if it has one.

        Raises:
            OSError: They cannot be made; none of them is left then.
        """
        made: dict[str, int] = {}
        folder = self._folder(made)
        try:
            if LOGS["stdout"] not in made:
                made[LOGS["stdout"]] = folder.create(LOGS["stdout"])
            if separate_stderr:
                made[LOGS["stderr"]] = folder.create(LOGS["stderr"])
            made[ARRIVALS] = folder.create(ARRIVALS)
            made[END_RECORD] = folder.create(END_RECORD)
            # The lock goes with the descriptor to the guardian: as long as it is taken, somebody
            # is at work on the task.
            take_lock(made[END_RECORD])
        except OSError:
            for suffix, descriptor in made.items():
                os.close(descriptor)
                folder.remove(suffix)
            raise
        finally:
            folder.close()
        return LogFiles(
            stdout=made[LOGS["stdout"]],
            stderr=made.get(LOGS["stderr"]),
            end_record=made[END_RECORD],
            arrivals=made[ARRIVALS],
            stdout_path=folder.path_of(LOGS["stdout"]),
            stderr_path=folder.path_of(LOGS["stderr"]) if separate_stderr else None,
        )

    def _folder(self, made: dict[str, int]) -> TaskFolder:
        known = folder_of(self._task)
        if known is not None:
            return known.duplicate()
        # The journal is somebody else's, or could not be opened: the log shall be kept anyway.
        task = self._task
        folder, descriptor = TaskFolder.reserve(
            task.project_dir,
            task.settings.table(DiskSettings).directory,
            task.id,
            task.uid,
            LOGS["stdout"],
            os.O_RDWR,
        )
        made[LOGS["stdout"]] = descriptor
        return folder

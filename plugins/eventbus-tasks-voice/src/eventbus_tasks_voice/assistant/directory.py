"""The tasks and projects of an engine, as people speak of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from eventbus_tasks import Task, TaskEngine, TaskRef
from eventbus_tasks_voice.assistant.answers import error, question
from eventbus_tasks_voice.assistant.phrases import clean_name, listing, short_name
from eventbus_tasks_voice.assistant.reports import age
from eventbus_tasks_voice.assistant.resolution import (
    KnownTask,
    labels,
    resolve_project,
    resolve_task,
    words_of,
)
from eventbus_tasks_voice.assistant.schemas import Answer

__all__ = ["Directory"]

_LISTED: Final = 20
_SPOKEN_OF: Final = 200


class Directory:
    """Names for tasks and projects, and what they may refer to.

    Args:
        engine: Whose tasks.
        projects: Directories by their spoken names.

    Attributes:
        projects: The same.
        names: Spoken names that were given later, by the uid of the task.
        mentioned: The uid of the task that was spoken of last.

    Raises:
        ValueError: There is no project, or two have the same spoken name.
    """

    def __init__(self, engine: TaskEngine, projects: Mapping[str, str | os.PathLike[str]]) -> None:
        if not projects:
            raise ValueError("projects: name at least one directory in which tasks may be started")
        spoken = [words_of(name) for name in projects]
        if not all(spoken) or len(set(spoken)) < len(spoken):
            raise ValueError("projects: each needs a spoken name of its own")
        self._engine = engine
        self.projects: dict[str, Path] = {name: Path(path) for name, path in projects.items()}
        self._by_path = {os.path.realpath(path): name for name, path in projects.items()}
        self._by_directory: dict[str, str] = {}  # so that a disk is asked once, not each time
        self.names: dict[str, str] = {}
        self.mentioned: str | None = None

    # -- names --------------------------------------------------------------------------------

    def name_of(self, task: Task | TaskRef) -> str:
        """Return the name by which a task is called now."""
        return self.names.get(task.uid) or clean_name(task.name) or f"task {task.id}"

    def called(self, task: Task | TaskRef) -> str:
        """Return that name as it is spoken."""
        return short_name(self.name_of(task))

    def known(self, tasks: Sequence[Task]) -> list[KnownTask]:
        """Return tasks as people speak of them."""
        return [
            KnownTask(
                uid=task.uid,
                number=task.id,
                name=self.name_of(task),
                original=clean_name(task.name),
                project=self._project_of(task),
                status=task.status,
            )
            for task in tasks
        ]

    def labels(self, tasks: Sequence[Task]) -> list[str]:
        """Return a spoken name for each task that tells it from the others."""
        return labels(self.known(tasks), short_name)

    def facts(self, task: Task) -> dict[str, Any]:
        """Return what a model needs to know of a task, as JSON data."""
        return {
            "task": task.id,
            "name": self.name_of(task),
            "project": self._project_of(task),
            "agent": task.agent,
            "status": task.status.value,
            "seconds": round(age(task)),
        }

    def list_facts(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """Return the facts of tasks, newest first, at most 20."""
        return [self.facts(task) for task in reversed(tasks[-_LISTED:])]

    def _project_of(self, task: Task) -> str:
        directory = task.ref.project_dir
        name = self._by_directory.get(directory)
        if name is None:
            path = os.path.realpath(directory)
            name = (
                self._by_path.get(path) or clean_name(os.path.basename(path)) or "another project"
            )
            self._by_directory[directory] = name
        return name

    # -- references ---------------------------------------------------------------------------

    def choose_task(self, said: str, *, ended: bool = False, surely: bool = False) -> Task | Answer:
        """Return the task that is meant, or the answer that asks for it.

        Args:
            said: What was said; may be nothing.
            ended: Where several fit, those are meant that have ended, not those that run.
            surely: What is asked cannot be undone: only running tasks are meant, and only what
                fits as it was said will do.
        """
        tasks = self._recent_tasks()
        if not tasks:
            return error("There are no tasks.")
        known = self.known(tasks)
        found = resolve_task(
            said,
            [task for task in known if task.is_running] if surely else known,
            mentioned=self.mentioned,
            prefer=lambda task: task.is_running is not ended,
        )
        if surely and words_of(said) and not (found.certain and found.candidates):
            # Maybe it has ended; then one says so.
            anywhere = resolve_task(said, known, mentioned=self.mentioned)
            if anywhere.certain or not found.candidates:
                found = anywhere
        chosen = found.one
        if chosen is None and not surely and len(found.candidates) == 1:
            chosen = found.candidates[0]
        by_uid = {task.uid: task for task in tasks}
        if chosen is not None:
            self.mentioned = chosen.uid
            return by_uid[chosen.uid]
        candidates = [by_uid[task.uid] for task in found.candidates]
        if not candidates:
            return self._unknown(said)
        named = self.labels(candidates)
        ask = f"Which one: {listing(named, last='or')}?"
        if len(named) == 1:
            ask = f"Do you mean {named[0]}?"
        return question(ask, candidates=self.list_facts(candidates))

    def _recent_tasks(self) -> list[Task]:
        """Return the tasks one may speak of, oldest first: not the ended ones of days ago."""
        tasks = self._engine.tasks
        older = [task for task in tasks[:-_SPOKEN_OF] if task.is_running]
        return older + list(tasks[-_SPOKEN_OF:])

    def _unknown(self, said: str) -> Answer:
        if not words_of(said):
            return error("Nothing is running.")
        running = self._engine.running_tasks
        text = f"I know no task called {short_name(said)}."
        if running:
            text += f" Running: {listing(self.labels(running))}."
        return error(text, candidates=self.list_facts(running))

    def choose_project(self, said: str) -> str | Answer:
        """Return the name of the project that is meant, or the answer that asks for it."""
        found = resolve_project(said, tuple(self.projects))
        if len(found) == 1:
            return found[0]
        names = found or tuple(self.projects)
        ask = listing([short_name(name) for name in names], last="or")
        if found:
            return question(f"In which project: {ask}?", projects=list(names))
        return question(
            f"I know no project called {short_name(said)}; which one: {ask}?", projects=list(names)
        )

"""`AssistantTools`: what a voice assistant can do with background tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import anyio

from eventbus_tasks import (
    AgentActivity,
    EventbusTasksError,
    InvalidRequestError,
    ProjectBusyError,
    Task,
    TaskEngine,
    TaskRef,
    TaskRemoved,
    TaskStatus,
    UnknownAgentError,
)
from eventbus_tasks_voice.assistant import reports
from eventbus_tasks_voice.assistant.answers import error, question, text_in
from eventbus_tasks_voice.assistant.directory import Directory
from eventbus_tasks_voice.assistant.notifications import Notification, NotificationStream
from eventbus_tasks_voice.assistant.phrases import (
    clean_name,
    count_of,
    limit_words,
    listing,
    sentence,
    short_name,
)
from eventbus_tasks_voice.assistant.resolution import words_of
from eventbus_tasks_voice.assistant.schemas import Answer, Tool, declarations

__all__ = ["AssistantTools"]

_PROMPT_LENGTH: Final = 100_000
_NAMED: Final = 3


class AssistantTools:
    """The tools of a voice assistant over an engine.

    Each tool takes a mapping and returns a dict of JSON data: ``say`` is a sentence to speak, at
    most 20 words; the rest are facts for the model. Where something is wrong, ``error`` holds the
    sentence as well; where the user has to decide, ``question`` does, with ``candidates`` where
    there is a choice. Nothing is raised for bad input. Every tool answers within moments; use
    `notifications` to learn of the end of tasks.

    Belongs to the engine's loop. Close it, or use it in a ``with`` block, when the conversation
    ends; tasks go on.

    Args:
        engine: Runs the tasks; it must have been entered when a tool is called.
        projects: The directories in which tasks may be started, by their spoken names. A model
            can name no others.
        agents: The agents among which the model may choose, the usual one first; the engine's
            usual agent when empty.
        spawn_options: More arguments for ``engine.spawn_task`` (``timeout``, ``policy``, ``env``,
            ``options``).
        patience: Seconds that `cancel_task` waits for the end before it answers.

    Attributes:
        tools: The tools, with their declarations; adapters hand them to a framework.

    Raises:
        ValueError: There is no project, or two have the same spoken name.
    """

    def __init__(
        self,
        engine: TaskEngine,
        projects: Mapping[str, str | os.PathLike[str]],
        *,
        agents: Sequence[str] = (),
        spawn_options: Mapping[str, Any] | None = None,
        patience: float = 2.0,
    ) -> None:
        self._engine = engine
        self._directory = Directory(engine, projects)
        self._agents = tuple(agents)
        self._spawn_options = dict(spawn_options or {})
        self._patience = patience
        self._activities: dict[str, reports.Activity] = {}
        self._told: set[str] = set()
        self.tools: tuple[Tool, ...] = tuple(
            Tool(name=name, description=text, parameters=schema, handler=getattr(self, name))
            for name, (text, schema) in declarations(tuple(projects), self._agents).items()
        )
        self._subscriptions = (
            engine.signals.agent_activity.connect(self._note),
            engine.signals.task_removed.connect(self._forget),
        )

    def close(self) -> None:
        """Stop following the tasks. They go on."""
        for subscription in self._subscriptions:
            subscription.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def call(self, name: str, arguments: Mapping[str, Any] | str | None = None) -> Answer:
        """Call a tool by its name.

        Args:
            name: The tool's name.
            arguments: Its arguments, as a mapping or as JSON text.

        Returns:
            The tool's answer, or one with ``error`` where there is no such tool or the text is
            not a JSON object.

        Cancellation: a task that is being started is not started; one that is being cancelled is
            still ended.
        """
        tool = next((tool for tool in self.tools if tool.name == name), None)
        if tool is None:
            known = ", ".join(tool.name for tool in self.tools)
            return error("I cannot do that.", detail=f"there is no tool {name!r}; known: {known}")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                return error("I did not get that.", detail="the arguments are not valid JSON")
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, Mapping):
            return error("I did not get that.", detail="the arguments must be a JSON object")
        return await tool.handler(arguments)

    # -- tools --------------------------------------------------------------------------------

    async def spawn_task(self, arguments: Mapping[str, Any]) -> Answer:
        """Start a task in the background, and answer at once.

        Args:
            arguments: ``name``, ``prompt``, ``project`` and ``agent``, as the declaration says.
        """
        prompt = text_in(arguments, "prompt", _PROMPT_LENGTH).replace("\0", " ").strip()
        if not prompt:
            return question("What exactly is to be done?")
        project = self._directory.choose_project(text_in(arguments, "project"))
        if isinstance(project, dict):
            return project
        agent = self._choose_agent(text_in(arguments, "agent"))
        if isinstance(agent, dict):
            return agent
        name = clean_name(text_in(arguments, "name")) or clean_name(limit_words(prompt, 4))
        try:
            task = await self._engine.spawn_task(
                name or "task",
                prompt,
                self._directory.projects[project],
                agent=agent,
                **self._spawn_options,
            )
        except ProjectBusyError as problem:
            return self._busy(problem, project, prompt)
        except InvalidRequestError as problem:
            what = "project directory" if problem.field == "project_dir" else problem.field
            return error(f"I could not start it: the {what} is not usable.", detail=str(problem))
        except UnknownAgentError as problem:
            return error(f"There is no agent called {problem.agent} here.", detail=str(problem))
        except (EventbusTasksError, OSError) as problem:
            return error("I could not start it.", detail=str(problem))
        self._directory.mentioned = task.uid
        called = self._directory.called(task)
        return self._about(task, f"Started {called} in {project}. I'll tell you when it's done.")

    async def list_tasks(self, arguments: Mapping[str, Any]) -> Answer:
        """List tasks.

        Args:
            arguments: ``which``, as the declaration says.
        """
        which = text_in(arguments, "which") or "running"
        tasks = self._engine.tasks
        running = self._engine.running_tasks
        ended = tuple(task for task in tasks if not task.is_running)
        shown = {"running": running, "finished": ended}.get(which, tasks)
        if which == "finished":
            say = self._listed(ended, "has ended", "have ended") or "Nothing has ended yet."
        else:
            say = self._listed(running, "is running", "are running") or "Nothing is running."
            if ended and not running:
                say += f" {count_of(len(ended), 'task').capitalize()} ended."
        return {
            "say": sentence(say),
            "tasks": self._directory.list_facts(shown),
            "running": len(running),
            "finished": len(ended),
        }

    async def get_task_status(self, arguments: Mapping[str, Any]) -> Answer:
        """Tell how a task is going.

        Args:
            arguments: ``task``, as the declaration says.
        """
        task = self._directory.choose_task(text_in(arguments, "task"))
        if isinstance(task, dict):
            return task
        name = self._directory.called(task)
        if task.is_running:
            activity = self._activities.get(task.uid)
            say = reports.running_sentence(task, name, activity)
            return self._about(task, say, **await reports.progress(task, activity))
        self._told.add(task.uid)
        return self._about(task, reports.ended_sentence(task, name, self._engine.describe))

    async def get_task_result(self, arguments: Mapping[str, Any]) -> Answer:
        """Tell what came out of a task.

        Args:
            arguments: ``task``, as the declaration says.
        """
        task = self._directory.choose_task(text_in(arguments, "task"), ended=True)
        if isinstance(task, dict):
            return task
        name = self._directory.called(task)
        if task.is_running:
            return self._about(task, f"{name} is not finished yet.")
        self._told.add(task.uid)
        say, facts = await reports.result(task, name, self._engine.describe)
        return self._about(task, say, **facts)

    async def cancel_task(self, arguments: Mapping[str, Any]) -> Answer:
        """Stop a task; wait for its end for moments only.

        Args:
            arguments: ``task``, as the declaration says.

        Cancellation: the task is still ended.
        """
        task = self._directory.choose_task(text_in(arguments, "task"), surely=True)
        if isinstance(task, dict):
            return task
        name = self._directory.called(task)
        # While it is being waited for, its end is not to be announced as well.
        self._told.add(task.uid)
        if not task.is_running:
            return self._about(task, f"{name} has already ended.")
        try:
            with anyio.move_on_after(self._patience):
                await task.cancel()
        finally:
            if task.outcome is None:
                self._told.discard(task.uid)
        if task.outcome is None:
            return self._about(task, f"Stopping {name}; that takes a moment.")
        if task.status is TaskStatus.CANCELLED:
            return self._about(task, f"Stopped {name}.")
        return self._about(task, f"{name} had already ended.")

    async def rename_task(self, arguments: Mapping[str, Any]) -> Answer:
        """Give a task another spoken name.

        Args:
            arguments: ``task`` and ``new_name``, as the declaration says.
        """
        new_name = clean_name(text_in(arguments, "new_name"))
        words = words_of(new_name)
        if not words:
            return question("What should it be called?")
        task = self._directory.choose_task(text_in(arguments, "task"))
        if isinstance(task, dict):
            return task
        others = [other for other in self._engine.tasks if other is not task]
        if any(words_of(self.name_of(other)) == words for other in others):
            return question(f"Another task is called {short_name(new_name)}. Which name instead?")
        old = self._directory.called(task)
        self._directory.names[task.uid] = new_name
        return self._about(task, f"{old} is now called {short_name(new_name)}.")

    # -- notifications ------------------------------------------------------------------------

    def notifications(self) -> NotificationStream:
        """Return what the user is to be told from now on, as an async iterator.

        Left out is what an answer of these tools has told already. Tasks are called by their
        spoken names. Where the loudspeaker of this plugin announces the same tasks, switch it off
        (``voice.enabled = false``), or everything is heard twice.
        """
        return NotificationStream(
            self._engine, name_of=self._directory.called, is_told=self.is_told
        )

    def is_told(self, notification: Notification) -> bool:
        """Whether the user has been told already: ask again when the time to speak has come."""
        return not notification.needs_user and notification.task.uid in self._told

    def mark_told(self, notification: Notification) -> None:
        """Take note that an notification was delivered."""
        if not notification.needs_user:
            self._told.add(notification.task.uid)

    def name_of(self, task: Task | TaskRef) -> str:
        """Return the name by which a task is called now."""
        return self._directory.name_of(task)

    # -- the rest -----------------------------------------------------------------------------

    def _choose_agent(self, said: str) -> str | Answer | None:
        if not self._agents:
            return None  # there is no choice: what a model makes up does not count
        if not words_of(said):
            return self._agents[0]
        for agent in self._agents:
            if words_of(agent) == words_of(said):
                return agent
        return question(f"Which agent: {listing(self._agents, last='or')}?")

    def _busy(self, problem: ProjectBusyError, project: str, prompt: str) -> Answer:
        uid = problem.holder.get("uid")
        holder = next((task for task in self._engine.tasks if task.uid == uid), None)
        if holder is None:
            name = short_name(str(problem.holder.get("name") or "another task"))
            return error(f"{name} of another program is working in {project}. Try again later.")
        self._directory.mentioned = holder.uid
        name = self._directory.called(holder)
        if not holder.is_running:
            say = f"Something that {name} has left running still works in {project}."
            return self._about(holder, say, kind="error")
        if holder.status is TaskStatus.STOPPING:
            say = f"{name} is still being stopped; try again in a moment."
            return self._about(holder, say, kind="error")
        if holder.prompt.strip() == prompt:
            return self._about(holder, f"{name} is already working on exactly that.")
        say = f"{name} is still running in {project}. Cancel it?"
        return self._about(holder, say, kind="question")

    def _listed(self, tasks: Sequence[Task], one: str, many: str) -> str:
        named = self._directory.labels(tasks[-_NAMED:])
        if not named:
            return ""
        if len(tasks) == 1:
            return f"{named[0]} {one}."
        newest = ", the last ones" if len(tasks) > _NAMED else ""
        return f"{count_of(len(tasks), 'task').capitalize()} {many}{newest}: {listing(named)}."

    def _about(self, task: Task, say: str, *, kind: str | None = None, **facts: Any) -> Answer:
        answer = {"say": sentence(say), **self._directory.facts(task), **facts}
        if kind is not None:
            answer[kind] = answer["say"]
        return answer

    def _note(self, event: AgentActivity) -> None:
        self._activities.setdefault(event.task.uid, reports.Activity()).note(event)

    def _forget(self, event: TaskRemoved) -> None:
        self._directory.names.pop(event.task.uid, None)
        self._activities.pop(event.task.uid, None)
        self._told.discard(event.task.uid)

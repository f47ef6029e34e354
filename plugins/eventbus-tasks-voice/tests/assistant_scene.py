"""What the tests of the assistant's tools share: an agent that does what it is told, and a talk."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from eventbus_tasks_voice.assistant import AssistantTools, Notification

from eventbus_tasks import (
    AgentActivity,
    AgentInputRequired,
    AgentMessage,
    AgentResult,
    AgentToolFinished,
    AgentToolStarted,
    Command,
    ProcessExit,
    Reason,
    Stream,
    Task,
    TaskEngine,
    TaskEvent,
    Verdict,
    hookimpl,
)
from eventbus_tasks.testing import Puppet

PATIENCE = 20.0
"""Seconds; only a guard against hanging."""

Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
E = TypeVar("E", bound=TaskEvent)


class _Interpreter:
    """Understands lines such as ``tool:Bash`` and ``result:All done``."""

    def __init__(self) -> None:
        self.result: str | None = None

    def interpret(self, line: bytes, stream: Stream) -> Iterable[AgentActivity]:
        kind, _, text = line.decode().partition(":")
        if kind == "tool":
            yield AgentToolStarted(tool=text, summary="make all")
        elif kind == "tool_finished":
            yield AgentToolFinished(tool=text)
        elif kind == "message":
            yield AgentMessage(text=text)
        elif kind == "ask":
            yield AgentInputRequired(kind="question", prompt=text, request_id=text)
        elif kind == "result":
            self.result = text.replace("|", "\n")
            yield AgentResult(ok=True, text=self.result)

    def verdict(self, exit: ProcessExit) -> Verdict | None:
        if exit.return_code != 0:
            return Verdict(reason=Reason.AGENT_ERROR, message="the model is overloaded")
        return Verdict(reason=Reason.EXITED, result=self.result)


class PuppetAgent:
    """A plugin that drives the agents ``puppet`` and ``other``: one puppet for each directory."""

    def __init__(self) -> None:
        self.puppets: dict[str, Puppet] = {}

    @hookimpl
    def ebt_register_agents(self, register: Callable[[str, str], None]) -> None:
        register("puppet", "does what the test says")
        register("other", "the same")

    @hookimpl
    def ebt_build_command(self, task: Task) -> Command | None:
        if task.agent not in ("puppet", "other"):
            return None
        puppet = self.puppets[task.project_dir.name]
        return Command(argv=puppet.argv, interpreter=_Interpreter())


@dataclass
class Scene:
    """An engine with two projects, the tools over it, and the agents that work in them."""

    engine: TaskEngine
    tools: AssistantTools
    shop: Puppet
    blog: Puppet

    async def spawn(self, name: str, project: str, prompt: str = "do it") -> Task:
        """Start a task by the tool and wait until its agent runs."""
        answer = await self.tools.call(
            "spawn_task", {"name": name, "prompt": prompt, "project": project}
        )
        assert "error" not in answer, answer
        await getattr(self, project).connected()
        return self.engine.get_task(answer["task"])

    async def have(self, puppet: Puppet, line: str, *types: type[TaskEvent]) -> None:
        """Have an agent write a line, and wait until the engine has understood it."""
        with self.engine.subscribe(*(types or (AgentActivity,))) as events:
            puppet.say(line + "\n")
            await anext(events)


@contextlib.asynccontextmanager
async def a_scene(directory: Path, **options: Any) -> AsyncIterator[Scene]:
    """Make a scene; end everything afterwards."""
    projects = {name: directory / name for name in ("shop", "blog")}
    agent = PuppetAgent()
    with contextlib.ExitStack() as stack:
        for name, path in projects.items():
            path.mkdir()
            agent.puppets[name] = stack.enter_context(Puppet())
        engine = TaskEngine(plugins={"puppet": agent}, load_installed=False)
        options.setdefault("agents", ("puppet",))
        tools = stack.enter_context(AssistantTools(engine, projects, **options))
        with anyio.fail_after(PATIENCE):
            async with engine:
                yield Scene(engine, tools, agent.puppets["shop"], agent.puppets["blog"])


async def converse(scene: Scene, call: Call) -> Notification:
    """Have the conversation that every adapter must be able to carry.

    Start by voice words, ask for the status, be ambiguous, meet a busy project, cancel, be told of
    the end, ask for the result.

    Args:
        scene: Where it takes place.
        call: Calls a tool through the adapter.

    Returns:
        The notification of the end, for the adapter to hand over.
    """
    notifications = scene.tools.notifications()
    answer = await call(
        "spawn_task",
        {"name": "auth refactor", "prompt": "Refactor the auth module", "project": "the shop"},
    )
    assert answer["say"] == "Started auth refactor in shop. I'll tell you when it's done."
    await scene.shop.connected()
    answer = await call(
        "spawn_task", {"name": "auth tests", "prompt": "Test the log-in", "project": "blog"}
    )
    assert answer["status"] in ("pending", "starting", "running")
    await scene.blog.connected()

    await scene.have(scene.shop, "tool:Bash")
    answer = await call("get_task_status", {"task": "the one in shop"})
    assert answer["say"].startswith("Auth refactor has been running for ")
    assert answer["say"].endswith("now using Bash.")

    answer = await call("get_task_status", {"task": "the auth one"})
    assert answer["question"] == "Which one: auth refactor or auth tests?"
    assert {each["name"] for each in answer["candidates"]} == {"auth refactor", "auth tests"}

    answer = await call("spawn_task", {"name": "more", "prompt": "Do more", "project": "shop"})
    assert answer["question"] == "Auth refactor is still running in shop. Cancel it?"

    answer = await call("cancel_task", {"task": "auth tests"})
    assert answer["say"] == "Stopped auth tests."
    assert answer["status"] == "cancelled"

    scene.shop.say("result:Moved the checks into one module.\n")
    scene.shop.exit(0)
    notification = await anext(notifications)  # of the end, not of the cancellation
    notifications.close()
    assert notification.headline == "Auth refactor is done."

    answer = await call("get_task_result", {"task": "auth refactor"})
    assert answer["say"] == "Auth refactor: Moved the checks into one module."
    assert answer["result"] == "Moved the checks into one module."
    return notification


def library(name: str, distribution: str) -> Any:
    """Import a module of a framework, or skip the tests in the module that asks for it.

    Only what is not installed is skipped: a module that has moved in a newer version is an error.
    """
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(
            f"{distribution} is not installed (tox run -e assistants)", allow_module_level=True
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others do when they are imported is theirs
        return importlib.import_module(name)

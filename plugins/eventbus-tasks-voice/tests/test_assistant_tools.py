"""The assistant's tools against a real engine, with agents that are real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from assistant_scene import a_scene, converse
from eventbus_tasks_voice.assistant import AssistantTools
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import (
    AgentInputRequired,
    Step,
    TaskCancelled,
    TaskCompleted,
    TaskEnded,
    TaskEngine,
    TaskFailed,
    TaskStopping,
    TerminationPolicy,
)

pytestmark = pytest.mark.anyio

STUBBORN = TerminationPolicy(steps=(Step(signal=15, grace=3600.0),))


async def test_the_conversation(tmp_path: Path) -> None:
    """A start, status, ambiguity, a busy project, a stop and a result work by voice words."""
    async with a_scene(tmp_path) as scene:
        await converse(scene, scene.tools.call)


async def test_spawn_answers_with_facts_and_a_pending_task(tmp_path: Path) -> None:
    """`spawn_task` returns at once with an acknowledgement and what the model needs to know."""
    async with a_scene(tmp_path) as scene:
        answer = await scene.tools.spawn_task(
            {"name": "docs", "prompt": "Write the docs", "project": "in the blog"}
        )
        task = scene.engine.get_task(answer["task"])
        assert answer == {
            "say": "Started docs in blog. I'll tell you when it's done.",
            "task": task.id,
            "name": "docs",
            "project": "blog",
            "agent": "puppet",
            "status": "pending",
            "seconds": 0,
        }
        assert (task.prompt, task.project_dir) == ("Write the docs", tmp_path / "blog")


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ("", "In which project: shop or blog?"),
        ("/etc", "I know no project called etc; which one: shop or blog?"),
        ("../shop/../../root", "I know no project called root; which one: shop or blog?"),
    ],
)
async def test_only_configured_projects(tmp_path: Path, said: str, question: str) -> None:
    """A model can name no directory: what is no known project becomes a question."""
    async with a_scene(tmp_path) as scene:
        answer = await scene.tools.spawn_task({"name": "x", "prompt": "y", "project": said})
        assert (answer["question"], answer["projects"]) == (question, ["shop", "blog"])
        assert scene.engine.tasks == ()


async def test_the_same_work_twice_is_not_a_conflict(tmp_path: Path) -> None:
    """A repeated call for the same work names the task that does it, and starts nothing."""
    async with a_scene(tmp_path) as scene:
        task = await scene.spawn("auth", "shop", "Refactor it")
        answer = await scene.tools.spawn_task(
            {"name": "auth", "prompt": " Refactor it\n", "project": "shop"}
        )
        assert answer["say"] == "Auth is already working on exactly that."
        assert answer["task"] == task.id
        assert not {"error", "question"} & set(answer)
        assert len(scene.engine.tasks) == 1


async def test_a_project_that_another_program_works_in(tmp_path: Path) -> None:
    """A task of another engine in the project is named, and not offered for cancelling."""
    async with a_scene(tmp_path) as scene, TaskEngine(load_installed=False) as stranger:
        await stranger.spawn_task(
            "nightly build", argv=["sleep", "1000"], project_dir=tmp_path / "shop"
        )
        answer = await scene.tools.spawn_task({"name": "x", "prompt": "y", "project": "shop"})
        assert answer["error"] == (
            "Nightly build of another program is working in shop. Try again later."
        )


async def test_agents_are_chosen_from_a_list(tmp_path: Path) -> None:
    """The model may choose among the agents that are offered, and among no others."""
    async with a_scene(tmp_path, agents=("puppet", "other")) as scene:
        request = {"name": "x", "prompt": "y", "project": "shop"}
        answer = await scene.tools.spawn_task({**request, "agent": "command"})
        assert answer["question"] == "Which agent: puppet or other?"
        answer = await scene.tools.spawn_task({**request, "agent": "Other"})
        assert answer["agent"] == "other"
        (spawn,) = (tool for tool in scene.tools.tools if tool.name == "spawn_task")
        assert spawn.parameters["properties"]["agent"]["enum"] == ["puppet", "other"]


async def test_an_agent_that_nobody_drives(tmp_path: Path) -> None:
    """Where no plugin drives the usual agent, the answer says so instead of raising."""
    async with a_scene(tmp_path, agents=("nobody",)) as scene:
        answer = await scene.tools.spawn_task({"name": "x", "prompt": "y", "project": "shop"})
        assert answer["error"] == "There is no agent called nobody here."
        assert "ebt plugins install" in answer["detail"]


async def test_a_project_directory_that_is_gone(tmp_path: Path) -> None:
    """A directory that has vanished is an error in words, without its path."""
    async with a_scene(tmp_path) as scene:
        (tmp_path / "blog").rmdir()
        answer = await scene.tools.spawn_task({"name": "x", "prompt": "y", "project": "blog"})
        assert answer["error"] == "I could not start it: the project directory is not usable."


async def test_a_closed_engine(tmp_path: Path) -> None:
    """Tools of an engine that has ended answer that nothing can be started."""
    async with a_scene(tmp_path) as scene:
        tools = scene.tools
    answer = await tools.spawn_task({"name": "x", "prompt": "y", "project": "shop"})
    assert (answer["error"], answer["detail"]) == (
        "I could not start it.",
        "the engine is not running",
    )


async def test_status_tells_what_the_agent_does(tmp_path: Path) -> None:
    """The status names the tool in use, the question that is open, and the last message."""
    async with a_scene(tmp_path) as scene:
        task = await scene.spawn("docs", "blog")
        answer = await scene.tools.get_task_status({})
        assert answer["last_lines"] == []
        await scene.have(scene.blog, "message:I read \x1b[31mthe **files**")
        await scene.have(scene.blog, "tool:Bash")
        answer = await scene.tools.get_task_status({"task": "docs"})
        assert answer["activity"] == {
            "tool": "Bash",
            "summary": "make all",
            "message": "I read the **files**",
        }
        await scene.have(scene.blog, "tool_finished:Bash")
        answer = await scene.tools.get_task_status({"task": "docs"})
        assert "tool" not in answer["activity"]
        await scene.have(scene.blog, "ask:May I delete the old page?")
        answer = await scene.tools.get_task_status({"task": "it"})
        assert answer["say"] == "Docs is waiting for you: May I delete the old page?"
        scene.blog.exit(0)
        await task.wait()
        answer = await scene.tools.get_task_status({"task": "docs"})
        assert (answer["say"], answer["status"]) == ("Docs is done.", "completed")


async def test_status_of_a_plain_command_has_its_last_lines(tmp_path: Path) -> None:
    """A command that speaks no protocol is described by its last lines."""
    async with a_scene(tmp_path) as scene:
        argv = ["printf", "one\\ntwo\\n\\033[1mthree\\nfour\\n"]
        task = await scene.engine.spawn_task("build", argv=argv, project_dir=tmp_path / "shop")
        await task.wait()
        answer = await scene.tools.get_task_result({"task": "build"})
        assert answer["last_lines"] == ["one", "two", "three", "four"]
        assert answer["say"] == "Build is done; its last line: four."


async def test_result_of_a_failed_task(tmp_path: Path) -> None:
    """The result of a failed task is why it failed."""
    async with a_scene(tmp_path) as scene:
        task = await scene.spawn("docs", "blog")
        scene.blog.exit(3)
        await task.wait()
        answer = await scene.tools.get_task_result({})
        assert answer["say"] == "Docs failed: the model is overloaded."
        assert answer["message"] == "the model is overloaded"


async def test_a_long_result_is_shortened(tmp_path: Path) -> None:
    """A long answer is spoken in at most 20 words, without markup and code; the text is data."""
    async with a_scene(tmp_path) as scene:
        task = await scene.spawn("docs", "blog")
        text = "# Done|```python|import os|```|See [the page](http://x.y/z) and `main` now. " + (
            "word " * 2000
        )
        scene.blog.say(f"result:{text}\n")
        scene.blog.exit(0)
        await task.wait()
        answer = await scene.tools.get_task_result({"task": "docs"})
        assert answer["say"].startswith("Docs: Done See the page and main now. word")
        assert len(answer["say"].split()) == 20
        assert (len(answer["result"]), answer["truncated"]) == (4000, True)


async def test_a_result_before_the_end(tmp_path: Path) -> None:
    """Asking too early for a result says that there is none yet."""
    async with a_scene(tmp_path) as scene:
        await scene.spawn("docs", "blog")
        answer = await scene.tools.get_task_result({"task": "docs"})
        assert answer["say"] == "Docs is not finished yet."


async def test_cancel_does_not_wait_for_a_stubborn_task(tmp_path: Path) -> None:
    """A task that takes long to stop is answered for at once, and announced when it has ended."""
    options = {"policy": STUBBORN}
    async with a_scene(tmp_path, patience=0.0, spawn_options=options) as scene:
        task = await scene.spawn("docs", "blog")
        scene.blog.ignore(15)
        notifications = scene.tools.notifications()
        stopping = scene.engine.subscribe(TaskStopping)
        answer = await scene.tools.cancel_task({"task": "docs"})
        assert answer["say"] == "Stopping docs; that takes a moment."
        await anext(stopping)
        answer = await scene.tools.spawn_task({"name": "x", "prompt": "y", "project": "blog"})
        assert answer["error"] == "Docs is still being stopped; try again in a moment."
        answer = await scene.tools.get_task_status({"task": "docs"})
        assert answer["say"] == "Docs is being stopped."
        task.cancel_nowait(now=True)
        notification = await anext(notifications)
        assert notification.headline == "Docs was cancelled."
        notifications.close()
        stopping.close()


async def test_cancel_asks_where_it_is_not_sure(tmp_path: Path) -> None:
    """What fits only nearly is asked about before it is stopped, but not before it is shown."""
    async with a_scene(tmp_path) as scene:
        await scene.spawn("database migration", "blog")
        answer = await scene.tools.cancel_task({"task": "the migraton one"})
        assert answer["question"] == "Do you mean database migration?"
        assert len(scene.engine.running_tasks) == 1
        answer = await scene.tools.get_task_status({"task": "the migraton one"})
        assert answer["name"] == "database migration"


async def test_cancel_means_running_tasks(tmp_path: Path) -> None:
    """Among several that fit, only those that run can be cancelled; an ended one is said to be."""
    async with a_scene(tmp_path) as scene:
        first = await scene.spawn("auth refactor", "shop")
        scene.shop.exit(0)
        await first.wait()
        assert (await scene.tools.cancel_task({}))["error"] == "Nothing is running."
        await scene.spawn("auth tests", "blog")
        answer = await scene.tools.cancel_task({"task": "auth refactor"})
        assert answer["say"] == "Auth refactor has already ended."
        answer = await scene.tools.cancel_task({"task": "the auth one"})
        assert answer["say"] == "Stopped auth tests."


async def test_unknown_tasks(tmp_path: Path) -> None:
    """A name that fits nothing is answered with what is running."""
    async with a_scene(tmp_path) as scene:
        assert (await scene.tools.get_task_status({"task": "x"}))["error"] == "There are no tasks."
        await scene.spawn("docs", "blog")
        for tool in ("get_task_status", "cancel_task"):
            answer = await scene.tools.call(tool, {"task": "the payroll one"})
            assert answer["error"] == "I know no task called the payroll one. Running: docs."
        answer = await scene.tools.get_task_status({"task": "task 77"})
        assert answer["error"] == "I know no task called task 77. Running: docs."


async def test_list(tmp_path: Path) -> None:
    """The list is spoken by names, and holds the facts of all that are meant."""
    async with a_scene(tmp_path) as scene:
        call = scene.tools.list_tasks
        assert (await call({}))["say"] == "Nothing is running."
        assert (await call({"which": "finished"}))["say"] == "Nothing has ended yet."
        first = await scene.spawn("docs", "shop")
        assert (await call({}))["say"] == "Docs is running."
        second = await scene.spawn("docs", "blog")
        answer = await call({})
        assert answer["say"] == "Two tasks are running: docs in shop and docs in blog."
        assert [each["task"] for each in answer["tasks"]] == [second.id, first.id]
        scene.shop.exit(0)
        scene.blog.exit(0)
        await first.wait()
        await second.wait()
        answer = await call({})
        assert (answer["say"], answer["tasks"]) == ("Nothing is running. Two tasks ended.", [])
        answer = await call({"which": "finished"})
        assert answer["say"] == "Two tasks have ended: docs in shop and docs in blog."
        assert len((await call({"which": "all"}))["tasks"]) == 2


async def test_a_long_list_names_the_newest(tmp_path: Path) -> None:
    """Of many tasks all are counted, and only the newest are named."""
    async with a_scene(tmp_path) as scene:
        for number in range(5):
            argv = ["true"]
            name = f"job {number}"
            task = await scene.engine.spawn_task(name, argv=argv, project_dir=tmp_path / "shop")
            await task.wait()
        answer = await scene.tools.list_tasks({"which": "finished"})
        assert answer["say"] == "Five tasks have ended, the last ones: job 2, job 3 and job 4."
        assert len(answer["tasks"]) == 5


async def test_rename(tmp_path: Path) -> None:
    """A new name is used in answers and notifications; the old one still finds the task."""
    async with a_scene(tmp_path) as scene:
        task = await scene.spawn("auth refactor", "shop")
        other = await scene.spawn("docs", "blog")
        rename = scene.tools.rename_task
        answer = await rename({"task": "auth", "new_name": "log-in work"})
        assert answer["say"] == "Auth refactor is now called log in work."
        assert (scene.tools.name_of(task), task.name) == ("log-in work", "auth refactor")
        for said in ("the login one", "log in work", "auth refactor", "the log in"):
            answer = await scene.tools.get_task_status({"task": said})
            assert answer.get("task") == task.id, said
        answer = await rename({"task": "docs", "new_name": "Log in work"})
        assert answer["question"].startswith("Another task is called Log in work.")
        assert (await rename({"task": "docs"}))["question"] == "What should it be called?"
        with scene.tools.notifications() as notifications:
            scene.shop.exit(0)
            assert (await anext(notifications)).headline == "Log in work is done."
        scene.engine.remove_task(task.id)
        assert scene.tools.name_of(task) == "auth refactor"
        assert other.is_running


async def test_what_was_answered_is_not_announced(tmp_path: Path) -> None:
    """The end of a task that an answer has told already is left out of the notifications."""
    async with a_scene(tmp_path) as scene:
        task = await scene.spawn("docs", "shop")
        with scene.tools.notifications() as notifications:
            scene.shop.exit(0)
            await task.wait()
            await scene.tools.get_task_status({"task": "docs"})
            await scene.spawn("tests", "blog")
            scene.blog.exit(1)
            notification = await anext(notifications)
            assert notification.headline == "Tests failed: the model is overloaded."
            assert not scene.tools.is_told(notification)
            scene.tools.mark_told(notification)
            assert scene.tools.is_told(notification)


async def test_a_question_is_announced_once(tmp_path: Path) -> None:
    """What an agent asks interrupts, is asked once, and a new question is asked again."""
    async with a_scene(tmp_path) as scene:
        await scene.spawn("docs", "blog")
        with scene.tools.notifications() as notifications:
            for line in ("ask:Delete it?", "ask:Delete it?", "ask:Really?"):
                await scene.have(scene.blog, line, AgentInputRequired)
            first, second = await anext(notifications), await anext(notifications)
            assert [first.summary, second.summary] == ["Delete it?", "Really?"]
            assert first.needs_user
            assert first.urgency == "interrupt"
            scene.tools.mark_told(first)
            assert not scene.tools.is_told(second)


async def test_the_end_of_the_engine_is_silent(tmp_path: Path) -> None:
    """Tasks that end with their engine are only made known, and the iterator ends."""
    async with a_scene(tmp_path) as scene:
        await scene.spawn("docs", "blog")
        notifications = scene.tools.notifications()
    found = [notification async for notification in notifications]
    assert [(each.event, each.urgency) for each in found] == [(TaskCancelled.name, "silent")]


async def test_events_of_every_end(tmp_path: Path) -> None:
    """Completed and failed tasks are announced with their summaries, once each."""
    async with a_scene(tmp_path) as scene:
        await scene.spawn("docs", "shop")
        await scene.spawn("tests", "blog")
        with scene.tools.notifications() as notifications, scene.engine.subscribe(TaskEnded):
            scene.shop.say("result:All pages written.\n")
            scene.shop.exit(0)
            done = await anext(notifications)
            scene.blog.exit(1)
            failed = await anext(notifications)
        assert (done.event, done.summary) == (TaskCompleted.name, "All pages written.")
        assert (failed.event, failed.summary) == (TaskFailed.name, "the model is overloaded")
        assert done.dedupe_key != failed.dedupe_key


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("delete_everything", {}, "I cannot do that."),
        ("list_tasks", "{", "I did not get that."),
        ("list_tasks", "[1]", "I did not get that."),
        ("list_tasks", '"x"', "I did not get that."),
        ("list_tasks", "[" * 100_000, "I did not get that."),
    ],
)
async def test_calls_that_make_no_sense(
    tmp_path: Path, name: str, arguments: Any, error: str
) -> None:
    """An unknown tool and arguments that are no JSON object are answered, not raised."""
    async with a_scene(tmp_path) as scene:
        answer = await scene.tools.call(name, arguments)
        assert (answer["error"], answer["say"]) == (error, error)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JUNK = (
    SCALARS
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(st.text(), SCALARS, max_size=2)
    | st.sampled_from(["\ud800", "\0", "x" * 1000, "in shop", "the last one", "running"])
)
KEYS = ("name", "prompt", "project", "agent", "task", "new_name", "which")
TOOLS = (
    "list_tasks",
    "get_task_status",
    "get_task_result",
    "cancel_task",
    "rename_task",
    "spawn_task",
)


@given(
    calls=st.lists(
        st.tuples(st.sampled_from(TOOLS), st.dictionaries(st.sampled_from(KEYS), JUNK)),
        min_size=1,
        max_size=8,
    )
)
def test_bad_input_never_raises(calls: list[tuple[str, dict[str, Any]]]) -> None:
    """Whatever a model sends, each tool answers JSON data with a sentence of at most 20 words."""

    async def try_all() -> None:
        engine = TaskEngine(load_installed=False)  # not entered: nothing can be started
        with AssistantTools(engine, {"shop": "/nowhere/at/all"}) as tools:
            for name, arguments in calls:
                answer = await tools.call(name, arguments)
                assert 1 <= len(answer["say"].split()) <= 20
                json.dumps(answer).encode()

    anyio.run(try_all)


def test_projects_must_have_spoken_names() -> None:
    """No project, one without a name, or two that sound the same are refused."""
    engine = TaskEngine(load_installed=False)
    with pytest.raises(ValueError, match="at least one"):
        AssistantTools(engine, {})
    with pytest.raises(ValueError, match="of its own"):
        AssistantTools(engine, {"--": "/x"})
    with pytest.raises(ValueError, match="of its own"):
        AssistantTools(engine, {"web-shop": "/x", "Web Shop": "/y"})

"""What references to tasks and projects mean, and how answers are put into words."""

from __future__ import annotations

import itertools

import pytest
from eventbus_tasks_voice.assistant.phrases import (
    MAX_WORDS,
    count_of,
    limit_words,
    listing,
    one_line,
    sentence,
    short_name,
)
from eventbus_tasks_voice.assistant.resolution import (
    KnownTask,
    labels,
    resolve_project,
    resolve_task,
)
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import TaskStatus


def a_task(
    number: int, name: str, project: str = "shop", status: TaskStatus = TaskStatus.RUNNING
) -> KnownTask:
    """Make a task as people speak of it."""
    return KnownTask(
        uid=f"uid-{number}",
        number=number,
        name=name,
        original=name,
        project=project,
        status=status,
    )


TASKS = (
    a_task(1, "auth refactor", "shop"),
    a_task(2, "auth tests", "blog", TaskStatus.FAILED),
    a_task(3, "write the docs", "blog"),
    a_task(4, "nightly build", "web-shop", TaskStatus.COMPLETED),
    a_task(5, "Überprüfung 42", "api", TaskStatus.CANCELLED),
)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("auth refactor", 1),
        ("Auth Refactor!", 1),
        ("the auth one", 1),  # of those that fit, the running one
        ("the authentication refactoring", 1),
        ("the auth one in the blog", 2),
        ("auth tests", 2),
        ("the failed auth one", 2),
        ("the failed one", 2),
        ("the docs", 3),
        ("the one in blog", 3),
        ("the documentation one", 3),
        ("task 3", 3),
        ("Task three", 3),
        ("number 3", 3),
        ("#3", 3),
        ("3", 3),
        ("the build", 4),
        ("the finished build", 4),
        ("the one in web shop", 4),
        ("uberprufung", 5),
        ("42", 5),
        ("the last one", 5),
        ("the latest", 5),
        ("the last auth one", 2),
        ("the last one in blog", 3),
        ("the last one that failed", 2),
        ("the cancelled one", 5),
    ],
)
def test_what_is_meant(said: str, number: int) -> None:
    """Names, parts of them, projects, numbers, order and status lead to one task."""
    found = resolve_task(said, TASKS)
    assert found.one is not None, found
    assert found.one.number == number


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ("", (1, 3)),
        ("the running one", (1, 3)),
        ("it", (1, 3)),
        ("the task", (1, 3)),
        ("task 77", ()),
        ("the payroll one", ()),
    ],
)
def test_what_is_not_one(said: str, numbers: tuple[int, ...]) -> None:
    """What fits several running tasks, or none, stays open."""
    found = resolve_task(said, TASKS)
    assert tuple(task.number for task in found.candidates) == numbers
    assert found.one is None


@pytest.mark.parametrize("said", ["the auth payroll thing", "write the dogs", "nightly bild"])
def test_what_fits_nearly_is_not_certain(said: str) -> None:
    """A slip of the ear leads to candidates, but to no certainty."""
    found = resolve_task(said, TASKS)
    assert found.candidates
    assert found.one is None


def test_pronouns_mean_what_was_mentioned() -> None:
    """The words "it" and "that one" are the task that was spoken of last; nothing said is not."""
    for said in ("it", "that one", "this task"):
        found = resolve_task(said, TASKS, mentioned="uid-4")
        assert found.one is TASKS[3]
    assert resolve_task("", TASKS, mentioned="uid-4").one is None


def test_the_same_work_again_means_the_newest() -> None:
    """Of several runs with one name in one project the running one is meant, else the newest."""
    runs = [a_task(n, "tests", status=TaskStatus.COMPLETED) for n in (1, 2, 3)]
    found = resolve_task("the tests", runs).one
    assert found is not None
    assert found.number == 3
    again = [*runs[:2], a_task(7, "tests"), runs[2]]
    found = resolve_task("the tests", again, prefer=lambda task: not task.is_running).one
    assert found is not None
    assert found.number == 3
    found = resolve_task("the tests", again).one
    assert found is not None
    assert found.number == 7


def test_words_of_a_name_are_no_commands() -> None:
    """The words "last", "failed" and numbers that are part of a name are taken as such."""
    tasks = (a_task(1, "fix failed tests"), a_task(2, "last words"), a_task(3, "bug 12"))
    for said, number in (("the failed one", 1), ("the last one", 2), ("12", 3), ("bug 12", 3)):
        found = resolve_task(said, tasks).one
        assert found is not None, said
        assert found.number == number


@given(
    names=st.lists(st.text(max_size=20), max_size=6),
    said=st.text(max_size=30)
    | st.sampled_from(["it", "the last one", "task 2", "the one in shop"]),
)
def test_resolution_returns_what_it_was_given(names: list[str], said: str) -> None:
    """Whatever is said, the candidates are some of the tasks, in their order, each once."""
    tasks = [a_task(number, name) for number, name in enumerate(names, start=1)]
    found = resolve_task(said, tasks)
    numbers = [task.number for task in found.candidates]
    assert numbers == sorted(set(numbers))
    assert all(task in tasks for task in found.candidates)


@given(names=st.lists(st.sampled_from(["tests", "docs", "auth"]), min_size=1, max_size=6))
def test_labels_tell_apart(names: list[str]) -> None:
    """Tasks with equal names get labels that differ, by project or by number."""
    projects = itertools.cycle(["shop", "blog"])
    tasks = [a_task(n, name, next(projects)) for n, name in enumerate(names)]
    found = labels(tasks, short_name)
    assert len(set(found)) == len(tasks)
    for task, label in zip(tasks, found, strict=True):
        meant = resolve_task(label, tasks).one
        assert meant is not None
        assert (meant.name, meant.project) == (task.name, task.project)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("shop", ("shop",)),
        ("the shop project", ("shop",)),
        ("Web Shop", ("web-shop",)),
        ("in the web one", ("web-shop",)),
        ("the log", ("blog-engine", "log")[1:]),
        ("blog", ("blog-engine",)),
        ("blogengin", ("blog-engine",)),
        ("", ("shop", "web-shop", "blog-engine", "log")),
        ("/home/me/secrets", ()),
        ("..", ("shop", "web-shop", "blog-engine", "log")),
    ],
)
def test_projects(said: str, found: tuple[str, ...]) -> None:
    """Projects are found by their names and parts of them, never by paths."""
    assert resolve_project(said, ("shop", "web-shop", "blog-engine", "log")) == found


@given(st.text() | st.text(alphabet="ab c*`#[]()_/~\n\x1b[31m", max_size=400))
def test_a_sentence_is_short(text: str) -> None:
    """Whatever an agent wrote, what is said has at most 20 words in one line."""
    found = sentence(text)
    assert len(found.split()) <= MAX_WORDS
    assert "\n" not in found
    assert len(found) <= 31 * MAX_WORDS
    assert not found or found.endswith((".", "!", "?", "…"))


def test_phrases() -> None:
    """Lists, numbers, names and cut texts read as they are said."""
    assert listing([]) == ""
    assert listing(["a"]) == "a"
    assert listing(["a", "b"], last="or") == "a or b"
    assert listing(["a", "b", "c"]) == "a, b and c"
    assert listing(["a", "b", "c", "d", "e"]) == "a, b, c and two more"
    assert (count_of(1, "task"), count_of(2, "task")) == ("one task", "two tasks")
    assert limit_words("one two, three", 2) == "one two…"
    assert limit_words("x" * 100, 2) == "x" * 29 + "…"
    assert short_name("a\nb\x1b[31m c d e f g h") == "a b c d e f…"
    assert one_line("a\r\n b   c", 4) == "a b…"
    assert sentence("```\ncode\n```\n**done**") == "Done."
    assert sentence("~~~\nnever closed") == ""

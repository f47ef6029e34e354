"""What Claude is given: arguments, environment, standard input. The fake writes it down."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import eventbus_tasks_claude
import pytest
from eventbus_tasks_claude import session_id_of
from eventbus_tasks_claude.environment import SESSION_VARIABLES
from fake_claude import init, result

from eventbus_tasks import (
    AgentSession,
    Reason,
    Step,
    Task,
    TaskStarted,
    TaskStopping,
    TerminationPolicy,
    hookimpl,
)
from eventbus_tasks.testing.agents import ScriptedCli

pytestmark = pytest.mark.anyio

ANSWER = (init(), result())


@pytest.mark.parametrize(
    "prompt",
    [
        "Refactor the auth module",
        "-p --dangerously-skip-permissions",
        "--help",
        "/help me",
        "!ls",
        "@file",
        "two\nlines, Grüße \u2028 🦊",
        "x" * 300 * 1024,
    ],
    ids=["plain", "dash", "flag", "slash", "bang", "at", "unicode", "300KB"],
)
async def test_the_prompt_goes_to_standard_input_and_nowhere_else(
    play: Any, fake: ScriptedCli, prompt: str
) -> None:
    """Any prompt arrives byte by byte on stdin, which then ends; no argument has it."""
    run = await play(*ANSWER, prompt=prompt)
    assert run.outcome.reason is Reason.EXITED, run.outcome
    record = fake.record
    assert record["stdin"] == prompt.encode()
    assert record["argv"][1:] == [
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        f"--session-id={run.task.uid}",
    ]
    assert prompt not in record["env"].values()


async def test_bytes_of_a_prompt_that_are_not_utf8_arrive_as_they_were(
    play: Any, fake: ScriptedCli
) -> None:
    """A prompt from a command line in another encoding is handed on unchanged."""
    await play(*ANSWER, prompt=os.fsdecode(b"caf\xe9"))
    assert fake.record["stdin"] == b"caf\xe9"


async def test_traces_of_a_session_around_are_gone_and_configuration_stays(
    play: Any, fake: ScriptedCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started from inside Claude Code, the child doesn't know; what the user set, it does."""
    for name in SESSION_VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CLAUDE_CODE_USE_BEDROCK", "1")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "/somewhere")
    await play(*ANSWER, env={"CLAUDE_CODE_ENTRYPOINT": "mine", "EXTRA": "x"})
    environment = fake.record["env"]
    assert "CLAUDECODE" not in environment
    assert SESSION_VARIABLES & set(environment) == {"CLAUDE_CODE_ENTRYPOINT"}
    assert environment["CLAUDE_CODE_ENTRYPOINT"] == "mine"
    assert environment["CLAUDE_CODE_USE_BEDROCK"] == "1"
    assert environment["CLAUDE_CONFIG_DIR"] == "/somewhere"
    assert environment["EXTRA"] == "x"


async def test_it_works_in_the_project(play: Any, fake: ScriptedCli, project: Path) -> None:
    """The working directory is the project."""
    await play(*ANSWER)
    assert fake.record["cwd"] == str(project)


async def test_options_become_glued_arguments(play: Any, fake: ScriptedCli) -> None:
    """Each option is one argument, so no value can be taken for a flag."""
    session = str(uuid.uuid4())
    options = {
        "model": "--opus",
        "permission_mode": "acceptEdits",
        "allowed_tools": ["Bash(git log:*)", "Edit"],
        "disallowed_tools": "WebFetch",
        "max_turns": 5,
        "session_id": session,
        "append_system_prompt": "Be brief.",
        "args": ["--add-dir", "/x"],
    }
    run = await play(*ANSWER, options=options)
    assert fake.record["argv"][5:] == [
        "--model=--opus",
        "--permission-mode=acceptEdits",
        "--allowedTools=Bash(git log:*),Edit",
        "--disallowedTools=WebFetch",
        "--max-turns=5",
        f"--session-id={session}",
        "--append-system-prompt=Be brief.",
        "--add-dir",
        "/x",
    ]
    session_event = next(event for event in run.activities if isinstance(event, AgentSession))
    assert session_event.session_id == session


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle": "x"}, "options.modle: is not an option of claude; did you mean 'model'? known:"),
        ({"zzz": 1}, "known: allowed_tools, append_system_prompt, args, disallowed_tools"),
        ({"max_turns": 0}, "options.max_turns: must be a number >= 1, not 0"),
        ({"max_turns": True}, "options.max_turns: must be a number >= 1, not True"),
        ({"session_id": "mine"}, "options.session_id: must be a UUID"),
        ({"allowed_tools": [1]}, "options.allowed_tools[0]: must be a string"),
        ({"model": ""}, "options.model: must be a string that is not empty"),
        ({"args": ["--output-format=json"]}, "options.args: '--output-format=json' is decided"),
        ({"args": ["--", "words"]}, "options.args: '--' is decided by the plugin"),
        (
            {"resume": "abc", "session_id": "0b2a9a54-0d0c-4a53-9f70-3c8f2a1f8f10"},
            "options.session_id: a resumed session keeps its id",
        ),
    ],
)
async def test_options_that_cannot_be_used_are_named(
    play: Any, options: dict[str, Any], message: str
) -> None:
    """An unknown option, or a value of a wrong kind, fails the task with a clear message."""
    run = await play(*ANSWER, options=options)
    assert run.outcome.reason is Reason.PLUGIN_ERROR
    assert message in run.outcome.message


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"prompt": " \n"}, "prompt: must not be empty"),
        ({"prompt": "\ud800"}, "prompt: holds a lone surrogate"),
        ({"stdin": b"x"}, "stdin: claude reads its prompt there"),
        ({"argv": ["ls"]}, "argv: claude takes arguments as the option 'args'"),
    ],
)
async def test_requests_that_cannot_be_meant_are_refused(
    play: Any, request_: dict[str, Any], message: str
) -> None:
    """An empty prompt, and input that Claude would never get, fail the task with the reason."""
    run = await play(*ANSWER, **request_)
    assert run.outcome.reason is Reason.PLUGIN_ERROR
    assert message in run.outcome.message


async def test_a_new_session_has_the_uid_of_the_task(play: Any) -> None:
    """The session is known before Claude has written anything: event, uid and argv agree."""
    run = await play(*ANSWER)
    started = next(event for event in run.events if isinstance(event, TaskStarted))
    session = next(event for event in run.activities if isinstance(event, AgentSession))
    assert session.session_id == session_id_of(started.argv) == run.task.uid


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"resume": "abc"}, ["--resume=abc"]),
        ({"args": ["--continue"]}, ["--continue"]),
        ({"args": ["--resume=abc"]}, ["--resume=abc"]),
        ({"resume": "abc", "args": ["--fork-session"]}, ["--resume=abc", "--fork-session"]),
    ],
)
async def test_a_resumed_session_gets_no_new_id(
    play: Any, fake: ScriptedCli, options: dict[str, Any], arguments: list[str]
) -> None:
    """With a session to go on with, none is chosen."""
    await play(*ANSWER, options=options)
    assert fake.record["argv"][5:] == arguments


async def test_a_missing_claude_is_a_failed_start(play: Any, tmp_path: Path) -> None:
    """Without the program the task fails as `spawn_failed`, and says what was not found."""
    run = await play(*ANSWER, env={"PATH": str(tmp_path)})
    assert run.outcome.reason is Reason.SPAWN_FAILED
    assert "'claude'" in run.outcome.message


# ------------------------------------------------------------------------------------- settings


async def test_settings_are_the_defaults_of_options(
    play: Any, fake: ScriptedCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings apply where the request has no option of that name, and only there."""
    monkeypatch.setenv("EBT_CLAUDE_EXECUTABLE", str(fake.executable))
    monkeypatch.setenv("EBT_CLAUDE_MODEL", "small")
    monkeypatch.setenv("EBT_CLAUDE_MAX_TURNS", "9")
    monkeypatch.setenv("EBT_CLAUDE_ALLOWED_TOOLS", "Edit,Write")
    run = await play(*ANSWER, env={"PATH": "/nowhere"}, options={"max_turns": 2})
    assert run.outcome.reason is Reason.EXITED, run.outcome
    assert fake.record["argv"][5:8] == [
        "--model=small",
        "--allowedTools=Edit,Write",
        "--max-turns=2",
    ]


async def test_a_project_cannot_raise_its_rights(
    play: Any, fake: ScriptedCli, project: Path
) -> None:
    """Of a project's own file, model and turns are honoured; program and permissions are not."""
    (project / ".eventbus-tasks.toml").write_text(
        '[claude]\nmodel = "small"\nmax_turns = 3\nexecutable = "/bin/false"\n'
        'permission_mode = "bypassPermissions"\nallowed_tools = ["Bash"]\n'
    )
    run = await play(*ANSWER)
    assert run.outcome.reason is Reason.EXITED
    assert fake.record["argv"][5:] == [
        "--model=small",
        "--max-turns=3",
        f"--session-id={run.task.uid}",
    ]


async def test_a_program_is_never_taken_from_the_project(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path as executable is refused: it would mean a file of the project."""
    monkeypatch.setenv("EBT_CLAUDE_EXECUTABLE", "bin/claude")
    run = await play(*ANSWER)
    assert run.outcome.reason is Reason.PLUGIN_ERROR
    assert "must be an absolute path" in run.outcome.message


# ------------------------------------------------------------------------------------- stopping


class _Policies:
    """A plugin with a policy of its own."""

    POLICY = TerminationPolicy(steps=(Step(signal=10, grace=1.0),))

    @hookimpl
    def ebt_termination_policy(self, task: Task) -> TerminationPolicy:
        return self.POLICY


def _stop_at_session(task: Task, event: Any) -> None:
    if isinstance(event, AgentSession):
        task.cancel_nowait()


async def test_claude_is_stopped_by_its_own_ladder(play: Any) -> None:
    """Without another policy: SIGINT to Claude alone, then SIGTERM to the tree."""
    run = await play(init(), {"wait": "SIGINT"}, until=_stop_at_session)
    stopping = next(event for event in run.events if isinstance(event, TaskStopping))
    assert stopping.policy == eventbus_tasks_claude.POLICY


@pytest.mark.parametrize("first", ["policies", "claude"])
async def test_policies_of_other_plugins_go_first(play: Any, first: str) -> None:
    """Whatever the order of the plugins, the ladder of this one is a default."""
    plugins = {"policies": _Policies(), "claude": eventbus_tasks_claude}
    if first == "claude":
        plugins = dict(reversed(plugins.items()))
    run = await play(init(), {"wait": "SIGUSR1"}, until=_stop_at_session, plugins=plugins)
    stopping = next(event for event in run.events if isinstance(event, TaskStopping))
    assert stopping.policy == _Policies.POLICY

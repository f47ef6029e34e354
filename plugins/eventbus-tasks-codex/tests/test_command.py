"""What Codex is given: arguments, environment, standard input. The fake writes it down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from eventbus_tasks_codex.command import SESSION_VARIABLES, CodexSettings
from eventbus_tasks_codex.health import check
from fake_codex import THREAD, done, thread, turn

from eventbus_tasks import Reason, TaskStopping
from eventbus_tasks.testing.agents import ScriptedCli

pytestmark = pytest.mark.anyio

ANSWER = (thread(), turn(), done())


@pytest.mark.parametrize(
    "prompt",
    ["do it", "--help", "-", "resume --last", "two\nlines \u2028 🦊", "x" * 300 * 1024],
    ids=["plain", "flag", "dash", "command", "unicode", "300KB"],
)
async def test_the_prompt_goes_to_standard_input_and_nowhere_else(
    play: Any, fake: ScriptedCli, prompt: str
) -> None:
    """Any prompt arrives byte by byte on stdin, which then ends; no argument has it."""
    run = await play(*ANSWER, prompt=prompt)
    assert run.outcome.reason is Reason.EXITED, run.outcome
    assert fake.record["stdin"] == prompt.encode()
    assert fake.record["argv"][1:] == ["exec", "--json", "--skip-git-repo-check", "-"]


async def test_options_become_arguments(play: Any, fake: ScriptedCli) -> None:
    """Each option has its flag, with the value glued to it; a session is resumed at the end."""
    options = {
        "model": "gpt",
        "profile": "work",
        "sandbox": "workspace-write",
        "config": ["a.b=1"],
        "args": ["--add-dir", "/other"],
        "resume": THREAD,
    }
    await play(*ANSWER, options=options)
    assert fake.record["argv"][4:] == [
        "--model=gpt",
        "--profile=work",
        "--sandbox=workspace-write",
        "--config=a.b=1",
        "--add-dir",
        "/other",
        "resume",
        THREAD,
        "-",
    ]


async def test_full_access_replaces_the_sandbox(play: Any, fake: ScriptedCli) -> None:
    """Without a sandbox none is named."""
    await play(*ANSWER, options={"full_access": True, "sandbox": "read-only"})
    assert fake.record["argv"][4:] == ["--dangerously-bypass-approvals-and-sandbox", "-"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle": "x"}, "did you mean 'model'"),
        ({"model": ""}, "options.model"),
        ({"model": 3}, "options.model"),
        ({"full_access": "yes"}, "options.full_access"),
        ({"sandbox": "none"}, "options.sandbox"),
        ({"resume": "--last"}, "options.resume"),
        ({"config": [1]}, "options.config"),
        ({"args": ["--json"]}, "decided by the plugin"),
    ],
)
async def test_wrong_options(play: Any, options: dict[str, Any], message: str) -> None:
    """An option that cannot be used fails the task before anything is started."""
    run = await play(*ANSWER, options=options)
    assert run.outcome.reason is Reason.PLUGIN_ERROR
    assert message in run.outcome.message
    assert run.task.pid is None


async def test_traces_of_a_session_around_are_gone_and_configuration_stays(
    play: Any, fake: ScriptedCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started from inside Codex, the child doesn't know; what the user set, it does."""
    for name in SESSION_VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CODEX_HOME", "/somewhere")
    await play(*ANSWER, env={"CODEX_CI": "mine"})
    seen = fake.record["env"]
    assert not (SESSION_VARIABLES - {"CODEX_CI"}) & set(seen)
    assert (seen["CODEX_CI"], seen["CODEX_HOME"]) == ("mine", "/somewhere")


async def test_no_program(play: Any, tmp_path: Path) -> None:
    """Without a Codex the task fails as `spawn_failed`, and says what is missing."""
    run = await play(*ANSWER, env={"PATH": str(tmp_path)})
    assert run.outcome.reason is Reason.SPAWN_FAILED
    assert "codex" in run.outcome.message


async def test_the_ladder(play: Any) -> None:
    """A time limit ends Codex by SIGINT first; the policy is the plugin's."""
    run = await play(thread(), {"wait": "SIGINT"}, timeout=0.2)
    (stopping,) = run.of(TaskStopping)
    assert [int(step.signal) for step in stopping.policy.steps] == [2, 2, 15]
    assert run.outcome.reason is Reason.TIMED_OUT


async def test_health(fake: ScriptedCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program, its version and a login are found; without them it is said what is missing."""
    variable, file = ("CODEX_HOME", "auth.json")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "theirs"))
    monkeypatch.setenv("PATH", f"{fake.directory}{os.pathsep}{os.environ['PATH']}")
    found = check(CodexSettings())
    assert (found.program, found.version) == (str(fake.executable), "1.2.3")
    assert (found.ok, found.logged_in) == (True, None)
    assert found.known_bugs
    login = tmp_path / "theirs" / file
    login.parent.mkdir(parents=True)
    login.write_text('{"token": "secret"}')
    assert check(CodexSettings()).login == str(login)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert check(CodexSettings()).login == "OPENAI_API_KEY"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not check(CodexSettings()).ok

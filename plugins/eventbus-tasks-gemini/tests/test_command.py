"""What Gemini is given: arguments, environment, standard input. The fake writes it down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from eventbus_tasks_gemini.command import SESSION_VARIABLES, GeminiSettings
from eventbus_tasks_gemini.health import check
from fake_gemini import SESSION, init, piece, result

from eventbus_tasks import Reason, TaskStopping
from eventbus_tasks.testing.agents import ScriptedCli

pytestmark = pytest.mark.anyio

ANSWER = (init(), piece("Done."), result())


@pytest.mark.parametrize(
    "prompt",
    ["do it", "--help", "/help", "@file", "two\nlines \u2028 🦊", "x" * 300 * 1024],
    ids=["plain", "flag", "slash", "at", "unicode", "300KB"],
)
async def test_the_prompt_goes_to_standard_input_and_nowhere_else(
    play: Any, fake: ScriptedCli, prompt: str
) -> None:
    """Any prompt arrives byte by byte on stdin; the session has the task's own id."""
    run = await play(*ANSWER, prompt=prompt)
    assert run.outcome.reason is Reason.EXITED, run.outcome
    assert fake.record["stdin"] == prompt.encode()
    assert fake.record["argv"][1:] == [
        "--output-format=stream-json",
        "--skip-trust",
        f"--session-id={run.task.uid}",
    ]


async def test_options_become_arguments(play: Any, fake: ScriptedCli) -> None:
    """Each option has its flag, with the value glued to it."""
    options = {
        "model": "pro",
        "approval_mode": "yolo",
        "trust": False,
        "resume": SESSION,
        "args": ["--debug"],
    }
    await play(*ANSWER, options=options)
    assert fake.record["argv"][2:] == [
        "--model=pro",
        "--approval-mode=yolo",
        f"--resume={SESSION}",
        "--debug",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle": "x"}, "did you mean 'model'"),
        ({"approval_mode": "always"}, "options.approval_mode"),
        ({"session_id": "x"}, "must be a UUID"),
        ({"session_id": SESSION, "resume": SESSION}, "keeps its id"),
        ({"args": ["-p"]}, "decided by the plugin"),
    ],
)
async def test_wrong_options(play: Any, options: dict[str, Any], message: str) -> None:
    """An option that cannot be used fails the task before anything is started."""
    run = await play(*ANSWER, options=options)
    assert run.outcome.reason is Reason.PLUGIN_ERROR
    assert message in run.outcome.message


async def test_environment(play: Any, fake: ScriptedCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces of a session around are gone, keys stay, and there is only one process."""
    for name in SESSION_VARIABLES:
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    await play(*ANSWER)
    seen = fake.record["env"]
    assert not (SESSION_VARIABLES - {"GEMINI_CLI_NO_RELAUNCH"}) & set(seen)
    assert (seen["GEMINI_API_KEY"], seen["GEMINI_CLI_NO_RELAUNCH"]) == ("key", "true")


async def test_the_ladder(play: Any) -> None:
    """A time limit ends Gemini by SIGTERM, twice; the policy is the plugin's."""
    run = await play(init(), {"wait": "SIGTERM"}, timeout=0.2)
    (stopping,) = run.of(TaskStopping)
    assert [int(step.signal) for step in stopping.policy.steps] == [15, 15]
    assert run.outcome.reason is Reason.TIMED_OUT


async def test_health(fake: ScriptedCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program, its version and a login are found; without them it is said what is missing."""
    variable, file = ("GEMINI_CLI_HOME", ".gemini/oauth_creds.json")
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "theirs"))
    monkeypatch.setenv("PATH", f"{fake.directory}{os.pathsep}{os.environ['PATH']}")
    found = check(GeminiSettings())
    assert (found.program, found.version) == (str(fake.executable), "1.2.3")
    assert (found.ok, found.logged_in) == (True, None)
    assert found.known_bugs
    login = tmp_path / "theirs" / file
    login.parent.mkdir(parents=True)
    login.write_text('{"token": "secret"}')
    assert check(GeminiSettings()).login == str(login)
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    assert check(GeminiSettings()).login == "GEMINI_API_KEY"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not check(GeminiSettings()).ok

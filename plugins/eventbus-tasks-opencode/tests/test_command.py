"""What opencode is given: arguments, environment, standard input. The fake writes it down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from eventbus_tasks_opencode.command import SESSION_VARIABLES, OpencodeSettings
from eventbus_tasks_opencode.health import check
from fake_opencode import SESSION, finish, start, text

from eventbus_tasks import Reason, TaskStopping
from eventbus_tasks.testing.agents import ScriptedCli

pytestmark = pytest.mark.anyio

ANSWER = (start(), text("Done."), finish())


@pytest.mark.parametrize(
    "prompt",
    ["do it", "--help", "/help", "two\nlines \u2028 🦊", "x" * 300 * 1024],
    ids=["plain", "flag", "slash", "unicode", "300KB"],
)
async def test_the_prompt_goes_to_standard_input_and_nowhere_else(
    play: Any, fake: ScriptedCli, prompt: str
) -> None:
    """Any prompt arrives byte by byte on stdin, which then ends; no argument has it."""
    run = await play(*ANSWER, prompt=prompt)
    assert run.outcome.reason is Reason.EXITED, run.outcome
    assert fake.record["stdin"] == prompt.encode()
    assert fake.record["argv"][1:] == ["run", "--format=json"]


async def test_options_become_arguments(play: Any, fake: ScriptedCli) -> None:
    """Each option has its flag, with the value glued to it."""
    options = {
        "model": "a/b",
        "variant": "high",
        "mode": "plan",
        "resume": SESSION,
        "auto": True,
        "thinking": True,
        "args": ["--pure"],
    }
    await play(*ANSWER, options=options)
    assert fake.record["argv"][3:] == [
        "--model=a/b",
        "--variant=high",
        "--agent=plan",
        f"--session={SESSION}",
        "--auto",
        "--thinking",
        "--pure",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"varient": "x"}, "did you mean 'variant'"),
        ({"auto": "yes"}, "options.auto"),
        ({"args": ["--format=default"]}, "decided by the plugin"),
    ],
)
async def test_wrong_options(play: Any, options: dict[str, Any], message: str) -> None:
    """An option that cannot be used fails the task before anything is started."""
    run = await play(*ANSWER, options=options)
    assert run.outcome.reason is Reason.PLUGIN_ERROR
    assert message in run.outcome.message


async def test_traces_of_a_session_around_are_gone_and_configuration_stays(
    play: Any, fake: ScriptedCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started from inside opencode, the child doesn't know; what the user set, it does."""
    for name in SESSION_VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OPENCODE_CONFIG_CONTENT", "{}")
    await play(*ANSWER)
    assert not SESSION_VARIABLES & set(fake.record["env"])
    assert fake.record["env"]["OPENCODE_CONFIG_CONTENT"] == "{}"


async def test_the_ladder(play: Any) -> None:
    """A time limit ends opencode by SIGTERM; the policy is the plugin's."""
    run = await play(start(), {"wait": "SIGTERM"}, timeout=0.2)
    (stopping,) = run.of(TaskStopping)
    assert [(int(step.signal), step.scope) for step in stopping.policy.steps] == [(15, "tree")]
    assert run.outcome.reason is Reason.TIMED_OUT


async def test_health(fake: ScriptedCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program, its version and a login are found; without them it is said what is missing."""
    variable, file = ("XDG_DATA_HOME", "opencode/auth.json")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "theirs"))
    monkeypatch.setenv("PATH", f"{fake.directory}{os.pathsep}{os.environ['PATH']}")
    found = check(OpencodeSettings())
    assert (found.program, found.version) == (str(fake.executable), "1.2.3")
    assert (found.ok, found.logged_in) == (True, None)
    assert found.known_bugs
    login = tmp_path / "theirs" / file
    login.parent.mkdir(parents=True)
    login.write_text('{"token": "secret"}')
    assert check(OpencodeSettings()).login == str(login)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert check(OpencodeSettings()).login == "OPENAI_API_KEY"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not check(OpencodeSettings()).ok

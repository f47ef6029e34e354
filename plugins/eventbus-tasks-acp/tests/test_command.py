"""What is executed for which request, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import eventbus_tasks_acp
import pytest
from eventbus_tasks_acp import AcpSettings, health
from eventbus_tasks_acp.known import SESSION_VARIABLES
from fake_acp import Manners
from talking import PLUGINS, Talk

from eventbus_tasks import (
    AgentMessage,
    Command,
    Reason,
    Settings,
    Task,
    TaskEngine,
    TaskEvent,
    TaskStopping,
)

pytestmark = pytest.mark.anyio

AGENTS = {
    "mine": {"command": ["mine", "--acp"], "auth": "key", "description": "Mine"},
    "gemini-acp": {"command": ["/opt/gemini", "--experimental-acp"]},
}


def settings(**table: Any) -> Settings:
    """Return settings with a table ``acp``."""
    return Settings().with_tables(AcpSettings(**table))


async def build(project: Path, agent: str, **request: Any) -> Command:
    """Return the command that is built for a request."""
    async with TaskEngine(
        plugins=PLUGINS, load_installed=False, settings=settings(agents=AGENTS)
    ) as engine:
        task = await engine.spawn_task("t", "go", project, agent=agent, **request)
        await task.cancel(now=True)
        command = eventbus_tasks_acp.ebt_build_command(task)
        assert command is not None
        return command


@pytest.mark.parametrize(
    ("agent", "argv"),
    [
        ("claude-acp", ("claude-agent-acp",)),
        ("codex-acp", ("codex-acp",)),
        ("opencode-acp", ("opencode", "acp")),
        ("gemini-acp", ("/opt/gemini", "--experimental-acp")),
    ],
)
async def test_agents_have_their_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str, argv: tuple[str, ...]
) -> None:
    """Each known agent has its program and arguments; the settings may replace one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    command = await build(tmp_path, agent, options={"args": ["--more"]})
    assert command.argv == (*argv, "--more")
    assert (command.stdin, command.capture, command.stderr) == ("open", "pipe", "separate")


async def test_agents_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, talk: Talk
) -> None:
    """An agent of the user's file has a name of its own, and logs in as the file says."""
    config = tmp_path / "config.toml"
    program = talk.agent.executable
    config.write_text(f'[acp.agents.mine]\ncommand = ["{program}"]\nauth = "key"\n')
    monkeypatch.setenv("EBT_CONFIG", str(config))
    async with TaskEngine(plugins=PLUGINS, load_installed=False) as engine:
        assert "mine" in engine.plugins.agents
        env = talk.agent.environment()
        task = await engine.spawn_task("t", "say Hello.", talk.project, agent="mine", env=env)
        outcome = await task.wait()
    assert (outcome.reason, outcome.result) == (Reason.EXITED, "Hello.")
    methods = talk.agent.given_methods()
    assert methods == ["initialize", "authenticate", "session/new", "session/prompt"]
    assert talk.agent.given[1]["params"] == {"methodId": "key"}


async def test_a_login_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, talk: Talk
) -> None:
    """A login that the agent refuses fails the task, and says that it was the login."""
    config = tmp_path / "config.toml"
    config.write_text(f'[acp.agents.mine]\ncommand = ["{talk.agent.executable}"]\nauth = "key"\n')
    monkeypatch.setenv("EBT_CONFIG", str(config))
    manners = Manners(errors={"authenticate": {"code": -32603, "message": "wrong key"}})
    async with TaskEngine(plugins=PLUGINS, load_installed=False) as engine:
        env = talk.agent.environment(manners)
        task = await engine.spawn_task("t", "say Hello.", talk.project, agent="mine", env=env)
        outcome = await task.wait()
    assert outcome.message == "the login failed: wrong key"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle": "x"}, "did you mean 'mode'"),
        ({"command": ()}, "options.command"),
        ({"command": ["bin/agent"]}, "must be an absolute path"),
        ({"interactive": "yes"}, "must be true or false"),
    ],
)
async def test_wrong_options(talk: Talk, options: dict[str, Any], message: str) -> None:
    """An option that cannot be used fails the task before anything is started."""
    run = await talk.play("say Hello.", options=options)
    assert run.outcome.reason is Reason.PLUGIN_ERROR
    assert message in run.outcome.message


async def test_a_known_agent_has_its_program(tmp_path: Path) -> None:
    """The option ``command`` is for the agent ``acp`` only."""
    async with TaskEngine(plugins=PLUGINS, load_installed=False) as engine:
        options = {"command": ["true"]}
        task = await engine.spawn_task("t", "go", tmp_path, agent="codex-acp", options=options)
        outcome = await task.wait()
    assert outcome.reason is Reason.PLUGIN_ERROR
    assert "is for the agent 'acp' only" in outcome.message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("text", "must be a table"),
        ({"command": []}, "must be a list"),
        ({"command": "gemini --acp"}, "must be a list"),
        ({"command": ["x"], "auth": 7}, "must be a string"),
        ({"command": ["x"], "comand": ["y"]}, "'comand' is none of"),
    ],
)
async def test_wrong_settings(tmp_path: Path, table: Any, message: str) -> None:
    """An agent whose settings cannot be used fails its tasks, and the message names the key."""
    wrong = settings(agents={"codex-acp": table})
    async with TaskEngine(plugins=PLUGINS, load_installed=False, settings=wrong) as engine:
        task = await engine.spawn_task("t", "go", tmp_path, agent="codex-acp")
        outcome = await task.wait()
    assert outcome.reason is Reason.PLUGIN_ERROR
    assert "acp.agents.codex-acp" in outcome.message
    assert message in outcome.message


async def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces of a session around are gone; keys and the request's own variables stay."""
    for name in SESSION_VARIABLES:
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    command = await build(tmp_path, "codex-acp", env={"OURS": "1"})
    assert command.env is not None
    assert not SESSION_VARIABLES & set(command.env)
    assert (command.env["GEMINI_API_KEY"], command.env["OURS"]) == ("key", "1")


async def test_the_ladder(talk: Talk) -> None:
    """A cancel tells the agent to stop, then sends SIGTERM; the policy is the plugin's."""

    async def react(task: Task, event: TaskEvent) -> None:
        if isinstance(event, AgentMessage) and event.text == "Working":
            task.cancel_nowait()

    run = await talk.play("say Working\nwait", react)
    (stopping,) = run.of(TaskStopping)
    assert [int(step.signal) for step in stopping.policy.steps] == [0, 15, 15]
    assert "session/cancel" in talk.agent.given_methods()
    assert run.outcome.reason is Reason.CANCELLED


async def test_health(talk: Talk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An agent is asked who it is; one that is missing, or no such agent, is told apart."""
    for name, value in talk.agent.environment().items():
        monkeypatch.setenv(name, value)

    def check(*command: str) -> Any:
        table = AcpSettings(agents={"codex-acp": {"command": list(command)}})
        return eventbus_tasks_acp.ebt_check_agent("codex-acp", Settings().with_tables(table))

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = check(str(talk.agent.executable))
    assert (found.ok, found.version, found.logged_in) == (True, "1.2.3", None)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert check(str(talk.agent.executable)).login == "OPENAI_API_KEY"
    assert "there is no" in check("no-such-agent").problems[0]
    assert "does not speak the protocol" in check("true").problems[0]
    assert "must be an absolute path" in check("bin/relative").problems[0]
    monkeypatch.setattr(health, "_PATIENCE", 0.2)
    assert "has not answered 'initialize'" in check("sleep", "60").problems[0]
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o700)
    assert "cannot be run" in check(str(broken)).problems[0]
    assert eventbus_tasks_acp.ebt_check_agent("claude", Settings()) is None

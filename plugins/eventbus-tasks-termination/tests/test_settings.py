"""What people may write in the table ``[termination]``, and what it means."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest
from eventbus_tasks_termination import AGENT_LADDERS, TerminationSettings, policy_for
from eventbus_tasks_termination.parsing import parse_size, parse_step
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import Settings, SettingsError, Step, TerminationPolicy

TERM, INT = int(signal.SIGTERM), int(signal.SIGINT)


def load(project_dir: Path | None = None, **values: Any) -> TerminationSettings:
    """Return the table as it is read from arguments, and from a project's file if there is one."""
    settings = Settings.load(
        project_dir,
        tables={"termination": TerminationSettings},
        environ={},
        overrides={"termination": values},
    )
    return settings.table(TerminationSettings)


def must_policy(agent: str, **values: Any) -> TerminationPolicy:
    """Return the policy for an agent under some settings."""
    policy = policy_for(load(**values), agent)
    assert policy is not None
    return policy


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("INT:leader:5", Step(signal=INT, scope="leader", grace=5.0)),
        ("TERM", Step(signal=TERM, scope="tree", grace=7.0)),
        ("SIGTERM:group", Step(signal=TERM, scope="group", grace=7.0)),
        ("term:0.5", Step(signal=TERM, scope="tree", grace=0.5)),
        ("15:tree:0", Step(signal=TERM, scope="tree", grace=0.0)),
    ],
)
def test_step_is_read(text: str, step: Step) -> None:
    """A rung is a signal by name or number; scope and seconds may be left out."""
    assert parse_step(text, 7.0) == step


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("TREM", "did you mean 'TERM'"),
        ("KILL:tree:1", "leave it out"),
        ("STOP", "ends no process"),
        ("999", "there is no signal"),
        ("INT:everybody:5", "leader, group or tree"),
        ("INT:leader:soon", "SIGNAL:SCOPE:SECONDS"),
        ("INT:5:leader", "SIGNAL:SCOPE:SECONDS"),
        ("INT:leader:-1", ">= 0"),
        ("INT:leader:inf", ">= 0"),
        ("", "'INT:leader:5'"),
        (5, "'INT:leader:5'"),
    ],
)
def test_wrong_step_says_how_to_write_it(text: Any, hint: str) -> None:
    """A rung that cannot be used is refused with key and remedy."""
    with pytest.raises(SettingsError) as caught:
        load(agents={"claude": {"steps": [text]}})
    assert caught.value.key == "termination.agents.claude.steps"
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (1048576, 1048576),
        ("10MiB", 10 * 2**20),
        ("1.5 GB", 1_500_000_000),
        ("500 kb", 500_000),
        ("7", 7),
        ("7B", 7),
    ],
)
def test_size_is_read(value: Any, size: int) -> None:
    """A size is a number of bytes, or has a decimal or binary unit."""
    assert parse_size(value) == size


@pytest.mark.parametrize("value", [-1, True, 1.5, "much", "10 Mx", "-1MB", "", [1]])
def test_wrong_size_says_how_to_write_it(value: Any) -> None:
    """A size that cannot be read is refused with key and remedy."""
    with pytest.raises(SettingsError, match=r"termination\.max_output: .*'10MiB'"):
        load(max_output=value)


@given(st.text(max_size=30) | st.integers() | st.floats() | st.none() | st.lists(st.text()))
def test_no_value_breaks_the_parsers(value: Any) -> None:
    """Whatever is written, the parsers answer or raise `ValueError`."""
    for parse in (parse_size, lambda value: parse_step(value, 5.0)):
        with contextlib.suppress(ValueError):
            parse(value)


@pytest.mark.parametrize(
    ("table", "key", "hint"),
    [
        ({"gracee": 1}, "termination.agents.x.gracee", "did you mean 'grace'"),
        ({"timeout": -1}, "termination.agents.x.timeout", ">= 0"),
        ({"timeout": True}, "termination.agents.x.timeout", "number of seconds"),
        ({"keep": "all"}, "termination.agents.x.keep", "'stop' or 'tail'"),
        ({"steps": 5}, "termination.agents.x.steps", "list"),
        ({"after_exit": "leave"}, "termination.agents.x.after_exit", "termination.after_exit"),
        ("TERM", "termination.agents.x", "must be a table"),
    ],
)
def test_wrong_agent_table_is_refused(table: Any, key: str, hint: str) -> None:
    """The tables of agents are checked like the general one, for agents that never run, too."""
    with pytest.raises(SettingsError) as caught:
        load(agents={"x": table})
    assert caught.value.key == key
    assert hint in caught.value.problem


@pytest.mark.parametrize(
    ("key", "value"), [("grace", -1.0), ("timeout", -5.0), ("keep", "all"), ("steps", ["X"])]
)
def test_wrong_general_value_names_its_key(key: str, value: Any) -> None:
    """A value of the general table that no policy can be made of is refused."""
    with pytest.raises(SettingsError) as caught:
        load(**{key: value})
    assert caught.value.key == f"termination.{key}"


def test_defaults_say_nothing() -> None:
    """Where nothing is set and the agent is unknown, other plugins are asked."""
    assert policy_for(TerminationSettings(), "command") is None
    assert policy_for(TerminationSettings(), "somebody-else") is None
    assert policy_for(load(agents={"claude": {"timeout": 5}}), "command") is None


@pytest.mark.parametrize("agent", sorted(AGENT_LADDERS))
def test_built_in_ladder_is_a_policy(agent: str) -> None:
    """Every ladder of the table can be read, and leaves everything else at its default."""
    policy = policy_for(TerminationSettings(), agent)
    assert policy is not None
    assert policy.steps
    assert policy == TerminationPolicy(steps=policy.steps)


def test_measured_beginnings() -> None:
    """Claude and Codex get SIGINT first, Codex twice; Gemini gets its SIGTERM twice."""
    for agent in ("claude", "codex"):
        steps = must_policy(agent).steps
        assert (steps[0].signal, steps[0].scope) == (INT, "leader")
        assert (steps[-1].signal, steps[-1].scope) == (TERM, "tree")
    assert [step.signal for step in must_policy("claude").steps] == [INT, TERM]
    assert [step.signal for step in must_policy("codex").steps] == [INT, INT, TERM]
    assert [step.signal for step in must_policy("gemini").steps] == [TERM, TERM]
    assert all(step.scope != "leader" for step in must_policy("gemini").steps)


def test_grace_is_for_rungs_that_name_none() -> None:
    """A general grace fills in, also in built-in ladders; seconds that somebody wrote stay."""
    policy = must_policy("command", grace=1.5, steps=["INT:leader", "TERM:tree:9"])
    assert [step.grace for step in policy.steps] == [1.5, 9.0]
    assert [step.grace for step in must_policy("gemini", grace=1.5).steps] == [1.5, 1.5]


def test_agent_table_comes_first() -> None:
    """An agent's own values replace the general ones, one by one; the rest stays."""
    values: dict[str, Any] = {
        "timeout": 60.0,
        "idle_timeout": 30.0,
        "max_output": "1MiB",
        "steps": ["HUP:group:1"],
        "agents": {"claude": {"steps": ["QUIT:leader:3"], "timeout": 0, "max_output": 5}},
    }
    policy = must_policy("claude", **values)
    assert policy.steps == (Step(signal=int(signal.SIGQUIT), scope="leader", grace=3.0),)
    assert (policy.timeout, policy.idle_timeout, policy.max_output) == (None, 30.0, 5)
    policy = must_policy("command", **values)
    assert policy.steps == (Step(signal=int(signal.SIGHUP), scope="group", grace=1.0),)
    assert (policy.timeout, policy.idle_timeout, policy.max_output) == (60.0, 30.0, 2**20)
    # General steps do not replace what is known about an agent.
    assert must_policy("codex", **values).steps[0].signal == INT


def test_no_steps_means_sigkill_at_once() -> None:
    """An empty list of steps leaves only the SIGKILL that always follows."""
    assert must_policy("command", steps=()).steps == ()


def test_everything_else_reaches_the_policy() -> None:
    """The remaining keys have the names and meanings of the policy's fields."""
    values: dict[str, Any] = {
        "kill_wait": 1.0,
        "exit_grace": 2.0,
        "keep": "tail",
        "after_exit": "leave",
        "on_host_death": "detach",
    }
    assert must_policy("command", **values) == TerminationPolicy(**values)


def test_environment_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key but the tables of agents can be given as a variable."""
    settings = Settings.load(
        tables={"termination": TerminationSettings},
        environ={
            "EBT_TERMINATION_STEPS": "INT:leader:1, TERM",
            "EBT_TERMINATION_MAX_OUTPUT": "2 KiB",
            "EBT_TERMINATION_TIMEOUT": "9",
        },
    ).table(TerminationSettings)
    policy = policy_for(settings, "command")
    assert policy is not None
    assert [step.signal for step in policy.steps] == [INT, TERM]
    assert (policy.max_output, policy.timeout) == (2048, 9.0)


def test_project_cannot_keep_processes_alive(tmp_path: Path) -> None:
    """A cloned repository may set limits and ladders, but not let anything outlive its task."""
    (tmp_path / ".eventbus-tasks.toml").write_text(
        "[termination]\ntimeout = 5\nafter_exit = 'leave'\non_host_death = 'detach'\n"
    )
    policy = policy_for(load(tmp_path), "command")
    assert policy == TerminationPolicy(timeout=5.0)

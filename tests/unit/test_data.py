"""Policies, requests and commands as data: what is refused, and reading back."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from eventbus_tasks import (
    Command,
    InvalidRequestError,
    Outcome,
    Step,
    TaskRequest,
    TerminationPolicy,
)
from eventbus_tasks.testing.strategies import outcomes, policies


@given(policies())
def test_policy_round_trip(policy: TerminationPolicy) -> None:
    """A policy becomes JSON and the same policy again: it is carried out in another process."""
    assert TerminationPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert policy.with_changes() == policy


@given(outcomes())
def test_outcome_round_trip(outcome: Outcome) -> None:
    """An outcome becomes JSON and the same outcome again."""
    data = json.loads(json.dumps(outcome.to_dict()))
    assert Outcome.from_dict(data) == outcome
    assert data["status"] == outcome.status.value


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "fields",
    [
        {"kill_wait": -1},
        {"kill_wait": NAN},
        {"kill_wait": "5"},
        {"drain": INF},
        {"exit_grace": None},
        {"timeout": -0.1},
        {"timeout": INF},
        {"idle_timeout": NAN},
        {"max_output": -1},
        {"max_output": 1.5},
        {"after_exit": "pray"},
        {"on_host_death": "weep"},
        {"keep": "head"},
    ],
)
def test_policy_refuses(fields: dict[str, Any]) -> None:
    """A policy that cannot be carried out is refused when it is made, and when it is changed."""
    with pytest.raises(ValueError, match=next(iter(fields))):
        TerminationPolicy(**fields)
    with pytest.raises(ValueError, match=next(iter(fields))):
        TerminationPolicy().with_changes(**fields)


def test_policy_refuses_other_steps() -> None:
    """Rungs are `Step` objects; a list of them becomes a tuple."""
    with pytest.raises(TypeError, match="Step"):
        TerminationPolicy(steps=(signal.SIGTERM,))  # type: ignore[arg-type]
    policy = TerminationPolicy(steps=[Step(signal=15)])  # type: ignore[arg-type]
    assert policy.steps == (Step(signal=15),)
    assert hash(policy) == hash(TerminationPolicy(steps=(Step(signal=15),)))


@pytest.mark.parametrize("fields", [{"signal": -1}, {"signal": 999}, {"signal": 15, "grace": -1}])
def test_step_refuses(fields: dict[str, Any]) -> None:
    """A rung has a signal that exists, and a grace that can pass."""
    with pytest.raises(ValueError, match=r"."):
        Step(**fields)


def test_step_refuses_an_unknown_scope() -> None:
    """A rung goes to the leader, its group or the tree."""
    with pytest.raises(ValueError, match="scope"):
        Step(signal=15, scope="world")  # type: ignore[arg-type]


def test_unknown_field_of_a_policy() -> None:
    """A policy from a later version is an error, not half a policy."""
    with pytest.raises(TypeError):
        TerminationPolicy.from_dict({"mercy": True})


@pytest.fixture
def request_(tmp_path: Path) -> TaskRequest:
    """A request that is all right."""
    return TaskRequest(name="n", project_dir=tmp_path, argv=("true",))


def changed(request: TaskRequest, **fields: Any) -> TaskRequest:
    """Return a request with other fields."""
    values = {name: getattr(request, name) for name in TaskRequest.__slots__}
    return TaskRequest(**{**values, **fields})


def test_request_is_made_absolute(
    request_: TaskRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of an accepted request does not depend on the current one."""
    monkeypatch.chdir(tmp_path)
    assert changed(request_, project_dir=Path()).validate().project_dir == tmp_path
    (tmp_path / "sub").mkdir()
    odd = changed(request_, project_dir=Path("sub/..")).validate()
    assert odd.project_dir == tmp_path


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"argv": ()}, "argv"),
        ({"argv": ("a", "\0")}, "argv[1]"),
        ({"argv": ("a", b"b")}, "argv[1]"),
        ({"argv": ("a", "x" * 131072)}, "argv[1]"),
        ({"env": {"A": "\0"}}, "env['A']"),
        ({"env": {"=": ""}}, "env['=']"),
        ({"env": {"A" * 70000: "x" * 70000}}, "env["),
        ({"prompt": "\0"}, "prompt"),
        ({"timeout": NAN}, "timeout"),
        ({"timeout": INF}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"stdin": "text"}, "stdin"),
        ({"on_host_death": "weep"}, "on_host_death"),
        ({"project_dir": Path("/no/such")}, "project_dir"),
        ({"project_dir": Path("/etc/passwd")}, "project_dir"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_request_refuses(request_: TaskRequest, fields: dict[str, Any], field: str) -> None:
    """What no kernel can execute is refused, by the field that is wrong."""
    with pytest.raises(InvalidRequestError) as caught:
        changed(request_, **fields).validate()
    assert caught.value.field.startswith(field)
    assert str(caught.value).startswith(field)


def test_longest_argument_that_linux_takes(request_: TaskRequest) -> None:
    """The limit is the kernel's: one byte less than 128 KiB is accepted, and really executed."""
    longest = "x" * (128 * 1024 - 1)
    accepted = changed(request_, argv=("/bin/true", longest)).validate()
    assert os.spawnv(os.P_WAIT, "/bin/true", list(accepted.argv)) == 0


def test_request_round_trip_without_secrets(request_: TaskRequest) -> None:
    """A request is read back as it was, but for its environment and standard input."""
    secret = changed(
        request_,
        env={"TOKEN": "s3cret"},
        stdin=b"s3cret",
        timeout=5.0,
        policy=TerminationPolicy(drain=1),
        on_host_death="detach",
        options={"model": "m"},
    )
    text = json.dumps(secret.to_dict())
    assert "s3cret" not in text
    assert "s3cret" not in repr(secret)
    again = TaskRequest.from_dict(json.loads(text))
    assert again == secret
    assert (again.env, again.stdin) == ({}, None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"argv": ()}, "argv"),
        ({"argv": "true"}, "argv"),
        ({"argv": b"true"}, "argv"),
        ({"argv": ("",)}, "argv[0]"),
        ({"argv": ("true",), "capture": "screen"}, "capture"),
        ({"argv": ("true",), "stderr": "drop"}, "stderr"),
        ({"argv": ("true",), "stdin": "text"}, "stdin"),
        ({"argv": ("true",), "env": {"A": 1}}, "env['A']"),
        ({"argv": ("true",), "interpreter": object()}, "interpreter"),
    ],
)
def test_command_refuses(fields: dict[str, Any], field: str) -> None:
    """A command that a builder made wrongly is refused before anything runs."""
    with pytest.raises(InvalidRequestError) as caught:
        Command(**fields).validate()
    assert caught.value.field == field


def test_command_hides_secrets() -> None:
    """Environment and standard input are not in what is shown of a command."""
    command = Command(argv=("true",), env={"TOKEN": "s3cret"}, stdin=b"s3cret")
    assert "s3cret" not in repr(command)

"""The conformance classes find the faults that they are there to find, and refuse to be evaded."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from eventbus_tasks.testing.conformance import (
    Contract,
    InterpreterContract,
    overrides_with_reason,
)

SOURCE: Final = Path(__file__).with_name("bad_plugins.py")
PATIENCE: Final = 540
"""Seconds for all of them together: a guard against a hang."""

Outcomes = dict[str, dict[str, str]]


def expectations() -> dict[str, tuple[str, set[str]]]:
    """Return, by class, the kind of its plugin and the tests that must fail."""
    wanted = {}
    for node in ast.parse(SOURCE.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            head, _, names = (ast.get_docstring(node) or "").rstrip(".").partition(":")
            assert head == "Fails", node.name
            (base,) = (ast.unparse(item) for item in node.bases)
            wanted[node.name] = (base, set(names.split()) - {"nothing"})
    return wanted


EXPECTED: Final = expectations()


def selection(name: str) -> set[str]:
    """Return the tests to run of a class: those it fails; of a good one, all of its kind."""
    kind, tests = EXPECTED[name]
    return tests or {test for other, found in EXPECTED.values() if other == kind for test in found}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Run all plugins under their contracts once; return what every test said, by class."""
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "test_bad_plugins.py").write_text(SOURCE.read_text("utf-8"))
    report = folder / "report.xml"
    # One backend: the faults are those of plugins.
    chosen = [
        f"({name} and ({' or '.join(test.partition('[')[0] for test in selection(name))}))"
        for name in EXPECTED
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=8"]
    command += ["-k", f"not trio and ({' or '.join(chosen)})"]
    command += [f"--junit-xml={report}", "--rootdir", str(folder), str(folder)]
    done = subprocess.run(
        command,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1, f"{done.stdout[-3000:]}\n{done.stderr}"
    found: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        name = case.get("name", "").removeprefix("test_").replace("asyncio-", "")
        name = name.replace("-asyncio", "").replace("[asyncio]", "")
        said = [item.get("message") or "" for item in case if item.tag in ("failure", "error")]
        found.setdefault(case.get("classname", "").rpartition(".")[2], {})[name] = "\n".join(said)
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_fault_is_found(outcomes: Outcomes, name: str) -> None:
    """A plugin with one fault fails the tests about it; one without passes all of them."""
    ran = outcomes[name]
    assert selection(name) <= ran.keys()
    assert {test for test in selection(name) if ran[test]} == EXPECTED[name][1]


@pytest.mark.parametrize(
    ("name", "test", "words"),
    [
        ("TestPromptAsArgument", "prompt_is_no_argument", "--xyzzy"),
        ("TestForgetsTheEnvironment", "environment_of_the_request", "EVENTBUS_CONFORMANCE"),
        ("TestNamesNoAgent", "agent_succeeds", "ebt_register_agents"),
        ("TestRaises", "agent_succeeds", "LookupError: not today"),
        ("TestSilenceIsSuccess", "silence_is_no_success", "None lets exit status 0 be a success"),
        ("TestInvents", "success", "not an AgentActivity"),
        ("TestNoPolicyAtAll", "answer_is_data", "TerminationPolicy"),
        ("TestNobodyWaitsThatLong", "somebody_waits_for_the_end", "would take 6"),
        ("TestKnowsOnlyItsOwn", "unknown_agents_are_endured", "KeyError"),
        ("TestNamesNoTool", "permission[allow]", "say for which tool"),
        ("TestReadableByAll", "named_files_are_private", "others may use"),
        ("TestNoStoreAtAll", "store_is_asked", "OutputStore"),
        ("TestForgetsEvents", "journal_is_asked", "there are gaps"),
        ("TestReplacedWithoutReason", "overrides_have_a_reason", "without a reason"),
    ],
)
def test_fault_is_named(outcomes: Outcomes, name: str, test: str, words: str) -> None:
    """What a failing contract says leads to the fault."""
    assert words in outcomes[name][test]


def test_every_contract_has_a_bad_plugin() -> None:
    """Each conformance class is seen to fail, and its good plugin to pass."""
    text = SOURCE.read_text("utf-8")
    for contract in Contract.__subclasses__():
        if contract.__module__.startswith("eventbus_tasks.testing"):
            assert f"({contract.__name__})" in text, contract.__name__


@pytest.mark.parametrize("reason", ["", "  \n", None])
def test_reason_is_no_empty_word(reason: str) -> None:
    """A reason that says nothing is refused where it is written."""
    with pytest.raises(ValueError, match="say why"):
        overrides_with_reason(reason)


def test_guard_cannot_be_replaced() -> None:
    """A class that does away with the guard of overrides cannot be made."""
    with pytest.raises(TypeError, match="must not replace"):
        type("Sly", (InterpreterContract,), {"test_overrides_have_a_reason": lambda self: None})

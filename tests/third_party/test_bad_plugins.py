"""Every way in which an installed plugin can be bad: named, with the reason, and without harm."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

HERE: Final = Path(__file__).resolve().parent

_HEAD: Final = "from eventbus_tasks import Command, TerminationPolicy, hookimpl\n"

# Bad before anybody asks it: name → source, and what the reason must say.
BROKEN: Final[Mapping[str, tuple[str, str]]] = {
    "no-import": ("import no_such_module_of_mine", r"ModuleNotFoundError.*no_such_module_of_mine"),
    "syntax": ("def f(:", r"import failed: SyntaxError"),
    "exits": ("raise SystemExit(3)", r"import failed: SystemExit: 3"),
    "stuck-import": (
        "import threading; threading.Event().wait()",
        r"import failed: DeadlineExceededError: .*1(\.0)? s",
    ),
    "misspelt": (
        _HEAD + "@hookimpl\ndef ebt_build_comand(task): return None",
        r"there is no hook 'ebt_build_comand'; did you mean 'ebt_build_command'\?",
    ),
    "unmarked": (
        "def ebt_termination_polcy(task): return None",
        r"there is no hook 'ebt_termination_polcy'; did you mean 'ebt_termination_policy'\?",
    ),
    "wrong-argument": (
        _HEAD + "@hookimpl\ndef ebt_build_command(task, colour): return None",
        r"ebt_build_command.*colour",
    ),
    "bad-register": (
        _HEAD + "@hookimpl\ndef ebt_register_agents(register): raise OSError('no table')",
        r"OSError: no table",
    ),
    "bad-agent": (
        _HEAD + "@hookimpl\ndef ebt_register_agents(register): register('only a name')",
        r"TypeError",
    ),
    "stuck-register": (
        "import threading\n"
        + _HEAD
        + "@hookimpl\ndef ebt_register_agents(register): threading.Event().wait()",
        r"DeadlineExceededError",
    ),
    "bad-settings": (
        _HEAD
        + "from dataclasses import dataclass\n@dataclass\nclass T: key: int\n"
        + "@hookimpl\ndef ebt_register_settings(register): register('t', T)",
        r"TypeError.*key",
    ),
}

# Bad when it is asked: name → body of `ebt_build_command`, and what HandlerFailed must say.
FAILING: Final[Mapping[str, tuple[str, str]]] = {
    "raises": (_HEAD + "@hookimpl\ndef ebt_build_command(task): 1 / 0", "ZeroDivisionError"),
    "exits-later": (
        _HEAD + "@hookimpl\ndef ebt_build_command(task): raise SystemExit(7)",
        "SystemExit",
    ),
    "async": (
        _HEAD + "@hookimpl\nasync def ebt_build_command(task): return None",
        "hooks are synchronous",
    ),
    "rubbish": (
        _HEAD + "@hookimpl\ndef ebt_build_command(task): return 'rm -rf'",
        "rm -rf|Command",
    ),
    "hangs": (
        "import threading\n"
        + _HEAD
        + "@hookimpl\ndef ebt_build_command(task): threading.Event().wait()",
        "DeadlineExceeded|did not|1",
    ),
}

QUICK: Final = {"EBT_IMPORT_DEADLINE": "1", "EBT_HOOK_DEADLINE": "1"}


@pytest.fixture(scope="module")
def site(make_site: Any, distribution: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an environment with a good plugin and all bad ones, installed by pip."""
    folder = tmp_path_factory.mktemp("bad")
    sources = {name: source for name, (source, _) in {**BROKEN, **FAILING}.items()}
    folders = [distribution(folder, name, source) for name, source in sources.items()]
    good = "x = 1"
    folders += [
        distribution(folder, "no-module", good, entry="no-module=ebt_nowhere"),
        distribution(folder, "no-attribute", good, entry="no-attribute=ebt_no_attribute:plugin"),
        distribution(folder, "zz-copycat", good, entry="acme=ebt_zz_copycat"),
        distribution(folder, "impostor", good, entry="core-command=ebt_impostor"),
    ]
    return make_site(HERE / "ebt_acme", *folders)


@pytest.fixture(scope="module")
def reports(site: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what ``ebt plugins`` says about them, by distribution."""
    return site.reports(tmp_path_factory.mktemp("work"), **QUICK)


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_plugin_is_reported(reports: Any, name: str) -> None:
    """A plugin that cannot be loaded is listed by name, distribution, version and reason."""
    report = reports[f"ebt-{name}"]
    assert (report["name"], report["version"], report["state"]) == (name, "0.9", "broken")
    assert re.search(BROKEN[name][1], report["reason"]), report["reason"]


@pytest.mark.parametrize(
    ("distribution_name", "name", "words"),
    [
        ("ebt-no-module", "no-module", "ebt_nowhere"),
        ("ebt-no-attribute", "no-attribute", "plugin"),
        ("ebt-zz-copycat", "acme", "the name is taken already, by ebt-acme"),
        ("ebt-impostor", "core-command", "the name is taken already, by the core"),
    ],
)
def test_broken_entry_point_is_reported(
    reports: Any, distribution_name: str, name: str, words: str
) -> None:
    """An entry point that leads nowhere, or takes a name twice, is listed with the reason."""
    report = reports[distribution_name]
    assert (report["name"], report["state"]) == (name, "broken")
    assert words in report["reason"]


def test_others_are_active(reports: Any) -> None:
    """What is bad keeps nobody else from being loaded."""
    active = {name for name, report in reports.items() if name and report["state"] == "active"}
    assert active == {"ebt-acme", *(f"ebt-{name}" for name in FAILING)}


def test_list_for_people(site: Any, work: Path) -> None:
    """The list for people has one line for each plugin, and the reason below it."""
    unwanted = {"EBT_DISABLE_PLUGINS": "stuck-import,stuck-register"}
    done = site.ebt("plugins", cwd=work, **unwanted)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    (row,) = [number for number, line in enumerate(lines) if line.startswith("misspelt ")]
    assert lines[row].split()[:4] == ["misspelt", "broken", "ebt-misspelt", "0.9"]
    assert "did you mean 'ebt_build_command'?" in lines[row + 1]


def test_plain_command_is_not_harmed(site: Any, work: Path) -> None:
    """With all of them installed a command runs to its end, and each is named in one line."""
    done = site.ebt("run", "--", "sh", "-c", "echo works; exit 3", cwd=work, **QUICK)
    assert (done.returncode, done.stdout) == (3, "works\n")
    for name in BROKEN:
        assert len([line for line in done.stderr.splitlines() if f"'{name}'" in line]) == 1, name
    assert "Traceback" not in done.stderr


def test_good_agent_is_not_harmed(site: Any, work: Path) -> None:
    """With all of them installed the agent of the good plugin does its work."""
    done = site.ebt("run", "--agent", "acme", "good morning", cwd=work, **QUICK)
    assert (done.returncode, done.stdout) == (0, "acme heard: good morning\n")


@pytest.mark.parametrize("name", list(FAILING))
def test_failing_hook_is_reported(site: Any, work: Path, name: str) -> None:
    """A hook that fails is named, with its plugin, in one event, and the next plugin is asked."""
    done = site.ebt(
        "run",
        "--json",
        "--",
        "echo",
        "works",
        cwd=work,
        EBT_PLUGINS=name,
        **QUICK,
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (failure,) = [event for event in events if event["event"] == "handler.failed"]
    assert failure["where"] == f"hook ebt_build_command of plugin {name}"
    assert re.search(FAILING[name][1], failure["error"]), failure["error"]
    assert failure["overran"] is (name == "hangs")
    assert events[-1]["event"] == "task.completed"

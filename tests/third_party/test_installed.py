"""A stranger's wheel, installed beside the core's: its hooks are used, and chosen among others."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

HERE: Final = Path(__file__).resolve().parent

# Two plugins that drive the same agent.
RIVAL: Final = """
    import os
    from eventbus_tasks import Command, hookimpl

    @hookimpl
    def ebt_register_agents(register):
        register("twice", "driven by two plugins")

    @hookimpl
    def ebt_build_command(task):
        if task.agent == "twice":
            return Command(argv=("echo", __name__))
"""


@pytest.fixture(scope="module")
def site(make_site: Any, distribution: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an environment with a complete plugin and two rivals."""
    folder = tmp_path_factory.mktemp("rivals")
    rivals = [distribution(folder, name, RIVAL) for name in ("alpha", "beta")]
    return make_site(HERE / "ebt_acme", *rivals)


def test_plugin_is_listed(site: Any, work: Path) -> None:
    """The installed plugin is active, with its distribution, version and hooks."""
    report = site.reports(work)["ebt-acme"]
    assert (report["name"], report["version"], report["state"]) == ("acme", "3.2.1", "active")
    assert report["hooks"] == [
        "ebt_build_command",
        "ebt_register_agents",
        "ebt_register_events",
        "ebt_termination_policy",
    ]


def test_event_of_its_own_is_read_back(site: Any, work: Path) -> None:
    """An event class of the stranger, registered by its plugin, is rebuilt from its wire name."""
    code = (
        "from eventbus_tasks import PluginHost, Settings, event_from_dict\n"
        "host = PluginHost(Settings.load())\n"
        "host.load_installed()\n"
        "print(event_from_dict({'event': 'acme.greeting', 'words': 'hello'}).words)\n"
    )
    done = site.run("-c", code, cwd=work)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_command_builder_is_used(site: Any, work: Path) -> None:
    """`ebt run` runs the stranger's agent, with the prompt on its standard input."""
    done = site.ebt("run", "--agent", "acme", "good morning", cwd=work)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "acme heard: good morning\n"


def test_termination_policy_is_used(site: Any, work: Path) -> None:
    """Ctrl-C at `ebt run` reaches the agent as the one signal of the stranger's policy."""
    running = subprocess.Popen(
        [site.prefix / "bin" / "ebt", "run", "--json", "-a", "acme", "wait"],
        cwd=work,
        env=site.environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Whoever starts the tests may ignore it, and ebt would go on ignoring it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    with running:
        assert running.stdout is not None
        events = []
        for line in running.stdout:
            events.append(json.loads(line))
            if events[-1]["event"].startswith("output.") and len(events) < 100:
                running.send_signal(signal.SIGINT)
                break
        events += [json.loads(line) for line in running.stdout]
    sent = [event["signal"] for event in events if event["event"] == "task.signal_sent"]
    assert sent == [signal.SIGUSR2]
    assert events[-1]["event"] == "task.cancelled"
    assert events[-1]["outcome"]["return_code"] == 5
    assert running.returncode == 130


def answer(site: Any, work: Path, **environ: str) -> str:
    """Return which of the rivals has built the command."""
    done = site.ebt("run", "--agent", "twice", "x", cwd=work, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout.strip())


def test_rivals_are_asked_by_name(site: Any, work: Path) -> None:
    """Of two plugins for one agent the one whose name comes first is asked first."""
    assert answer(site, work) == "ebt_alpha"


def test_order_of_the_user(site: Any, work: Path, user_settings: Path) -> None:
    """The order in the user's settings decides, and a variable beats it."""
    user_settings.write_text('plugin_order = ["beta"]\n')
    assert answer(site, work) == "ebt_beta"
    assert answer(site, work, EBT_PLUGIN_ORDER="alpha,beta") == "ebt_alpha"


def test_project_has_no_say(site: Any, work: Path) -> None:
    """A project's own file cannot choose plugins: that is ignored, and said."""
    (work / ".eventbus-tasks.toml").write_text(
        'plugin_order = ["beta"]\ndisable_plugins = ["alpha"]\nplugins = ["beta"]\n'
    )
    done = site.ebt("run", "--agent", "twice", "x", cwd=work)
    assert (done.returncode, done.stdout) == (0, "ebt_alpha\n")
    for key in ("plugin_order", "disable_plugins", "plugins"):
        assert f"{key} is honoured in your own settings only" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "disabled"),
    [
        ("EBT_DISABLE_PLUGINS", "alpha", {"ebt-alpha"}),
        ("EBT_DISABLE_PLUGINS", "alpha, acme", {"ebt-alpha", "ebt-acme"}),
        ("EBT_PLUGINS", "beta", {"ebt-alpha", "ebt-acme"}),
    ],
)
def test_selection(site: Any, work: Path, variable: str, value: str, disabled: set[str]) -> None:
    """Plugins that are not wanted are not loaded, and the list says because of what."""
    assert answer(site, work, **{variable: value}) == "ebt_beta"
    found = {
        name: report
        for name, report in site.reports(work, **{variable: value}).items()
        if report["state"] == "disabled"
    }
    assert found.keys() == disabled
    assert all(variable in report["reason"] for report in found.values())


def test_no_plugins_at_all(site: Any, work: Path) -> None:
    """An empty list means none, and plain commands still run."""
    done = site.ebt("run", "--", "echo", "works", cwd=work, EBT_PLUGINS="none-of-them")
    assert (done.returncode, done.stdout, done.stderr) == (0, "works\n", "")
    done = site.ebt("run", "--agent", "acme", "x", cwd=work, EBT_PLUGINS="none-of-them")
    assert done.returncode == 2
    assert "acme" in done.stderr


def test_removal(site: Any, work: Path) -> None:
    """After pip has removed it, the agent is unknown, and nothing else is missed."""
    site.pip("uninstall", "--quiet", "--yes", "ebt-acme")
    done = site.ebt("run", "--agent", "acme", "x", cwd=work)
    assert done.returncode == 2
    assert "no plugin drives the agent 'acme'" in done.stderr
    assert answer(site, work) == "ebt_alpha"

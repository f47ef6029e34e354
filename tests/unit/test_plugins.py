"""The plugin host with plugins that are installed as distributions, good and broken ones."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from eventbus_tasks import (
    EVENT_TYPES,
    PluginError,
    PluginHost,
    PluginReport,
    Settings,
    TaskEvent,
    TaskRemoved,
    hookimpl,
)

Install = Callable[..., None]

HEAD = """
import sys, time
from dataclasses import dataclass
from eventbus_tasks import hookimpl, TaskEvent
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution with one module and one entry point, or several, for one test."""
    modules: list[str] = []
    monkeypatch.syspath_prepend(str(tmp_path))
    # Those that happen to be installed beside us are not what is tested.
    real = importlib.metadata.entry_points

    def only_ours(**options: Any) -> Any:
        if options != {"group": "eventbus_tasks"}:
            return real(**options)
        found = [
            entry
            for distribution in importlib.metadata.distributions(path=[str(tmp_path)])
            for entry in distribution.entry_points
            if entry.group == "eventbus_tasks"
        ]
        return importlib.metadata.EntryPoints(found)

    monkeypatch.setattr(importlib.metadata, "entry_points", only_ours)

    def write(name: str, code: str, *, entry: str | None = None, distribution: str = "") -> None:
        module = f"ebt_test_{name.replace('-', '_')}_{len(modules)}"
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(HEAD + textwrap.dedent(code))
        project = distribution or f"dist-{name}"
        info = tmp_path / f"{project.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[eventbus_tasks]\n{entry or name} = {module}\n")
        importlib.invalidate_caches()

    yield write
    for module in modules:
        sys.modules.pop(module, None)


def loaded(**settings: Any) -> tuple[PluginHost, dict[str, PluginReport]]:
    """Return a host that has loaded everything, and its reports by name."""
    host = PluginHost(Settings(**settings))
    host.load_builtins()
    host.load_installed()
    return host, {report.name: report for report in host.reports}


GOOD = """
@hookimpl
def ebt_describe(event):
    return "good " + event.name

@hookimpl
def ebt_register_agents(register):
    register("good-agent", "does good")
"""


def test_good_plugin(install: Install) -> None:
    """A plugin is found by its entry point, and reported with distribution, version and hooks."""
    install("good", GOOD)
    host, reports = loaded()
    assert reports["good"] == PluginReport(
        name="good",
        distribution="dist-good",
        version="1.5",
        hooks=("ebt_describe", "ebt_register_agents"),
    )
    assert reports["good"].to_dict()["state"] == "active"
    assert host.describe(TaskRemoved()) == "good task.removed"
    assert host.agents["good-agent"] == "does good"


def test_builtins_are_plugins() -> None:
    """What the core answers itself is listed first, and marked."""
    host = PluginHost(Settings())
    host.load_builtins()
    assert all(report.builtin and report.state == "active" for report in host.reports)
    assert "command" in host.agents


BROKEN: dict[str, tuple[str, str]] = {
    "import": ("import no_such_module", "No module named 'no_such_module'"),
    "syntax": ("def (", "SyntaxError"),
    "exit-at-import": ("sys.exit(3)", "SystemExit"),
    "misspelt": ("@hookimpl\ndef ebt_build_comand(task):\n    return None", "ebt_build_command"),
    "misspelt-unmarked": ("def ebt_descripe(event):\n    return 'x'", "ebt_describe"),
    "unknown-hook": ("@hookimpl\ndef ebt_make_coffee(task):\n    return None", "ebt_make_coffee"),
    "wrong-argument": ("@hookimpl\ndef ebt_describe(evnt):\n    return 'x'", "evnt"),
    "raises": (
        "@hookimpl\ndef ebt_register_agents(register):\n    raise RuntimeError('no way')",
        "no way",
    ),
    "exits": ("@hookimpl\ndef ebt_register_agents(register):\n    sys.exit('no way')", "no way"),
    "async": ("@hookimpl\nasync def ebt_register_agents(register):\n    pass", "synchronous"),
    "hangs": (
        "@hookimpl\ndef ebt_register_agents(register):\n    time.sleep(0.6)",
        "did not return",
    ),
    "hangs-at-import": ("time.sleep(0.6)", "did not return"),
    "bad-event": (
        "@hookimpl\ndef ebt_register_events(register):\n    register(int)",
        "frozen dataclass",
    ),
    "bad-table": (
        (
            "@hookimpl\ndef ebt_register_settings(register):\n"
            "    @dataclass\n    class T:\n        key: int\n    register('t', T)"
        ),
        "key",
    ),
    "table-that-is-none": (
        "@hookimpl\ndef ebt_register_settings(register):\n    register('t', dict)",
        "dataclass",
    ),
    "bad-agent": ("@hookimpl\ndef ebt_register_agents(register):\n    register()", "missing"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_plugin(install: Install, kind: str) -> None:
    """A plugin that is broken in any way is reported with the reason, and the others work."""
    code, reason = BROKEN[kind]
    install("aaa", GOOD)
    install("broken", code)
    install("zzz", GOOD.replace("good", "late"))
    host, reports = loaded(hook_deadline=0.2, import_deadline=0.2)
    report = reports["broken"]
    assert (report.state, report.distribution, report.version) == ("broken", "dist-broken", "1.5")
    assert reason in report.reason
    assert "\n" not in report.reason or kind == "syntax"
    assert report.hooks == ()
    assert reports["aaa"].state == reports["zzz"].state == "active"
    assert host.describe(TaskRemoved()) == "good task.removed"
    assert "late-agent" in host.agents
    # Abandoned calls end by themselves.
    for thread in threading.enumerate():
        if thread.name.startswith("eventbus-tasks"):
            thread.join(10)


def test_half_broken_plugin_contributes_nothing(install: Install) -> None:
    """A plugin is taken whole or not at all: what it registered before it failed is not kept."""
    install(
        "half",
        """
        @dataclass(frozen=True, kw_only=True)
        class HalfEvent(TaskEvent):
            name = "test.half"

        @hookimpl
        def ebt_register_agents(register):
            register("half-agent", "x")

        @hookimpl
        def ebt_register_events(register):
            register(HalfEvent)

        @hookimpl
        def ebt_describe(event):
            return "half"

        @hookimpl
        def ebt_register_settings(register):
            raise RuntimeError("no")
        """,
    )
    host, reports = loaded()
    assert reports["half"].state == "broken"
    assert "half-agent" not in host.agents
    assert "test.half" not in EVENT_TYPES
    assert host.describe(TaskRemoved()) == ""


def test_order(install: Install) -> None:
    """Plugins are asked by name; the setting comes before that; builtins come last."""
    for name in ("b", "a", "c"):
        install(name, f"@hookimpl\ndef ebt_describe(event):\n    return {name!r}")
    host, _ = loaded()
    assert host.describe(TaskRemoved()) == "a"
    host, _ = loaded(plugin_order=("c", "missing", "b"))
    assert host.describe(TaskRemoved()) == "c"
    host, _ = loaded(plugin_order=("c",), disable_plugins=("c",))
    assert host.describe(TaskRemoved()) == "a"


def test_disabled_and_allowed(install: Install) -> None:
    """Plugins are left out by name, or only those in a list are taken; both are reported."""
    marker = "import builtins; builtins.ebt_test_imported = True"
    install("good", GOOD)
    install("other", marker)
    _, reports = loaded(disable_plugins=("other",))
    assert reports["other"].state == "disabled"
    assert "EBT_DISABLE_PLUGINS" in reports["other"].reason
    assert reports["good"].state == "active"
    _, reports = loaded(plugins=("good",))
    assert reports["other"].state == "disabled"
    assert "EBT_PLUGINS" in reports["other"].reason
    _, reports = loaded(plugins=())
    assert {reports["good"].state, reports["other"].state} == {"disabled"}
    import builtins

    # What is disabled is not even imported.
    assert not hasattr(builtins, "ebt_test_imported")


def test_entry_point_with_the_name_of_a_builtin(install: Install) -> None:
    """A plugin whose name is taken is reported as broken; it keeps nobody from loading."""
    install("core-command", GOOD)
    install("good", GOOD)
    host, reports = loaded()
    assert reports["good"].state == "active"
    assert host.agents["good-agent"]
    assert any("taken" in report.reason for report in host.reports)


def test_two_distributions_with_one_name(install: Install) -> None:
    """Two plugins of the same name: one works, and the other is not passed over in silence."""
    install("same", GOOD, distribution="dist-one")
    install("same", GOOD, distribution="dist-two")
    host, _ = loaded()
    told = " ".join(f"{r.distribution} {r.reason}" for r in host.reports)
    assert "dist-one" in told
    assert "dist-two" in told


def test_given_plugins_are_asked_before_installed_ones(install: Install) -> None:
    """An object that a program gives answers before what is installed; its name must be free."""
    install("good", GOOD)
    host, _ = loaded()

    class Mine:
        @hookimpl
        def ebt_describe(self, event: TaskEvent) -> str:
            return "mine"

    host.register(Mine(), "mine")
    assert host.describe(TaskRemoved()) == "mine"
    with pytest.raises(PluginError, match="taken"):
        host.register(Mine(), "good")


def test_given_plugin_that_is_broken() -> None:
    """An object that is broken is refused with the reason, and nothing of it stays."""

    class Broken:
        @hookimpl
        def ebt_describe(self, event: TaskEvent) -> str:
            return "broken"

        @hookimpl
        def ebt_bild_command(self, task: object) -> None:
            return None

    host = PluginHost(Settings())
    with pytest.raises(PluginError, match="ebt_build_command"):
        host.register(Broken(), "broken")
    assert host.describe(TaskRemoved()) == ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintTable:
    """Settings of a plugin."""

    colour: str = "red"
    names: tuple[str, ...] = field(default=())


def test_contributions() -> None:
    """Tables and commands are taken over with their plugin; a name that is taken is refused."""

    class Painter:
        @hookimpl
        def ebt_register_settings(self, register: Callable[[str, type], None]) -> None:
            register("paint", PaintTable)

        @hookimpl
        def ebt_register_commands(self, register: Callable[..., None]) -> None:
            register("paint", "paints", lambda parser: parser.set_defaults(run=print))

    host = PluginHost(Settings())
    host.register(Painter(), "painter")
    assert host.tables == {"paint": PaintTable}
    assert host.commands["paint"].help == "paints"
    assert host.commands["paint"].plugin == "painter"
    with pytest.raises(PluginError, match="taken"):
        host.register(Painter(), "painter-again")
    assert Settings.load(tables=host.tables, environ={}).table(PaintTable) == PaintTable()


@pytest.mark.anyio
async def test_asking() -> None:
    """The first answer that can be used counts; each failure before it is told with its place."""
    asked: list[str] = []
    failures: list[tuple[str, str, bool]] = []

    def plugin(name: str, answer: Callable[[], Any]) -> object:
        class Plugin:
            @hookimpl
            def ebt_next_task_id(self) -> Any:
                asked.append(name)
                return answer()

        return Plugin()

    def refuse() -> Any:
        raise RuntimeError("no")

    def check(answer: Any) -> None:
        if answer < 10:
            raise ValueError("too small")

    host = PluginHost(Settings())
    host.register(plugin("last", lambda: 99), "last")
    host.register(plugin("good", lambda: 10), "good")
    host.register(plugin("small", lambda: 5), "small")
    host.register(plugin("raising", refuse), "raising")
    host.register(plugin("none", lambda: None), "none")
    answer = await host.ask(
        "ebt_next_task_id", {}, failed=lambda *args: failures.append(args), check=check
    )
    host.close()
    assert answer == 10
    assert asked == ["none", "raising", "small", "good"]
    assert failures == [
        ("hook ebt_next_task_id of plugin raising", "RuntimeError: no", False),
        ("hook ebt_next_task_id of plugin small", "ValueError: too small", False),
    ]

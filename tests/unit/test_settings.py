"""Where settings come from, which source wins, and what is said about wrong ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from eventbus_tasks import Settings, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The settings of a plugin."""

    colour: str = "red"
    count: int = 3
    loud: bool = False
    mode: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    program: Path | None = field(default=None, metadata={"user_only": True})
    limits: dict[str, Any] = field(default_factory=dict)


TABLES = {"painter": Table}


@pytest.fixture
def user(private_state: Path) -> Callable[[str], Path]:
    """Write the user's own file."""

    def write(text: str) -> Path:
        path = Path(os.environ["XDG_CONFIG_HOME"]) / "eventbus-tasks" / "config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Write the project's own file and return its directory."""

    def write(text: str, name: str = ".eventbus-tasks.toml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path

    return write


def load(project: Path | None = None, **options: Any) -> Settings:
    """Load with the table of the plugin."""
    return Settings.load(project, tables=TABLES, **options)


def test_defaults() -> None:
    """Without any source there are defaults, for every key and for tables."""
    settings = load(environ={})
    assert settings.agent == "claude"
    assert settings.plugins is None
    assert settings.table(Table) == Table()
    assert Settings.load().table(Table) == Table()


def test_precedence(
    user: Callable[[str], Path], project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defaults, user, project, variables, arguments: the later one wins, key by key."""
    user('agent = "user"\n[painter]\ncolour = "user"\ncount = 1\nloud = true\nnames = ["u"]\n')
    directory = project(
        'agent = "project"\n[painter]\ncolour = "project"\ncount = 2\nloud = false\n'
    )
    environ = {"EBT_AGENT": "variable", "EBT_PAINTER_COLOUR": "variable", "EBT_PAINTER_COUNT": "7"}
    arguments = {"agent": "argument", "painter": {"colour": "argument"}}
    assert load(environ={}).agent == "user"
    assert load(directory, environ={}).agent == "project"
    assert load(directory, environ=environ).agent == "variable"
    settings = load(directory, environ=environ, overrides=arguments)
    assert settings.agent == "argument"
    assert settings.table(Table) == Table(colour="argument", count=7, loud=False, names=("u",))
    monkeypatch.setenv("EBT_AGENT", "process")
    assert load(directory).agent == "process"


def test_pyproject(project: Callable[..., Path]) -> None:
    """A project may say it in `pyproject.toml`, too; a broken one is not our business."""
    directory = project('[tool.eventbus-tasks]\nagent = "pyproject"\n', "pyproject.toml")
    assert load(directory).agent == "pyproject"
    project('agent = "own"\n')
    assert load(directory).agent == "own"
    project("", ".eventbus-tasks.toml")
    project("not toml [", "pyproject.toml")
    assert load(directory).agent == "claude"


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ('agnet = "x"', "agnet", "agent"),
        ("hook_deadlin = 3", "hook_deadlin", "hook_deadline"),
        ('[painter]\ncolor = "x"', "painter.color", "colour"),
    ],
)
def test_unknown_key(user: Callable[[str], Path], text: str, key: str, hint: str) -> None:
    """A key that does not exist is an error that names file and key, with what may be meant."""
    path = user(text)
    with pytest.raises(SettingsError, match="did you mean") as caught:
        load()
    assert (caught.value.source, caught.value.key) == (str(path), key)
    assert repr(hint) in caught.value.problem
    assert str(path) in str(caught.value)


def test_unknown_key_without_a_likeness(user: Callable[[str], Path]) -> None:
    """Where nothing is alike the known keys are listed."""
    user("zzz = 1")
    with pytest.raises(SettingsError, match="known: agent"):
        load()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("agent = 5", "agent"),
        ('hook_deadline = "soon"', "hook_deadline"),
        ("hook_deadline = true", "hook_deadline"),
        ("hook_deadline = inf", "hook_deadline"),
        ("hook_deadline = nan", "hook_deadline"),
        ("disable_plugins = 5", "disable_plugins"),
        ("disable_plugins = [5]", "disable_plugins"),
        ("painter = 5", "painter"),
        ("[painter]\ncount = 1.5", "painter.count"),
        ('[painter]\ncount = "x"', "painter.count"),
        ('[painter]\nloud = "perhaps"', "painter.loud"),
        ("[painter]\nloud = 1", "painter.loud"),
        ('[painter]\nmode = "c"', "painter.mode"),
        ("[painter]\nlimits = 3", "painter.limits"),
    ],
)
def test_wrong_value(user: Callable[[str], Path], text: str, key: str) -> None:
    """A value of a wrong kind is an error that names file and key."""
    path = user(text)
    with pytest.raises(SettingsError) as caught:
        load()
    assert (caught.value.source, caught.value.key) == (str(path), key)


def test_wrong_variable() -> None:
    """A wrong variable is named as it is written."""
    with pytest.raises(SettingsError) as caught:
        load(environ={"EBT_PAINTER_COUNT": "many"})
    assert (caught.value.source, caught.value.key) == ("EBT_PAINTER_COUNT", "painter.count")


def test_variables() -> None:
    """Variables are text: numbers, words for yes and no, lists by commas, paths."""
    settings = load(
        environ={
            "EBT_HOOK_DEADLINE": "2.5",
            "EBT_DISABLE_PLUGINS": "a, b,,c ",
            "EBT_PLUGINS": "",
            "EBT_STATE_DIR": "~/state",
            "EBT_PAINTER_LOUD": "YES",
            "EBT_PAINTER_NAMES": "x,y",
            "EBT_UNRELATED": "not ours",
        }
    )
    assert settings.hook_deadline == 2.5
    assert settings.disable_plugins == ("a", "b", "c")
    assert settings.state_dir == Path.home() / "state"
    assert settings.table(Table) == Table(loud=True, names=("x", "y"))


def test_broken_file(user: Callable[[str], Path], project: Callable[..., Path]) -> None:
    """A file of ours that is no TOML is an error that names it."""
    directory = project("broken [")
    with pytest.raises(SettingsError, match="cannot be read") as caught:
        load(directory)
    assert caught.value.source == str(directory / ".eventbus-tasks.toml")
    path = user("also = broken")
    with pytest.raises(SettingsError) as caught:
        load()
    assert caught.value.source == str(path)


def test_named_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`EBT_CONFIG` names another file than the user's usual one."""
    (tmp_path / "mine.toml").write_text('agent = "mine"')
    monkeypatch.setenv("EBT_CONFIG", str(tmp_path / "mine.toml"))
    assert load().agent == "mine"


def test_project_may_not_choose_what_runs(
    project: Callable[..., Path], user: Callable[[str], Path]
) -> None:
    """A cloned repository chooses no plugin, program or directory: such keys are not honoured."""
    user("hook_deadline = 7\n")
    text = (
        'agent = "project"\nplugins = ["evil"]\nplugin_order = ["evil"]\n'
        'disable_plugins = ["good"]\n'
        'python = "./evil"\nstate_dir = "./here"\noutput_dir = "./here"\nhook_deadline = 99\n'
        '[painter]\nprogram = "./evil"\ncolour = "project"\n'
    )
    plain = load(environ={})
    for name in (".eventbus-tasks.toml", "pyproject.toml"):
        body = text
        if name == "pyproject.toml":
            body = "[tool.eventbus-tasks]\n" + text.replace(
                "[painter]", "[tool.eventbus-tasks.painter]"
            )
        directory = project(body, name)
        settings = load(directory, environ={})
        assert settings.agent == "project"
        assert settings.table(Table) == Table(colour="project")
        for item in fields(Settings):
            if item.metadata.get("user_only"):
                assert getattr(settings, item.name) == getattr(plain, item.name), item.name
        (directory / name).unlink()


def test_only_the_agent_is_for_projects() -> None:
    """Of the core's own keys a project sets the agent only: everything else concerns the user."""
    open_to_projects = [
        item.name
        for item in fields(Settings)
        if not item.name.startswith("_") and not item.metadata.get("user_only")
    ]
    assert open_to_projects == ["agent"]


def test_foreign_tables_are_not_judged(user: Callable[[str], Path]) -> None:
    """The table of a plugin that is not loaded here is left alone."""
    user("[disk]\nretain = 5\n")
    assert load().agent == "claude"


def test_pinned(project: Callable[..., Path]) -> None:
    """What a program decided for its engine stays decided, whatever files say later."""
    engine = Settings(hook_deadline=1.5, agent="engine")
    settings = load(project('agent = "project"')).pinned(engine)
    assert (settings.hook_deadline, settings.agent) == (1.5, "project")


def test_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without a home directory is told what to set, and needs no more than that."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "EBT_CONFIG", "EBT_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match=r"HOME.*EBT_STATE_DIR"):
        load()
    monkeypatch.setenv("EBT_STATE_DIR", str(tmp_path))
    assert load().state_dir == tmp_path

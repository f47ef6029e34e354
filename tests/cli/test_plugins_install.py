"""`ebt plugins install` in environments of every make, with installers that are real programs."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

PATIENCE: Final = 120
"""Seconds for one program: a guard against a hang."""

# Plays uv, pipx or pip: records what it got, and adds a plugin to the environment, or does as
# told. It is started by the interpreter of the tests, as the real ones are no part of the site.
INSTALLER: Final = """
import json, os, pathlib, signal, sys, time
place = pathlib.Path(os.environ["FAKE_SITE"])
names = {"UV_TOOL_DIR", "UV_TOOL_BIN_DIR", "PIPX_HOME"}
record = {"argv": sys.argv[1:], "environ": {k: v for k, v in os.environ.items() if k in names},
          "sigint": str(signal.getsignal(signal.SIGINT))}
pathlib.Path(os.environ["FAKE_RECORD"]).write_text(json.dumps(record))
how = os.environ.get("FAKE_HOW", "good")
if how.isdecimal():
    print("the installer explains itself", file=sys.stderr)
    sys.exit(int(how))
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "interrupted":
    def stop(*_):
        os.write(1, b"put in order\\n")
        os._exit(7)
    signal.signal(signal.SIGINT, stop)
    os.write(1, b"begun\\n")  # not print: the signal may come while it is writing
    while True:
        time.sleep(60)
module = "import no_such_module_of_mine" if how == "broken" else "x = 1"
if how != "nothing":
    (place / "ebt_new.py").write_text(module)
    info = place / "ebt_new-1.5.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: ebt-new\\nVersion: 1.5\\n")
    (info / "entry_points.txt").write_text("[eventbus_tasks]\\nnew = ebt_new\\n")
"""


# What `ebt plugins` needs, and nothing else of where the tests run: neither pip nor plugins.
LIBRARIES: Final = ("eventbus_tasks", "pluggy", "blinker", "anyio", "idna", "typing_extensions")


def _make_environment(prefix: Path) -> Path:
    """Make a virtual environment with the core, as venv would; return its folder for packages.

    venv itself takes half a second, most of it for pip.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = prefix / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    base = Path(sys.base_prefix) / "bin" / version
    (prefix / "bin" / "python").symlink_to(base)
    (prefix / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\n"
    )
    for name in LIBRARIES:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            origin = Path(found.origin)
            source = origin.parent if origin.name == "__init__.py" else origin
            (packages / source.name).symlink_to(source)
    return packages


class Site:
    """An environment with the core, made as an installer would, and fakes of the installers.

    Attributes:
        prefix: The environment.
        bin: Where the fakes are; the only folder on PATH.
        record: What the fake that was called has got.
    """

    def __init__(self, directory: Path, prefix: str) -> None:
        self.prefix = directory / prefix
        self.bin = directory / "fakes"
        self.bin.mkdir()
        self.home = directory / "home"
        self.cwd = directory / "work"
        self.cwd.mkdir()
        self._record = directory / "record"
        self.packages = _make_environment(self.prefix)

    def add(self, name: str) -> None:
        """Put a fake on PATH."""
        script = self.bin / name
        script.write_text(f"#!{sys.executable}\n{INSTALLER}")
        script.chmod(0o755)

    def add_pip(self) -> None:
        """Make pip importable."""
        package = self.packages / "pip"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(INSTALLER)

    def write(self, name: str, text: str) -> None:
        """Write a file into the environment."""
        (self.prefix / name).write_text(textwrap.dedent(text))

    def environ(self, **changes: str) -> dict[str, str]:
        """Return the variables for ``ebt``."""
        keep = {key: os.environ[key] for key in ("XDG_CONFIG_HOME", "EBT_STATE_DIR")}
        return {
            **keep,
            "PATH": str(self.bin),
            "HOME": str(self.home),
            "FAKE_SITE": str(self.packages),
            "FAKE_RECORD": str(self._record),
            "EBT_DISABLE_PLUGINS": os.environ.get("EBT_DISABLE_PLUGINS", ""),
            **changes,
        }

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of ``ebt plugins install``."""
        python = str(self.prefix / "bin" / "python")
        return [python, "-P", "-m", "eventbus_tasks", "plugins", "install", *arguments]

    def install(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run ``ebt plugins install`` to the end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.cwd,
            env=self.environ(**changes),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    @property
    def record(self) -> dict[str, object]:
        """What the installer has got."""
        found: dict[str, object] = json.loads(self._record.read_text())
        return found

    @property
    def was_called(self) -> bool:
        """Whether any installer has run."""
        return self._record.exists()


MakeSite = Callable[[str], Site]

RECEIPT: Final = """
    [tool]
    requirements = [
        { name = "eventbus-tasks", extras = ["cli"] },
        { name = "ebt-old", specifier = ">=1,<2" },
    ]
    entrypoints = [{ name = "ebt", install-path = "/opt/bin/ebt", from = "eventbus-tasks" }]
"""


@pytest.fixture
def make_site(tmp_path: Path) -> MakeSite:
    """Return a function that makes an environment at a path."""

    def make(prefix: str) -> Site:
        (tmp_path / prefix).parent.mkdir(parents=True, exist_ok=True)
        return Site(tmp_path, prefix)

    return make


@pytest.fixture
def uv_site(make_site: MakeSite) -> Site:
    """Return an environment of `uv tool`, in the place where uv looks for it."""
    site = make_site("home/.local/share/uv/tools/eventbus-tasks")
    site.add("uv")
    site.write("uv-receipt.toml", RECEIPT)
    return site


@pytest.fixture
def plain_site(make_site: MakeSite) -> Site:
    """Return a virtual environment with pip."""
    site = make_site("venv")
    site.add_pip()
    return site


def test_uv_tool(uv_site: Site) -> None:
    """In a `uv tool` environment uv gets what was there and the new one; the command is shown."""
    done = uv_site.install("ebt-new")
    assert (done.returncode, done.stderr) == (0, "")
    wanted = ["tool", "install", "eventbus-tasks[cli]", "--with", "ebt-old>=1,<2"]
    assert uv_site.record["argv"] == [*wanted, "--with", "ebt-new"]
    shown = shlex.split(done.stdout.splitlines()[0])
    assert shown == [
        f"UV_TOOL_BIN_DIR={'/opt/bin'}",
        str(uv_site.bin / "uv"),
        *wanted,
        "--with",
        "ebt-new",
    ]
    assert uv_site.record["environ"] == {"UV_TOOL_BIN_DIR": "/opt/bin"}


def test_new_plugins_are_told(uv_site: Site) -> None:
    """Afterwards the plugins that are new stand there with their state, and only those."""
    done = uv_site.install("ebt-new")
    assert done.stdout.splitlines()[1:] == [
        "",
        "new:",
        "NAME  STATE   DISTRIBUTION  VERSION  HOOKS",
        "new   active  ebt-new       1.5      -",
    ]


def test_broken_plugin_is_told(uv_site: Site) -> None:
    """A new plugin that does not work is named with the reason; the installer's status counts."""
    done = uv_site.install("ebt-new", FAKE_HOW="broken")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-2].split()[:2] == ["new", "broken"]
    assert "no_such_module_of_mine" in done.stdout.splitlines()[-1]


def test_what_is_no_plugin_is_told(uv_site: Site) -> None:
    """A package without a plugin is said to have none, and how ours are called."""
    done = uv_site.install("Voice", FAKE_HOW="nothing")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "no plugin has come"
    assert "Voice has no plugin for ebt; ours are called eventbus-tasks-…" in done.stderr


def test_plugin_that_was_there(uv_site: Site) -> None:
    """A plugin that was there before is shown, as nothing new."""
    assert uv_site.install("ebt-new").returncode == 0
    done = uv_site.install("ebt_New")
    assert done.stdout.splitlines()[2:][0] == "nothing is new:"
    assert done.stdout.splitlines()[-1].split()[:2] == ["new", "active"]


@pytest.mark.parametrize("kind", ["uv", "pipx", "pip"])
def test_dry_run(make_site: MakeSite, kind: str) -> None:
    """With --dry-run the command is shown, and nothing is run."""
    site = make_site("place/eventbus-tasks")
    if kind == "uv":
        site.write("uv-receipt.toml", RECEIPT)
    elif kind == "pipx":
        site.write("pipx_metadata.json", "{}")
    else:
        site.add_pip()
    for name in ("uv", "pipx"):
        site.add(name)
    done = site.install("--dry-run", "ebt-new")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert f"{kind} " in line
    assert "ebt-new" in line
    assert not site.was_called


def test_pipx(make_site: MakeSite) -> None:
    """In a pipx environment pipx gets the name of the environment, which may have a suffix."""
    site = make_site("home/.local/share/pipx/venvs/eventbus-tasks-x")
    site.add("pipx")
    site.write("pipx_metadata.json", '{"main_package": {"package": "eventbus-tasks"}}')
    done = site.install("ebt-new", "ebt-other")
    assert (done.returncode, "new " in done.stdout) == (0, True)
    assert site.record["argv"] == ["inject", "eventbus-tasks-x", "ebt-new", "ebt-other"]
    assert site.record["environ"] == {}


def test_pipx_elsewhere(make_site: MakeSite) -> None:
    """Where pipx would not look by itself, it is told where the environment is."""
    site = make_site("opt/pipx/venvs/eventbus-tasks")
    site.add("pipx")
    site.write("pipx_metadata.json", "{}")
    assert site.install("ebt-new").returncode == 0
    home = str(site.prefix.parent.parent)
    assert site.record["environ"] == {"PIPX_HOME": home}


def test_pip(plain_site: Site) -> None:
    """In any other environment its own pip is run, and nothing else is asked."""
    plain_site.add("uv")
    done = plain_site.install("ebt-new")
    assert (done.returncode, "new " in done.stdout) == (0, True)
    assert plain_site.record["argv"] == ["install", "ebt-new"]
    python = str(plain_site.prefix / "bin" / "python")
    assert shlex.split(done.stdout.splitlines()[0])[1:] == ["-P", "-m", "pip", "install", "ebt-new"]
    assert Path(shlex.split(done.stdout)[0]).parent == Path(python).parent


def test_pip_of_the_project_is_not_run(plain_site: Site) -> None:
    """A pip.py in the current directory, somebody else's project, is not what runs."""
    (plain_site.cwd / "pip.py").write_text("raise SystemExit(99)")
    assert plain_site.install("ebt-new").returncode == 0
    assert plain_site.was_called


def test_environment_without_pip(make_site: MakeSite) -> None:
    """Where there is no pip, uv installs into the environment."""
    site = make_site("venv")
    site.add("uv")
    assert site.install("ebt-new").returncode == 0
    argv = site.record["argv"]
    assert isinstance(argv, list)
    assert argv[:3] == ["pip", "install", "--python"]
    assert Path(argv[3]).parent == site.prefix / "bin"


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        ("uv-receipt.toml", 127, ["there is no uv on PATH", "uv tool install", "--with ebt-new"]),
        ("pipx_metadata.json", 127, ["there is no pipx on PATH", "pipx inject", "ebt-new"]),
        ("", 2, ["no pip in", "-m ensurepip"]),
    ],
)
def test_installer_is_missing(
    make_site: MakeSite, record: str, code: int, words: list[str]
) -> None:
    """When the tool that is needed is not there, one line says which, and what to do."""
    site = make_site("place/eventbus-tasks")
    if record:
        site.write(record, RECEIPT)
    done = site.install("ebt-new")
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
    assert not [word for word in words if word not in done.stderr]


@pytest.mark.parametrize(("how", "code"), [("3", 3), ("1", 1), ("killed", 128 + signal.SIGKILL)])
def test_installer_fails(plain_site: Site, how: str, code: int) -> None:
    """The exit code is the installer's, its own words are not lost, and nothing is listed."""
    done = plain_site.install("ebt-new", FAKE_HOW=how)
    assert done.returncode == code
    assert len(done.stdout.splitlines()) == 1
    assert f"has failed with status {code}" in done.stderr
    assert ("explains itself" in done.stderr) == how.isdecimal()


def test_nothing_goes_through_a_shell(plain_site: Site) -> None:
    """Whatever stands in a name is one word for the installer."""
    name = "ebt-new; touch harm $(touch harm) `touch harm` && 'x"
    assert plain_site.install(name).returncode == 0
    assert plain_site.record["argv"] == ["install", name]
    assert not list(plain_site.cwd.iterdir())


@pytest.mark.parametrize("name", ["", " ", "--index-url=https://example.invalid"])
def test_what_is_no_name(plain_site: Site, name: str) -> None:
    """What would be an option for the installer, or nothing, is refused."""
    done = plain_site.install("--", name)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not plain_site.was_called


def test_interruption(plain_site: Site) -> None:
    """Ctrl-C goes to the installer, which puts things in order; ebt waits for it."""
    process = subprocess.Popen(
        plain_site.command("ebt-new"),
        cwd=plain_site.cwd,
        env=plain_site.environ(FAKE_HOW="interrupted"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # Whoever starts the tests may ignore it, and ebt would go on ignoring it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "begun\n":
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does
                break
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 7, errors
    assert output == "put in order\n"
    assert "failed with status 7" in errors


SYSTEM: Final = Path("/usr/bin/python3")


def _system_is_managed() -> bool:
    if not SYSTEM.exists():
        return False
    ask = "import sys, sysconfig; print(sys.version_info >= (3, 11), sysconfig.get_path('stdlib'))"
    done = subprocess.run([SYSTEM, "-I", "-c", ask], capture_output=True, text=True)
    new, _, stdlib = done.stdout.strip().partition(" ")
    return new == "True" and (Path(stdlib) / "EXTERNALLY-MANAGED").is_file()


@pytest.mark.skipif(not _system_is_managed(), reason="/usr/bin/python3 is nobody else's")
def test_python_of_the_system(make_site: MakeSite) -> None:
    """In the system's own Python nothing is installed: one line says what to do instead."""
    site = make_site("venv")
    done = subprocess.run(
        [SYSTEM, "-P", "-m", "eventbus_tasks", "plugins", "install", "ebt-new"],
        cwd=site.cwd,
        env=site.environ(PYTHONPATH=str(site.packages)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pipx install eventbus-tasks" in done.stderr
    assert len(done.stderr.splitlines()) == 1

"""What `ebt plugins install` makes of the receipts that `uv tool` writes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_tasks._cli.installers import Place, Plan, Refusal, make_plan
from eventbus_tasks._cli.uv_receipt import requirement_name

MakePlan = Callable[..., Plan]


@pytest.fixture
def plan(tmp_path: Path) -> MakePlan:
    """Return a function that plans an installation beside a receipt."""

    def make(receipt: str, *names: str, folder: str = "eventbus-tasks", **environ: str) -> Plan:
        prefix = tmp_path / "home/.local/share/uv/tools" / folder
        prefix.mkdir(parents=True)
        (prefix / "uv-receipt.toml").write_text(textwrap.dedent(receipt))
        place = Place(
            prefix=prefix,
            base_prefix=tmp_path / "python",
            stdlib=tmp_path / "python/lib",
            executable="/nowhere/python",
            has_pip=False,
            which=lambda name: f"/bin/{name}",
            environ=environ,
            home=tmp_path / "home",
        )
        return make_plan(names or ["ebt-new"], place)

    return make


def body(plan: Plan) -> list[str]:
    """Return what stands between the tool and the new plugin."""
    assert plan.argv[:3] == ("/bin/uv", "tool", "install")
    assert plan.argv[-2:] == ("--with", "ebt-new")
    return list(plan.argv[3:-2])


@pytest.mark.parametrize(
    ("requirement", "arguments"),
    [
        ("", []),
        ('extras = ["a", "b"], specifier = ">=1,!=2"', ["--with", "ebt-old[a,b]>=1,!=2"]),
        ("marker = \"python_version >= '3.9'\"", ["--with", "ebt-old ; python_version >= '3.9'"]),
        ('directory = "/src/ebt old"', ["--with", "ebt-old @ file:///src/ebt%20old"]),
        ('path = "/w/ebt_old-1.whl"', ["--with", "ebt-old @ file:///w/ebt_old-1.whl"]),
        ('editable = "/src/old"', ["--with-editable", "/src/old"]),
        ('editable = "/src/old", extras = ["a"]', ["--with-editable", "/src/old[a]"]),
        ('url = "https://e.org/o-1.whl"', ["--with", "ebt-old @ https://e.org/o-1.whl"]),
        ('git = "https://e.org/o"', ["--with", "ebt-old @ git+https://e.org/o"]),
        (
            'git = "https://e.org/o?rev=v1&subdirectory=p#0123"',
            ["--with", "ebt-old @ git+https://e.org/o@v1#subdirectory=p"],
        ),
        (
            'git = "ssh://git@e.org/o?branch=x/y", subdirectory = "p"',
            ["--with", "ebt-old @ git+ssh://git@e.org/o@x/y#subdirectory=p"],
        ),
    ],
)
def test_requirement_is_said_again(plan: MakePlan, requirement: str, arguments: list[str]) -> None:
    """What was installed with the tool is asked for again, from the same source."""
    entry = f"{{ name = 'ebt-old', {requirement} }}" if requirement else ""
    made = plan(f"[tool]\nrequirements = [{{ name = 'eventbus-tasks' }}, {entry}]\n")
    assert body(made) == ["eventbus-tasks", *arguments]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("extras = ['cli'], specifier = '==1.2'", ["eventbus-tasks[cli]==1.2"]),
        ("directory = '/src'", ["eventbus-tasks @ file:///src"]),
        ("editable = '/src', extras = ['cli']", ["--editable", "/src[cli]"]),
    ],
)
def test_tool_is_said_again(plan: MakePlan, tool: str, arguments: list[str]) -> None:
    """The tool itself comes from where it came from, wherever in the receipt it stands."""
    made = plan(
        f"[tool]\nrequirements = [{{ name = 'ebt-old' }}, {{ name = 'eventbus-tasks', {tool} }}]\n"
    )
    assert body(made) == [*arguments, "--with", "ebt-old"]


def test_ebt_in_the_environment_of_another_tool(plan: MakePlan) -> None:
    """Where ebt was added to another tool, that tool stays, and goes on showing ebt."""
    receipt = """
        [tool]
        requirements = [{ name = "my-app" }, { name = "eventbus-tasks" }]
        entrypoints = [
            { name = "my", install-path = "/b/my", from = "my-app" },
            { name = "ebt", install-path = "/b/ebt", from = "eventbus-tasks" },
        ]
    """
    made = plan(receipt, folder="my-app")
    assert body(made) == ["my-app", "--with-executables-from", "eventbus-tasks"]


def test_python_and_options(plan: MakePlan) -> None:
    """The Python and the indexes of the environment are kept; what cannot be said is told."""
    made = plan("""
        [tool]
        requirements = [{ name = "eventbus-tasks" }]
        python = "3.12"
        constraints = []
        [tool.options]
        index = [
            { name = "mine", url = "https://i.org/simple", default = false, format = "simple" },
            { url = "https://d.org/simple", default = true },
        ]
        find-links = ["/a", "/b"]
        prerelease = "allow"
        no-build = true
        no-index = false
        config-settings = { a = "b" }
    """)
    assert body(made) == [
        *("--python", "3.12"),
        *("--index", "mine=https://i.org/simple", "--default-index", "https://d.org/simple"),
        *("--find-links", "/a", "--find-links", "/b"),
        *("--prerelease", "allow", "--no-build", "eventbus-tasks"),
    ]
    assert made.notes == ("options of the environment that are not repeated: config-settings",)


@pytest.mark.parametrize(
    ("names", "arguments"),
    [
        (["ebt-old"], ["eventbus-tasks>=1", "--with", "ebt-old==1", "--with", "ebt-b"]),
        (["Ebt_Old"], ["eventbus-tasks>=1", "--with", "ebt-old==1", "--with", "ebt-b"]),
        (["ebt-old==2"], ["eventbus-tasks>=1", "--with", "ebt-b", "--with", "ebt-old==2"]),
        (["eventbus-tasks"], ["eventbus-tasks>=1", "--with", "ebt-old==1", "--with", "ebt-b"]),
        (["eventbus-tasks==3"], ["eventbus-tasks==3", "--with", "ebt-old==1", "--with", "ebt-b"]),
        (
            ["./here"],
            ["eventbus-tasks>=1", "--with", "ebt-old==1", "--with", "ebt-b", "--with", "./here"],
        ),
    ],
)
def test_what_is_there_already(plan: MakePlan, names: list[str], arguments: list[str]) -> None:
    """A bare name changes nothing about what is pinned; a name with a version replaces it."""
    receipt = """
        [tool]
        requirements = [
            { name = "eventbus-tasks", specifier = ">=1" },
            { name = "ebt-old", specifier = "==1" },
            { name = "ebt-b" },
        ]
    """
    assert list(plan(receipt, *names).argv[3:]) == arguments


@pytest.mark.parametrize(
    ("receipt", "words"),
    [
        ("[tool]\nrequirements = [{ name = 'x' }]\nconstraints = [{ name = 'y' }]", "constraints"),
        ("[tool]\nrequirements = [{ name = 'x', index = 'z' }]", "index for x"),
        ("[tool]\nrequirements = [{ name = 'x', git = 'https://e.org/o?lfs=true' }]", "lfs for x"),
    ],
)
def test_what_cannot_be_said_again(plan: MakePlan, receipt: str, words: str) -> None:
    """Where something would be lost, nothing is run: it is named, and what to do instead."""
    with pytest.raises(Refusal) as refused:
        plan(receipt)
    assert words in str(refused.value)
    assert '"--with ebt-new" at its end' in str(refused.value)


@pytest.mark.parametrize(
    "receipt", ["", "nonsense", "[tool]\nrequirements = []", "[tool]\nrequirements = [1]"]
)
def test_receipt_that_is_broken(plan: MakePlan, receipt: str) -> None:
    """A receipt that is not understood is refused by name."""
    with pytest.raises(Refusal, match=r"cannot read .*uv-receipt\.toml"):
        plan(receipt)


def test_variables_of_the_user(plan: MakePlan, tmp_path: Path) -> None:
    """Uv is told where the tool is exactly if it would look elsewhere."""
    receipt = f"""
        [tool]
        requirements = [{{ name = "eventbus-tasks" }}]
        entrypoints = [{{ name = "ebt", install-path = "{tmp_path}/home/.local/bin/ebt" }}]
    """
    assert plan(receipt).environ == {}
    made = plan(receipt, folder="../other/eventbus-tasks", XDG_BIN_HOME="/elsewhere")
    assert made.environ == {
        "UV_TOOL_DIR": f"{tmp_path}/home/.local/share/uv/tools/../other",
        "UV_TOOL_BIN_DIR": f"{tmp_path}/home/.local/bin",
    }


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("ebt-new", "ebt-new"),
        ("Ebt_New[a]>=1,<2; python_version > '3'", "ebt-new"),
        ("ebt.new @ https://e.org/x.whl", "ebt-new"),
        ("./ebt-new", ""),
        ("/src/x", ""),
        ("src/x", ""),
        ("https://e.org/x.whl", ""),
        ("git+https://e.org/x", ""),
    ],
)
def test_name_of_a_requirement(requirement: str, name: str) -> None:
    """Names are compared as pip does; a path or an address has none."""
    assert requirement_name(requirement) == name


def test_system_python_is_refused(tmp_path: Path) -> None:
    """A Python with the distributor's mark is left alone; an environment made from it is not."""
    stdlib = tmp_path / "lib"
    stdlib.mkdir()
    (stdlib / "EXTERNALLY-MANAGED").touch()

    def place(prefix: Path) -> Place:
        return Place(
            prefix=prefix,
            base_prefix=tmp_path,
            stdlib=stdlib,
            executable="/usr/bin/python3",
            has_pip=True,
        )

    with pytest.raises(Refusal, match="pipx install eventbus-tasks") as refused:
        make_plan(["ebt-new"], place(tmp_path))
    assert refused.value.code == 2
    assert make_plan(["ebt-new"], place(tmp_path / "venv")).argv == (
        *("/usr/bin/python3", "-P", "-m", "pip", "install"),
        "ebt-new",
    )

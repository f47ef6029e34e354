"""The command line with all plugins of this repository, as a user has installed them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest

NEEDED: Final = {"claude", "disk", "termination"}

pytestmark = pytest.mark.skipif(
    not {entry.name for entry in metadata.entry_points(group="eventbus_tasks")} >= NEEDED,
    reason="needs the plugins installed: tox run -e integration",
)

FAKE_CLAUDE: Final = """\
    #!{python}
    import json, signal, sys
    if "--version" in sys.argv:
        sys.exit(print("2.1.330 (Claude Code)"))
    prompt = sys.stdin.read()
    session = {{"session_id": "5d4e7c1e-0000-4000-8000-000000000000"}}

    def write(**fields):
        print(json.dumps({{**fields, **session}}), flush=True)

    def say(*blocks):
        write(type="assistant", message={{"id": "m", "type": "message", "role": "assistant",
              "model": "fake", "content": list(blocks), "usage": {{}}}}, parent_tool_use_id=None)

    write(type="system", subtype="init", cwd=".", tools=["Bash"], mcp_servers=[], model="fake",
          permissionMode="default", apiKeySource="none", claude_code_version="2.1.330")
    say({{"type": "text", "text": "I was told: " + prompt}})
    say({{"type": "tool_use", "id": "t", "name": "Bash", "input": {{"command": "ls"}}}})
    write(type="user", message={{"role": "user", "content": [{{"tool_use_id": "t",
          "type": "tool_result", "content": "a file", "is_error": False}}]}})
    if "wait" in prompt:
        signal.pause()
    failed = "fail" in prompt
    write(type="result", subtype="success", is_error=failed, num_turns=1, duration_ms=5,
          total_cost_usd=0.01, usage={{}}, modelUsage={{}}, permission_denials=[],
          result="no credit" if failed else "It is done.")
    sys.exit(failed)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return an empty project directory."""
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


@pytest.fixture
def fake_claude(tmp_path: Path) -> str:
    """Return a PATH on which `claude` is a script of ours."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "claude"
    script.write_text(textwrap.dedent(FAKE_CLAUDE).format(python=sys.executable))
    script.chmod(0o700)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def ebt(
    project: Path, *arguments: str, stdin: str = "", path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``ebt`` to its end; the limit only guards against a hang."""
    return subprocess.run(
        [sys.executable, "-m", "eventbus_tasks", *arguments],
        cwd=project,
        env={**os.environ, "PATH": path or os.environ["PATH"]},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_all_plugins_are_active(project: Path) -> None:
    """Every plugin of this repository works beside the others."""
    done = ebt(project, "plugins", "--json")
    states = {item["name"]: (item["state"], item["reason"]) for item in json.loads(done.stdout)}
    assert {name: states[name] for name in NEEDED} == dict.fromkeys(NEEDED, ("active", ""))
    assert done.stderr == ""


def test_help_lists_what_plugins_add(project: Path) -> None:
    """The commands of the disk plugin stand in the help, and have help of their own."""
    text = ebt(project, "--help").stdout
    for command in ("run", "plugins", "ls", "show", "logs"):
        assert f"    {command} " in text
        assert ebt(project, command, "--help").returncode == 0


def test_command_is_found_again(project: Path) -> None:
    """What ran is listed, shown and printed by later processes, and stands in the project."""
    done = ebt(project, "run", "-n", "build", "--", "sh", "-c", "echo compiled; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "compiled\n", "")

    (listed,) = json.loads(ebt(project, "ls", "--json").stdout)
    assert (listed["name"], listed["status"], listed["return_code"]) == ("build", "failed", 3)
    number = str(listed["id"])
    assert "build" in ebt(project, "ls").stdout

    shown = ebt(project, "show", number)
    assert shown.returncode == 0
    assert "build" in shown.stdout
    assert ebt(project, "logs", number).stdout == "compiled\n"
    assert ebt(project, "logs", "build").stdout == "compiled\n"

    page = (project / ".claude-tasks" / f"task-{number}-output.md").read_text("utf-8")
    assert "build" in page
    assert "compiled" in page


def test_numbers_go_on_in_the_next_process(project: Path) -> None:
    """Two runs have two numbers, and both are in the list, the latest first."""
    for name in ("first", "second"):
        assert ebt(project, "run", "-n", name, "--", "true").returncode == 0
    listed = json.loads(ebt(project, "ls", "--json").stdout)
    assert [item["name"] for item in listed] == ["second", "first"]
    assert listed[0]["id"] > listed[1]["id"]


def test_agent_run(project: Path, fake_claude: str) -> None:
    """A prompt goes to the agent of the settings; what it says and its answer are printed."""
    done = ebt(project, "run", "-n", "work", "look around", path=fake_claude)
    assert done.stderr == ""
    assert done.stdout == "I was told: look around\nIt is done.\n"
    assert done.returncode == 0
    (listed,) = json.loads(ebt(project, "ls", "--json").stdout)
    assert (listed["agent"], listed["status"]) == ("claude", "completed")
    assert '"is_error": false' in ebt(project, "logs", "--raw", "work").stdout


def test_prompt_is_piped_to_the_agent(project: Path, fake_claude: str) -> None:
    """A prompt of any length comes by standard input."""
    prompt = "look\n" * 100_000
    done = ebt(project, "run", stdin=prompt, path=fake_claude)
    assert done.returncode == 0
    assert done.stdout == f"I was told: {prompt}It is done.\n"


def test_agent_events(project: Path, fake_claude: str) -> None:
    """With --json the agent's own doings are typed events, the end is the last line."""
    done = ebt(project, "run", "--json", "look around", path=fake_claude)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    names = [event["event"] for event in events]
    for name in ("agent.session", "agent.message", "agent.tool_started", "agent.tool_finished"):
        assert name in names
    assert names[-1] == "task.completed"
    assert events[-1]["outcome"]["result"] == "It is done."


def test_agent_failure(project: Path, fake_claude: str) -> None:
    """An agent that reports an error gives 1, and one line says why."""
    done = ebt(project, "run", "-n", "work", "fail please", path=fake_claude)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("ebt: work: ")
    assert "no credit" in done.stderr


def test_missing_agent_program(project: Path, tmp_path: Path) -> None:
    """Without the agent's program there is 127 and one line that says what to do."""
    done = ebt(project, "run", "look around", path=str(tmp_path))
    assert done.returncode == 127
    assert len(done.stderr.splitlines()) == 1
    assert "no program 'claude'" in done.stderr
    assert "; see: ebt agents claude; for a command put -- before it: ebt run -- " in done.stderr


def test_settings_of_plugins_are_checked(project: Path) -> None:
    """A wrong rung in a project's settings refuses the run with one line and 2."""
    (project / ".eventbus-tasks.toml").write_text("[termination]\nsteps = ['TREM']\n")
    done = ebt(project, "run", "--", "true")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "termination.steps" in done.stderr
    assert "did you mean 'TERM'" in done.stderr


def test_timeout_of_the_settings(project: Path, fake_claude: str) -> None:
    """A timeout set for the agent ends it, and what it had said is kept."""
    (project / ".eventbus-tasks.toml").write_text("[termination.agents.claude]\ntimeout = 4\n")
    done = ebt(project, "run", "-n", "slow", "wait for it", path=fake_claude)
    assert done.returncode == 124
    assert "timeout" in done.stderr
    assert "I was told" in ebt(project, "logs", "slow").stdout

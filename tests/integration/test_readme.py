"""What the README shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"


def block(name: str) -> str:
    """Return the code block behind the mark of that name."""
    pattern = rf"<!-- tested: {name} -->\n```\w+\n(.*?)```"
    found = re.search(pattern, README.read_text("utf-8"), re.DOTALL)
    assert found is not None, f"the README has no block {name!r}"
    return found.group(1)


def run(*argv: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; the limit only guards against a hang."""
    return subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_example_runs(tmp_path: Path) -> None:
    """The ten lines of Python run as they are and print what the task wrote."""
    script = tmp_path / "example.py"
    script.write_text(block("example"))
    done = run(sys.executable, str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1: hello", "completed exited ['hello']"]


@pytest.mark.parametrize("prompt", ["hello", "-v", "two\nlines"])
def test_plugin_works(tmp_path: Path, prompt: str) -> None:
    """The plugin of fifteen lines, installed, is an agent that `ebt run` uses."""
    project = tomllib.loads(block("pyproject"))["project"]
    site = tmp_path / "site"
    info = site / "ebt_shout-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "ebt_shout.py").write_text(block("plugin"))
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    entry_points = project["entry-points"]["eventbus_tasks"]
    lines = [f"{name} = {module}" for name, module in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[eventbus_tasks]", *lines, ""]))
    work = tmp_path / "work"
    work.mkdir()
    ebt = (sys.executable, "-m", "eventbus_tasks", "run", "--agent", "shout", "--", prompt)
    done = run(*ebt, cwd=work, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert prompt.upper() in done.stdout

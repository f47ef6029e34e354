"""Every code block of the documents: executed, or checked as far as it can be, with the reason."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PATIENCE: Final = 120
"""Seconds for one program: a guard against a hang."""

ELSEWHERE: Final = {
    "docs/tutorial/first-plugin.md": "executed, as a whole, by tests/third_party/test_tutorial.py",
    "docs/reference/hooks.md": "signatures, made and checked by tests/contract/test_hooks_page.py",
}

# Names that a fragment takes from the text around it; and how it comes to its end.
PRELUDES: Final = {
    "tm = TaskManager()": "",
    "async with TaskEngine() as engine:": "",
    "later = await engine.spawn_task(": """
        import os
        from eventbus_tasks.testing.agents import ScriptedCli
        claude = ScriptedCli(Path("bin").resolve(), "claude")
        os.environ |= claude.environment(
            {"line": {"type": "system", "subtype": "init", "session_id": "$SESSION"}},
            {"line": {"type": "result", "subtype": "success", "result": "x", "is_error": False}},
        )
        engine = await stack.enter_async_context(TaskEngine())
        task = await engine.spawn_task("auth", "Do it", "/project", agent="claude")
        assert (await task.wait()).result == "x"
    """,
    "from eventbus_tasks_voice import Urgency, get_voice": "",
    "async with voice.hand_over() as cues:  # asyncio or trio, any thread": """
        from eventbus_tasks_voice import get_voice
        voice = get_voice()
        voice.say("hello")
        class session:
            async def inject(text):
                assert text == "hello", text
                raise Enough
    """,
}

ONLY_CHECKED: Final = {
    # first line: why it cannot be executed; that it compiles and that its names exist is checked
    "from eventbus_tasks_voice.assistant import AssistantTools": "needs an account at OpenAI",
    # Its statements are executed by the plugin's tests/test_conversation.py.
    "from eventbus_tasks import Allow, Deny": "needs a Claude",
    # The same, by those of the plugin for ACP.
    "from eventbus_tasks import AgentInputRequired, Allow, Deny": "needs an agent",
}


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes:
        page: Where it stands, from the top of the repository.
        line: Line of its beginning.
        language: What stands behind the first fence.
        text: The code.
        mark: The comment above it.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def first(self) -> str:
        """Its first line."""
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the code blocks of some languages that nobody else executes."""
    found = []
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        text = page.read_text("utf-8")
        pattern = r"(<!-- tested: .*? -->\n)?^```(\w+)[^\n]*\n(.*?)^```$"
        for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start(2)) + 1
            block = Block(name, line, match[2], match[3], match[1] or "")
            if block.language in languages and name not in ELSEWHERE:
                found.append(block)
    return found


def is_program(block: Block) -> bool:
    """Whether it runs by itself."""
    return "anyio.run(main)" in block.text


PYTHON: Final = [block for block in blocks("python") if not block.mark]
PROGRAMS: Final = [block for block in PYTHON if is_program(block)]
FRAGMENTS: Final = [block for block in PYTHON if block.first in PRELUDES]


def run(argv: list[str], tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an empty project, where no agent is installed and nothing makes a noise."""
    nowhere = tmp_path / "empty"
    nowhere.mkdir(exist_ok=True)
    return subprocess.run(
        argv,
        cwd=tmp_path,
        env={**os.environ, "EBT_VOICE_ENABLED": "0", "PATH": f"{nowhere}", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_languages_are_known() -> None:
    """There is no block of a kind that the tests below would pass over."""
    languages = {block.language for block in blocks("python", "toml", "sh", "console", "json")}
    every = {
        match[1]
        for page in PAGES
        for match in re.finditer(r"^```(\w+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert every <= languages | {"text"}, every
    assert languages == {"python", "toml", "sh", "console"}


def test_every_block_of_python_has_its_test() -> None:
    """A block is a program, a fragment whose surroundings are known, or says why it cannot run."""
    known = {*PRELUDES, *ONLY_CHECKED}
    lost = [str(block) for block in PYTHON if not is_program(block) and block.first not in known]
    assert not lost
    assert known <= {block.first for block in PYTHON}, "no longer there, take them off the lists"
    assert all((ROOT / page).is_file() for page in ELSEWHERE)


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_program_runs(block: Block, tmp_path: Path) -> None:
    """A whole program runs as it stands there."""
    script = tmp_path / "example.py"
    script.write_text(block.text)
    done = run([sys.executable, str(script)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("block", FRAGMENTS, ids=str)
def test_fragment_runs(block: Block, tmp_path: Path) -> None:
    """A fragment runs, in the surroundings that its text speaks of; the agent is not installed."""
    project = tmp_path / "project"
    project.mkdir()
    body = textwrap.indent(textwrap.dedent(PRELUDES[block.first]) + block.text, " " * 12)
    script = tmp_path / "fragment.py"
    lines = (
        "import contextlib, anyio\n"
        "from pathlib import Path\n"
        "from eventbus_tasks import *\n"
        "class Enough(Exception): pass\n"
        "async def main():\n"
        "    async with contextlib.AsyncExitStack() as stack:\n"
        "        with contextlib.suppress(Enough):\n"
        f"{body}\n"
        "    print('all of it')\n"
        "anyio.run(main)\n"
    )
    script.write_text(lines.replace('"/project"', repr(str(project))))
    done = run([sys.executable, str(script)], tmp_path)
    assert done.returncode == 0, f"{done.stderr}\n{script.read_text()}"
    assert done.stdout.endswith("all of it\n")


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield each import, as module and name in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_names_exist(block: Block) -> None:
    """A block compiles, and what it imports is there."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    tree = compile(block.text, str(block), "exec", flags)
    assert isinstance(tree, ast.Module)
    for module, name in imported(tree):
        found = importlib.import_module(module)
        assert not name or hasattr(found, name), f"{module} has no {name}"


@pytest.mark.parametrize("block", [b for b in blocks("toml") if not b.mark], ids=str)
def test_settings_are_accepted(block: Block, tmp_path: Path) -> None:
    """A file of settings is read without a word, with the plugin that it is for."""
    config = tmp_path / "config.toml"
    config.write_text(block.text)
    ebt = [sys.executable, "-m", "eventbus_tasks"]
    done = run([*ebt, "run", "--", sys.executable, "-V"], tmp_path, EBT_CONFIG=str(config))
    assert (done.returncode, done.stderr) == (0, "")


def commands() -> list[str]:
    """Return each line of the documents that calls ``ebt``, without its comment."""
    lines = {
        line.removeprefix("$ ").strip()
        for block in blocks("sh", "console")
        for line in block.text.splitlines()
    }
    known = ("ebt ", "python3 dev.py ebt ")
    return sorted(line for line in lines if line.startswith(known))


@pytest.mark.parametrize("line", commands())
def test_command_exists(line: str, tmp_path: Path) -> None:
    """A command that is shown is there, and so is each of its options."""
    words = shlex.split(line.removeprefix("python3 dev.py "), comments=True)[1:]
    ours = words[: words.index("--")] if "--" in words else words
    deep = 2 if ours[:2] == ["plugins", "install"] else 1
    ebt = [sys.executable, "-m", "eventbus_tasks"]
    done = run([*ebt, *ours[:deep], "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    options = [word.partition("=")[0] for word in ours[deep:] if word.startswith("-")]
    missing = [
        word for word in options if not re.search(rf"(?<![\w-]){re.escape(word)}\b", done.stdout)
    ]
    assert not missing, done.stdout


def test_commands_of_developers() -> None:
    """Each environment that the documents name for `dev.py` is one of tox."""
    tox = (ROOT / "tox.ini").read_text("utf-8")
    text = "".join(block.text for block in blocks("sh", "console"))
    named = {name for found in re.findall(r" -e ([\w,-]+)", text) for name in found.split(",")}
    assert named
    for name in named - {"py311"}:
        plugin = name.startswith("eventbus-tasks-") and (ROOT / "plugins" / name).is_dir()
        assert plugin or f"[testenv:{name}]" in tox, name

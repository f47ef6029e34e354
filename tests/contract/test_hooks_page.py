"""The page of hooks says what the code says, and every hook is of use to somebody."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from eventbus_tasks import hookspecs

ROOT: Final = Path(__file__).resolve().parents[2]
HOOKS: Final = sorted(name for name in vars(hookspecs) if name.startswith("ebt_"))

# Where a hook may be implemented: by the core itself, by our plugins, by what `new-plugin` writes
# (installed and run by tests/third_party).
_CODE: Final = (
    *ROOT.glob("eventbus_tasks/builtin/*.py"),
    *ROOT.glob("plugins/*/src/**/*.py"),
)

# Hooks that no plugin of ours needs, and the test in which a real plugin implements it.
_ONLY_IN_TESTS: Final = {
    "ebt_register_events": "tests/third_party",
}


def load_generator() -> ModuleType:
    """Import docs/generate.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def implementations(*files: Path) -> set[str]:
    """Return the hooks that some files implement."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                marks = [ast.unparse(mark).partition("(")[0] for mark in node.decorator_list]
                if "hookimpl" in marks:
                    found.add(node.name)
    return found


def test_page_is_current() -> None:
    """docs/reference/hooks.md is what docs/generate.py makes of the code."""
    generator = load_generator()
    written = (ROOT / "docs" / "reference" / "hooks.md").read_text("utf-8")
    assert written == generator.hooks_page(), "run: python3 docs/generate.py"


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_is_documented(hook: str) -> None:
    """Each hook says what it answers and when it is asked, and stands on the page."""
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert any(word in text for word in ("Asked", "Called")), "say when, and in which thread"
    page = (ROOT / "docs" / "reference" / "hooks.md").read_text("utf-8")
    assert f"\n## {hook}\n" in page


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_is_implemented(hook: str) -> None:
    """Each hook has a real plugin, or the core itself, that implements it."""
    if hook in _ONLY_IN_TESTS:
        assert hook in implementations(*(ROOT / _ONLY_IN_TESTS[hook]).rglob("*.py"))
    else:
        assert hook in implementations(*_CODE)


def test_no_hook_is_unknown() -> None:
    """Nothing in our plugins is marked as a hook that does not exist."""
    assert implementations(*_CODE) <= set(HOOKS)

#!/usr/bin/env python3
"""Writes the pages that are made from the code: ``python3 docs/generate.py``.

Needs the core installed. ``tests/contract/test_hooks_page.py`` fails when a page is not current.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Final

from eventbus_tasks import hookspecs

HOOKS_PAGE: Final = Path(__file__).resolve().parent / "reference" / "hooks.md"

_INTRODUCTION: Final = """\
<!-- Made from eventbus_tasks/hookspecs.py by docs/generate.py; change it there. -->

# Hooks
"""


def hooks_page() -> str:
    """Return the page of hooks: each with its signature, kind and documentation."""
    tree = ast.parse(inspect.getsource(hookspecs))
    introduction = inspect.cleandoc(ast.get_docstring(tree) or "")
    hooks = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("ebt_")
    ]
    parts = [_INTRODUCTION, _markdown(introduction)]
    rows = [f"| [`{hook.name}`](#{hook.name}) | {_kind(hook)} |" for hook in hooks]
    parts.append("\n".join(["| hook | who is asked |", "|---|---|", *rows]))
    for hook in hooks:
        text = ast.get_docstring(hook) or ""
        parts += [f"## {hook.name}", f"```python\n{_signature(hook)}\n```"]
        parts += [f"Asked: {_kind(hook)}.", _markdown(text)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _signature(hook: ast.FunctionDef) -> str:
    line = f"def {hook.name}({ast.unparse(hook.args)}) -> {ast.unparse(hook.returns or hook.args)}"
    if len(line) <= 95:
        return line
    arguments = "".join(f"    {ast.unparse(argument)},\n" for argument in hook.args.args)
    return f"def {hook.name}(\n{arguments}) -> {ast.unparse(hook.returns or hook.args)}"


def _kind(hook: ast.FunctionDef) -> str:
    first = any("firstresult" in ast.unparse(mark) for mark in hook.decorator_list)
    return "one plugin after the other, until one answers" if first else "every plugin"


def _markdown(text: str) -> str:
    return text.replace("``", "`")


if __name__ == "__main__":
    HOOKS_PAGE.parent.mkdir(exist_ok=True)
    HOOKS_PAGE.write_text(hooks_page(), "utf-8")

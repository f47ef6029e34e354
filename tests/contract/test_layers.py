"""Who may import whom. The table is the rule; the tests only apply it."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
CORE: Final = ROOT / "eventbus_tasks"

# From the bottom to the top. A module imports from its own layer and from those below it.
LAYERS: Final[tuple[frozenset[str], ...]] = (
    # Plain values and small tools: no task, no plugin, no event loop of their own.
    frozenset(
        {
            "_input",
            "_encoding",
            "_native",
            "_threads",
            "agents",
            "command",
            "conversation",
            "errors",
            "events",
            "lifecycle",
            "lines",
            "outcome",
            "policies",
            "request",
            "text",
        }
    ),
    # What an engine is made of. `builtin` is written like plugins.
    frozenset(
        {
            "_bus",
            "_chronicle",
            "_delivery",
            "_derived",
            "_dialogue",
            "_drafts",
            "_following",
            "_history",
            "_pump",
            "_restraint",
            "builtin",
            "hookspecs",
            "output",
            "plugins",
            "settings",
            "signals",
            "task",
        }
    ),
    frozenset({"_answers", "_services", "_turns", "arrivals", "running"}),
    frozenset({"_preparing", "_sessions"}),
    frozenset({"_runner"}),
    frozenset({"_admission", "_adoption"}),
    frozenset({"engine"}),
    frozenset({"doctor", "manager"}),
    # The face re-exports what is below it.
    frozenset({"__init__"}),
    # Public, for the tests of applications and plugins.
    frozenset({"testing"}),
)

# What stands beside the layers: exactly what each of these may import, besides itself.
BESIDE: Final[dict[str, frozenset[str]]] = {
    "_process": frozenset(),
    "_cli": frozenset({"__init__"}),
    "__main__": frozenset({"_cli"}),
}

# Who may import from beside the layers.
USERS: Final[dict[str, frozenset[str]]] = {
    "_process": frozenset(
        {
            "_admission",
            "_adoption",
            "_answers",
            "_preparing",
            "_runner",
            "_sessions",
            "_turns",
            "arrivals",
            "doctor",
            "engine",
            "running",
            "testing",
        }
    ),
    "_cli": frozenset({"__main__"}),
}


class Import(NamedTuple):
    """One import statement that runs, as `importer` at `place` of `imported`."""

    importer: str
    imported: str
    place: str
    at_top: bool


def is_type_checking(node: ast.AST) -> bool:
    """Whether it is `if TYPE_CHECKING:`, whose imports never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def walk(node: ast.AST, *, at_top: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node that can run, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield other, at_top
                yield from walk(other, at_top=at_top)
            continue
        inside = at_top and not isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        )
        yield child, at_top
        yield from walk(child, at_top=inside)


def imported_names(path: Path, package: str) -> Iterator[tuple[str, int, bool]]:
    """Yield each dotted name that a file imports, with its line, and whether at the top.

    Args:
        path: The file.
        package: The package that relative imports in it start from.
    """
    for node, at_top in walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, at_top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno, at_top


def room_of(parts: tuple[str, ...]) -> str:
    """Return the module or folder directly below the core that a path or name leads to."""
    room = parts[0].removesuffix(".py") if parts else "__init__"
    exists = (CORE / room).is_dir() or (CORE / f"{room}.py").is_file()
    return room if exists else "__init__"  # else it is a name that the face exports


def core_imports() -> list[Import]:
    """Return every import of the core by the core."""
    found = []
    for path in sorted(CORE.rglob("*.py")):
        inside = path.relative_to(CORE)
        package = ".".join(("eventbus_tasks", *inside.parts[:-1]))
        for name, line, at_top in imported_names(path, package):
            head, *rest = name.split(".")
            if head == "eventbus_tasks":
                place = f"{path.relative_to(ROOT)}:{line}"
                found.append(Import(room_of(inside.parts), room_of(tuple(rest)), place, at_top))
    return found


def layer_of(room: str) -> int:
    """Return the number of the layer that a room belongs to; without a place, it is on top."""
    places = (number for number, layer in enumerate(LAYERS) if room in layer)
    return next(places, len(LAYERS))


def is_allowed(importer: str, imported: str) -> bool:
    """Whether the table lets one room import the other."""
    if importer == imported:
        return True
    if importer in BESIDE:
        return imported in BESIDE[importer]
    if imported in BESIDE:
        return importer in USERS.get(imported, ())
    return layer_of(imported) <= layer_of(importer)


def test_every_module_has_its_place() -> None:
    """Each module and folder of the core stands in the table, once."""
    rooms = {room_of(path.relative_to(CORE).parts) for path in CORE.rglob("*.py")}
    placed = [room for layer in LAYERS for room in layer] + list(BESIDE)
    assert len(placed) == len(set(placed))
    assert rooms <= set(placed), f"add to LAYERS: {sorted(rooms - set(placed))}"


def test_imports_point_downwards() -> None:
    """No import in the core goes up, and none into a private room of somebody else's."""
    wrong = [
        f"{item.place}: {item.importer} imports {item.imported}"
        for item in core_imports()
        if not is_allowed(item.importer, item.imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_have_no_cycle() -> None:
    """The modules of the core can be imported in an order in which each is complete."""
    graph: dict[str, set[str]] = {}
    for item in core_imports():
        if item.at_top and item.importer != item.imported:
            graph.setdefault(item.importer, set()).add(item.imported)
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("folder", sorted(path.name for path in (ROOT / "plugins").glob("*/")))
def test_plugins_use_only_public_names(folder: str) -> None:
    """Our own plugins do with what every plugin author has: no name that begins with `_`."""
    wrong = []
    for path in sorted((ROOT / "plugins" / folder).rglob("*.py")):
        for name, line, _ in imported_names(path, "plugin"):
            head, *rest = name.split(".")
            if head == "eventbus_tasks" and any(part.startswith("_") for part in rest):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from eventbus_tasks.events import TaskEvent", {"eventbus_tasks.events.TaskEvent"}),
        ("from . import events", {"eventbus_tasks.events"}),
        ("from ..x import y", {"x.y"}),
        ("def f():\n    import a.b", {"a.b"}),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", {"b"}),
    ],
)
def test_reader_of_imports(source: str, names: set[str], tmp_path: Path) -> None:
    """The tests above see every form of import, and none that never runs."""
    path = tmp_path / "module.py"
    path.write_text(source)
    assert {name for name, _, _ in imported_names(path, "eventbus_tasks")} == names

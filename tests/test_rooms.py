"""The table of rooms in ``docs/design.md`` holds: who imports whom, and no circle when modules are imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lit_sdpo"


@cache
def modules(root: Path) -> dict[str, ast.Module]:
    """All modules of the package by their dotted name without its own, which is the empty one's."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts).removesuffix("__init__").rstrip(".")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def statements(node: ast.AST, *, at_import: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports in a module; ``at_import`` leaves out those in functions and for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not (at_import and (for_types or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))):
            yield from statements(child, at_import=at_import)


def imported(tree: ast.Module, known: Mapping[str, ast.Module], *, at_import: bool) -> set[str]:
    """Modules of the package that a module imports."""
    names: set[str] = set()
    for statement in statements(tree, at_import=at_import):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif statement.level == 0 and statement.module:
            for alias in statement.names:
                whole = f"{statement.module}.{alias.name}"
                names.add(whole if whole.removeprefix(f"{PACKAGE}.") in known else statement.module)
    own = {name.removeprefix(PACKAGE).lstrip(".") for name in names if name.partition(".")[0] == PACKAGE}
    assert own <= known.keys(), own - known.keys()
    return own


class Rooms:
    """The table: rows of rooms, and what each may import besides itself and the ground, its first row."""

    def __init__(self, text: str) -> None:
        table = text.partition("## Rooms")[2].partition("\n## ")[0]
        rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
        self.rows = [(self.names(first), self.names(last), last.strip()) for first, _, last in rows]

    @staticmethod
    def names(cell: str) -> list[str]:
        """``rewards/registry.py`` as ``rewards.registry``."""
        quoted = (name.removesuffix(".py").removesuffix("/") for name in re.findall(r"`([\w/]+(?:\.py)?)`", cell))
        return [name.replace("/", ".") for name in quoted]

    def allowed(self, module: str) -> list[str] | None:
        """What a module may import, ``None`` for everything."""
        (number,) = (n for n, (own, _, _) in enumerate(self.rows) if within(module, own))
        own, named, words = self.rows[number]
        above = [name for rooms, _, _ in self.rows[:number] for name in rooms] if "all above" in words else []
        if "everything" in words:
            return None
        if "nothing" in words:
            return own
        return [*self.rows[0][0], *own, *named, *above]


def within(module: str, rooms: list[str]) -> bool:
    """Whether a module lies in one of some rooms."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def against_the_table(root: Path, rooms: Rooms) -> list[str]:
    """Every import that the table does not have."""
    known = modules(root)
    found = []
    for module, tree in known.items():
        if module and (allowed := rooms.allowed(module)) is not None:
            # The package itself is its version and its names; what a name stands for is imported where it is used.
            others = sorted(imported(tree, known, at_import=False) - {""})
            found += [f"{module} imports {other}" for other in others if not within(other, allowed)]
    return found


@pytest.fixture(scope="module")
def rooms():
    return Rooms((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))


def test_every_module_is_in_one_row_and_every_name_of_the_table_is_there(rooms):
    known = modules(ROOT).keys() - {""}
    listed = [name for own, _, _ in rooms.rows for name in own]
    assert [module for module in known if sum(within(module, [name]) for name in listed) != 1] == []
    assert [name for own, named, _ in rooms.rows for name in (*own, *named) if name not in known] == []


def test_nothing_imports_against_the_table(rooms):
    assert against_the_table(ROOT, rooms) == []


def test_modules_import_one_another_in_no_circle():
    known = modules(ROOT)
    graph = {}
    for module, tree in known.items():
        wanted = imported(tree, known, at_import=True)
        # Importing a.b runs a too, but for a itself and what lies in it.
        above = {name.rpartition(".")[0] for name in wanted if "." in name}
        graph[module] = wanted | {name for name in above if not within(module, [name])} - {""}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_an_import_against_the_table_is_found(tmp_path):
    table = "## Rooms\n| `low/` | - | nothing |\n| `mid/`, `rest.py` | - | `low/` |\n| `top/` | - | all above |\n"
    files = {"low/a": "import lit_sdpo.top.a", "mid/a": "def f():\n    from lit_sdpo.top import a", "rest": ""}
    files |= {"top/a": "from lit_sdpo.low.a import x\nfrom lit_sdpo import rest", "__init__": "", "top/__init__": ""}
    for name, text in files.items():
        path = tmp_path / PACKAGE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert against_the_table(tmp_path, Rooms(table)) == ["low.a imports top.a", "mid.a imports top.a"]

"""The layers: who may import whom, found by reading the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom to the top; a module imports from its own layer and from those above it in this list.
LAYERS = [
    {"_core", "draws", "errors", "dtypes", "threads"},
    {"backend"},
    {"ops", "kernels"},  # minigrad.backend.cuda, which registers its kernels, and is loaded when a GPU is asked for
    {"tensor", "inplace", "protocols"},
    {"autograd", "cuda", "function", "random"},
    {"nn"},
    {"optim", "amp", "data"},
    {"train", "parallel", "launch", "compress", "knowledge", "models", "io"},
    {"testing"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
LONGEST = 500
LONG = {"tensor.py", "autograd.py", "random.py"}  # one noun each, and a method or function is mostly its documentation


def sources() -> list[Path]:
    """Every module of the package but the top one, which re-exports."""
    found = [*(ROOT / "minigrad").rglob("*.py"), *(ROOT / "nn").rglob("*.py")]
    return sorted(path for path in found if path != ROOT / "minigrad" / "__init__.py")


def layer_of(path: Path) -> str:
    """The first name below minigrad that a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[:3] == ("minigrad", "backend", "cuda"):
        return "kernels"
    return "nn" if parts[0] == "nn" else parts[1]


def typing_only(tree: ast.Module) -> set[ast.AST]:
    """What stands under ``if TYPE_CHECKING``."""
    branches = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    guarded = [node for node in branches if ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for node in guarded for part in node.body for inner in ast.walk(part)}


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of what is imported at run time; a name from a package counts as a module of it."""
    skipped = typing_only(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def each_source(function: object) -> object:
    """A test for every module."""
    return pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))(function)


@each_source
def test_imports_point_downward(path: Path) -> None:
    rank = RANK[layer_of(path)]
    for line, name in imported(ast.parse(path.read_text())):
        assert not name.startswith("."), f"line {line}: a relative import"
        parts = name.split(".")
        if parts[0] == "minigrad":
            assert len(parts) > 1 or layer_of(path) == "testing", f"line {line}: imports the whole of minigrad"
            assert parts[1] in RANK, f"line {line}: {name} is not a layer"
            assert RANK[parts[1]] <= rank, f"line {line}: {layer_of(path)} imports {parts[1]}, which lies above it"


@each_source
def test_optional_packages_stay_in_their_place(path: Path) -> None:
    """Only a backend imports CuPy, and nothing needs the packages of the tests but the strategies."""
    for line, name in imported(ast.parse(path.read_text())):
        package = name.split(".")[0]
        if package in ("cupy", "cupyx"):
            assert layer_of(path) in ("backend", "kernels"), f"line {line}: imports {package}"
        if package in ("hypothesis", "pytest"):
            assert path.name == "strategies.py", f"line {line}: imports {package}"
        assert package not in ("torch", "jax", "tensorflow"), f"line {line}: imports {package}"


@each_source
def test_files_are_short(path: Path) -> None:
    length = len(path.read_text().splitlines())
    assert length <= (2 * LONGEST if path.name in LONG else LONGEST), f"{length} lines; split it by its nouns"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "minigrad" / "_core").rglob("*.p[yx][xdi]")), ids=lambda path: path.name
)
def test_the_core_knows_nothing_above_it(path: Path) -> None:
    for found in re.finditer(r"^\s*(?:from|c?import)\s+minigrad\.(\w+)", path.read_text(), re.MULTILINE):
        assert RANK[found[1]] == 0, found[0]


def test_a_fault_would_be_found() -> None:
    """The walk sees imports in functions, resolves names, and leaves typing alone."""
    source = (
        "if TYPE_CHECKING:\n    from minigrad.tensor import Tensor\n"
        "def f():\n    from minigrad import nn\n    import minigrad.models.vision\n"
    )
    assert [name for _, name in imported(ast.parse(source))] == ["minigrad.nn", "minigrad.models.vision"]
    assert RANK["nn"] > RANK["ops"] > RANK["backend"] > RANK["_core"]


@each_source
def test_no_inner_function_calls_itself(path: Path) -> None:
    """Its cell would hold itself, and all that it sees, until the garbage collector comes."""
    for outer in ast.walk(ast.parse(path.read_text())):
        if not isinstance(outer, ast.FunctionDef):
            continue
        for inner in (node for node in ast.walk(outer) if isinstance(node, ast.FunctionDef) and node is not outer):
            names = {node.id for part in inner.body for node in ast.walk(part) if isinstance(node, ast.Name)}
            assert inner.name not in names, f"line {inner.lineno}: {inner.name} in {outer.name}"

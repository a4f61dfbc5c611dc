"""Imports run downwards in the layout's list only, and no module needs one that needs it."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.core, pytest.mark.repository]

ROOT = Path(__file__).parents[1]
LAYERS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"demo"},
    {"testing"},
    {"benchmark"},
    {"diagnostics"},
    {"trainers", "transformers", "detectors"},
    {"attacks", "evaluation"},
    {"deployment"},
    {"estimators"},
    {"frontends"},
    {"quantization"},
    {"backbones", "preprocessors", "postprocessors"},
)  # what is not named is below all of them


@cache
def imports():
    """Returns {module: [(what it imports, whether for types only)]}, imports inside functions included.

    `qadv` itself is left out: its public names are loaded when they are asked for.
    """
    paths = {path.relative_to(ROOT).with_suffix(""): path for path in (ROOT / "qadv").rglob("*.py")}
    files = {".".join(parts.parts).removesuffix(".__init__"): path for parts, path in paths.items()}
    del files["qadv"]
    return {module: list(_imports(ast.parse(path.read_text("utf-8")), files)) for module, path in files.items()}


def _imports(node, files, for_types=False):
    if isinstance(node, ast.Import | ast.ImportFrom):
        start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for name in {_module(start + alias.name, files) for alias in node.names}:
            if name:
                yield name, for_types
    for_types = for_types or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr | ast.arguments):  # no import stands in there
            continue
        yield from _imports(child, files, for_types)


def _module(name, files):
    while name and name not in files:
        name = name.rpartition(".")[0]
    return name


def test_no_module_needs_one_that_needs_it():
    """What is imported for types only is not needed when the program runs."""
    needed = {one: {other for other, for_types in found if not for_types} for one, found in imports().items()}
    assert sum(map(len, needed.values())) > 500
    TopologicalSorter(needed).prepare()  # raises CycleError, which names the modules


def test_imports_run_downwards_and_never_sideways():
    """For types too: what a module has to know of another is what it stands on."""
    place = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    wrong = []
    for one, found in imports().items():
        for other, _ in found:
            parts = one.split(".")[1], other.split(".")[1]
            above, below = (place.get(part, len(LAYERS)) for part in parts)
            if above > below or (above == below < len(LAYERS) and parts[0] != parts[1]):
                wrong.append(f"{one} imports {other}")
    assert not wrong

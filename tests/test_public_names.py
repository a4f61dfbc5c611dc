"""What plugins import from qadv is public: qadv's own names, and those in `__all__` of the packages below it."""

import ast
import importlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.repository

ROOT = Path(__file__).parent.parent
PLUGINS = [
    ROOT / "examples" / "own_plugin",
    *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml")),
]
TEMPLATES = sorted((ROOT / "qadv" / "scaffold" / "templates").rglob("*.jinja"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def not_public(source: str) -> list[str]:
    """Returns the imports from qadv, in a module's source, that are not public."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names if alias.name.partition(".")[0] == "qadv"]
            found += [f"import {name}" for name in modules if name.count(".") > 1 or "._" in name]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "qadv":
            for name in [alias.name for alias in node.names]:
                if not is_public(str(node.module), name):
                    found.append(f"from {node.module} import {name}")
    return found


def is_public(module: str, name: str) -> bool:
    if module.count(".") > 1 or name.startswith("_"):
        return False
    found = importlib.import_module(module)
    return name in getattr(found, "__all__", vars(found))


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugins_import_public_names_only(plugin):
    paths = [path for path in sorted(plugin.rglob("*.py")) if ".venv" not in path.parts and "build" not in path.parts]
    assert paths
    assert {str(p.relative_to(plugin)): found for p in paths if (found := not_public(p.read_text()))} == {}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_what_new_plugin_writes_imports_public_names_only(template):
    imports = re.findall(r"^(?:from|import) qadv.*$", template.read_text(), re.MULTILINE)
    plain = [line for line in imports if "{" not in line]
    assert [found for line in plain for found in not_public(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_documentation_shows_public_names_only(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        assert not_public(block) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import qadv\nfrom qadv.components import Attack\nfrom qadv.quantization import Scheme", []),
        ("from qadv.quantization.scheme import Scheme", ["from qadv.quantization.scheme import Scheme"]),
        ("from qadv.quantization import _Thing", ["from qadv.quantization import _Thing"]),
        ("from qadv.attacks import BatchedAttack", ["from qadv.attacks import BatchedAttack"]),
        ("import qadv.attacks.ddn", ["import qadv.attacks.ddn"]),
    ],
)
def test_an_import_that_is_not_public_is_seen(source, found):
    assert not_public(source) == found

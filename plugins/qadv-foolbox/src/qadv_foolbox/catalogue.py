"""Which attacks Foolbox has, and which of them can be ART attacks: read from its source, without importing it."""

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from qadv.errors import MissingRequirementError

_WORDS = re.compile(r"L[Ii]nf(?:inity)?|L\d|[A-Z]+(?![a-z])|[A-Z][a-z]+")


def names() -> list[str]:
    """Returns the names of the attacks that can be used, e.g. `"foolbox-linf-pgd"`, aliases of Foolbox's too."""
    return sorted(spelled(each) for each in classes() if each not in left_out())


def spelled(class_name: str) -> str:
    """Returns qadv's name of a class of Foolbox: lower case, words joined by hyphens, without `Attack` at the end."""
    words = _WORDS.findall(class_name.removesuffix("Attack"))
    return "-".join(["foolbox", *(word.lower() for word in words)])


@cache
def classes() -> dict[str, str]:
    """Returns the attack classes that `foolbox.attacks` names, aliases too, with the module of each.

    Raises:
        MissingRequirementError: Foolbox is not installed.
    """
    found: dict[str, str] = {}
    for statement in _parsed("__init__").body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            found |= {alias.asname or alias.name: statement.module for alias in statement.names}
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name):
            found |= {each.id: found[statement.value.id] for each in statement.targets if isinstance(each, ast.Name)}
    return found


@cache
def left_out() -> dict[str, str]:
    """Returns the classes that can't be ART attacks, with what they need besides a classifier, images and labels."""
    found = {name: _also_needed(name, module) for name, module in classes().items()}
    return {name: reason for name, reason in found.items() if reason}


def _also_needed(name: str, module: str) -> str:
    if module == "base":
        return "the base class of all attacks"
    arguments = _methods(name, module)
    if "feed" in arguments:
        return "needs images of its own to choose from, given by `feed()`"
    if "starting_points" in arguments.get("run", ()) and "init_attack" not in arguments.get("__init__", ()):
        return "needs adversarial images to start from, `starting_points`"
    return ""


def _methods(name: str, module: str) -> dict[str, list[str]]:
    """Returns the methods that a class itself defines, with the names of their arguments."""
    for statement in _parsed(module).body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            methods = [each for each in statement.body if isinstance(each, ast.FunctionDef)]
            return {each.name: [a.arg for a in (*each.args.args, *each.args.kwonlyargs)] for each in methods}
    return {}  # an alias: the class it stands for is asked


@cache
def _parsed(module: str) -> ast.Module:
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise MissingRequirementError("Foolbox is not installed; install it with: pip install 'foolbox>=3.3.4'")
    path = Path(spec.submodule_search_locations[0], "attacks", *module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))

"""Which attacks torchattacks has, and which of them can be ART attacks: read from its source, without importing it."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from qadv.errors import MissingRequirementError


def names() -> list[str]:
    """Returns the names of the attacks that can be used, e.g. `"torchattacks-pgd"`."""
    return sorted(spelled(each) for each in classes() if each not in left_out())


def spelled(class_name: str) -> str:
    """Returns qadv's name of a class of torchattacks: its own in lower case, as its modules are called."""
    return f"torchattacks-{class_name.lower()}"


def classes() -> list[str]:
    """Returns the attack classes that torchattacks names, its `__all__`.

    Raises:
        MissingRequirementError: torchattacks is not installed.
    """
    return _lists()["__all__"]


def left_out() -> dict[str, str]:
    """Returns the classes that can't be ART attacks, with the reason: those that torchattacks itself calls wrappers."""
    return dict.fromkeys(_lists().get("__wrapper__", []), "a wrapper: needs other attacks, or training images, besides")


@cache
def _lists() -> dict[str, list[str]]:
    spec = find_spec("torchattacks")
    if spec is None or spec.origin is None:
        raise MissingRequirementError(
            "torchattacks is not installed; install it with: pip install 'torchattacks>=3.5.1'"
        )
    found: dict[str, list[str]] = {}
    for statement in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.List):
            found |= {
                each.id: ast.literal_eval(statement.value) for each in statement.targets if isinstance(each, ast.Name)
            }
    return found

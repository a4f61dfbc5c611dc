"""Finds what a plugin has replaced in the toolkits: figures made with a patched ART are not ART's."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FunctionType, ModuleType
from typing import Any

from qadv.errors import some

TOOLKITS = ("art", "brevitas", "timm", "qadv")


def patched_by(packages: Iterable[str]) -> dict[str, list[str]]:
    """Returns the names in the toolkits' modules that are a package's own, e.g. after `ART.fit = my_fit`, by package.

    Looks at functions, methods and classes. Toolkits that were not imported cost nothing, and can't have been patched.
    `packages` are the top-level names of plugins' packages.
    """
    found: dict[str, set[str]] = {name: set() for name in {*packages} - {"", *TOOLKITS, *sys.stdlib_module_names}}
    for name, module in list(sys.modules.items()) if found else ():
        if name.partition(".")[0] in TOOLKITS and isinstance(module, ModuleType):
            for member, value in _members(module):
                if (package := _home(value).partition(".")[0]) in found:
                    found[package].add(member)
    return {package: sorted(names) for package, names in found.items() if names}


def replaced(names: Sequence[str]) -> str:
    """Returns what a plugin has replaced as the end of a sentence about it."""
    return f"has replaced {some(names)}: what these give is not the toolkit's own any more"


def _members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for attribute, value in list(vars(module).items()):
        yield f"{module.__name__}.{attribute}", value
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield from ((f"{module.__name__}.{attribute}.{inner}", member) for inner, member in [*vars(value).items()])


def _home(value: Any) -> str:
    """Returns the module in which a function, method, property or class was written, or `""`."""
    kind = type(value)  # compared before `isinstance` is asked: there are tens of thousands of members
    if kind is FunctionType:
        return str(value.__globals__.get("__name__", ""))  # `functools.wraps` copies __module__, but not this
    if kind is staticmethod or kind is classmethod:
        return _home(value.__func__)
    if kind is property:
        return _home(value.fget)
    return str(value.__module__) if isinstance(value, type) else ""

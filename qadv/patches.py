"""Finds what a plugin has replaced in the toolkits: figures made with a patched ART are not ART's."""

import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

TOOLKITS = ("art", "brevitas", "timm", "qadv")


def patched_by(package: str) -> list[str]:
    """Returns the names in imported modules of the toolkits that are a package's own, e.g. after `ART.fit = my_fit`.

    Looks at functions, methods and classes. Toolkits that were not imported cost nothing, and can't have been patched.

    Args:
        package: top-level name of the plugin's package, e.g. `"qadv_blur"`.
    """
    if package in TOOLKITS or package in sys.stdlib_module_names:
        return []
    found = set()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in TOOLKITS and isinstance(module, ModuleType):
            for owner, attribute, value in _members(module):
                home = _home(value)
                if home.startswith(package) and home.partition(".")[0] == package:
                    found.add(f"{owner}.{attribute}")
    return sorted(found)


def patch_report(package: str) -> str | None:
    """Returns what a package has replaced as the end of a sentence about it; `None` where it replaced nothing."""
    if not (patched := patched_by(package)):
        return None
    names = ", ".join(patched[:3]) + (f" and {len(patched) - 3} more" if len(patched) > 3 else "")
    return f"has replaced {names}: what these give is not the toolkit's own any more"


def _members(module: ModuleType) -> Iterator[tuple[str, str, Any]]:
    for attribute, value in list(vars(module).items()):
        yield module.__name__, attribute, value
        if isinstance(value, type) and value.__module__ == module.__name__:
            for inner, member in list(vars(value).items()):
                yield f"{module.__name__}.{attribute}", inner, member


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

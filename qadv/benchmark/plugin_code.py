"""What tells one state of a plugin's code from another: results of what was edited since are computed anew."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from qadv.components import top_package
from qadv.plugins import PluginInfo


def code_version(plugin: PluginInfo) -> str:
    """Returns a plugin's version and a hash of its Python files: while it is written, only these change.

    Nothing is imported.
    """
    packages = sorted({top_package(component.target) for component in plugin.components})
    digest = hashlib.sha256()
    for path in (path for package in packages for path in _sources(package)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{plugin.version}, code {digest.hexdigest()[:12]}"


def _sources(package: str) -> list[Path]:
    spec = find_spec(package)
    if spec is None:
        return []
    if spec.submodule_search_locations:
        return sorted(path for folder in spec.submodule_search_locations for path in Path(folder).rglob("*.py"))
    return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []

"""The version of a plugin's code: results made before an edit are computed anew."""

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from qadv.components import top_package
from qadv.plugins import OWN_DISTRIBUTION, PluginInfo
from qadv.registry import Entry, default_registry


def code_versions(entries: Iterable[Entry]) -> dict[str, str]:
    """Returns the versions of the plugins that components come from, by distribution; nothing of qadv's own."""
    origins = {entry.distribution for entry in entries} - {OWN_DISTRIBUTION}
    return {
        each.distribution: code_version(each) for each in default_registry().plugins if each.distribution in origins
    }


def code_version(plugin: PluginInfo) -> str:
    """Returns a plugin's version and a hash of its Python files: while it is written, only these change.

    Nothing is imported.
    """
    packages = sorted({top_package(component.target) for component in plugin.components})
    digest = hashlib.sha256()
    for name, path in (source for package in packages for source in _sources(package)):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{plugin.version}, code {digest.hexdigest()[:12]}"


def _sources(package: str) -> list[tuple[str, Path]]:
    """Returns a package's Python files, each with its name from the package's folder on."""
    spec = find_spec(package)
    if spec is None:
        return []
    folders = [Path(each) for each in spec.submodule_search_locations or []]
    if folders:
        found = ((folder, path) for folder in folders for path in folder.rglob("*.py"))
        return sorted((path.relative_to(folder).as_posix(), path) for folder, path in found)
    return [(Path(spec.origin).name, Path(spec.origin))] if spec.origin and spec.origin.endswith(".py") else []

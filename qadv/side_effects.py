"""Puts back what a plugin changes in the process while it is loaded, and names it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from qadv.errors import some
from qadv.process_state import Settings, put_back, read_settings

_OWN_TOOLKITS = ("art", "brevitas", "matplotlib", "numpy", "ray", "scipy", "sklearn", "timm", "torch", "torchvision")


@contextmanager
def side_effects_undone() -> Iterator[list[str]]:
    """Puts random states and settings back as they were, and adds the names of those that were changed to its list.

    What the toolkits that qadv itself imports change when they are imported is theirs, and stays (scikit-learn sets
    variables for OpenMP, `import art` draws a number from `random`). Where numpy or torch are imported inside, their
    settings are put back to what they were right after that.
    """
    watch = _Watch(read_settings())
    sys.meta_path.insert(0, watch)
    changed: list[str] = []
    try:
        yield changed
    finally:
        if watch in sys.meta_path:
            sys.meta_path.remove(watch)
        changed += put_back(watch.before)


def in_words(names: Sequence[str]) -> str:
    """Returns what was changed as the end of a sentence about who changed it."""
    listed = some(names, 5)
    return f"changed {listed} while it was loaded, which was put back: do it where it is used, or leave it to the user"


class _Watch(MetaPathFinder):
    """Records what the import of a toolkit changes; all other imports are left to the finders after it."""

    def __init__(self, before: Settings) -> None:
        self.before = before
        self._importing = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self._importing or name.partition(".")[0] not in _OWN_TOOLKITS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def watched(module: ModuleType) -> None:
            del loader.exec_module
            self._importing = True
            try:
                before = read_settings()  # imports parts of torch itself
                execute(module)
                # what the plugin itself had changed by then stays to be put back
                accepted = {k: v for k, v in read_settings().items() if self.before.get(k) == before.get(k)}
                self.before |= accepted
            finally:
                self._importing = False

        loader.exec_module = watched
        return spec

"""Look-up of components by kind and name over all plugins."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any

from qadv.components import Component, component_type
from qadv.errors import AmbiguousNameError, QadvError, UnknownNameError, closest
from qadv.plugins import OWN_DISTRIBUTION, PluginInfo, discover
from qadv.side_effects import in_words, side_effects_undone


@dataclass(frozen=True)
class Entry:
    """A component and the distribution that provides it."""

    distribution: str
    component: Component

    @property
    def qualified_name(self) -> str:
        return f"{self.distribution}/{self.component.name}"

    def load(self) -> Any:
        """Imports and returns the target; warns of what a plugin has changed by that. Errors as `Component.load`."""
        with self._side_effects_undone():
            return self.component.load()

    def members(self) -> list[str]:
        """Returns the names that a family stands for; as `load`, and as `Component.members`."""
        with self._side_effects_undone():
            return self.component.members()

    @contextmanager
    def _side_effects_undone(self) -> Iterator[None]:
        changed: list[str] = []
        own: AbstractContextManager[list[str]] = nullcontext(changed)
        try:
            with own if self.distribution == OWN_DISTRIBUTION else side_effects_undone() as changed:
                yield
        finally:
            if changed:
                warnings.warn(f"{self.qualified_name} {in_words(changed)}", stacklevel=6)


class Registry:
    """The components of a list of plugins.

    A component is found by its bare name, or by `distribution/name`, which always resolves. A name that two
    distributions claim is an error only when it is used bare.
    """

    def __init__(self, plugins: Iterable[PluginInfo]) -> None:
        self.plugins = list(plugins)

    def entries(self, kind: str) -> list[Entry]:
        """Returns all components of a kind, by name and distribution."""
        wanted = component_type(kind)
        found = [Entry(p.distribution, c) for p in self.plugins for c in p.components if isinstance(c, wanted)]
        return sorted(found, key=lambda entry: (entry.component.name, entry.distribution))

    def match(self, kind: str, pattern: str = "*") -> list[Entry]:
        """Returns the components whose name, bare or qualified, matches a wildcard pattern."""
        names = ((entry, (entry.component.name, entry.qualified_name)) for entry in self.entries(kind))
        return [entry for entry, called in names if any(fnmatchcase(name, pattern) for name in called)]

    def load(self, kind: str, name: str) -> Any:
        """Imports and returns the target of a component; arguments and errors as of `find` and `Component.load`."""
        entry, member = self.find(kind, name)
        return partial(entry.load(), member) if member else entry.load()

    def find(self, kind: str, name: str) -> tuple[Entry, str]:
        """Returns the component of a name, and which member of it is meant where it is a family.

        A name is `name`, `distribution/name`, or one that a family stands for, bare or as `family/name`. One that
        nobody has is an `UnknownNameError`, a bare one that several distributions have an `AmbiguousNameError`.
        """
        name = str(name)
        entries = self.entries(kind)
        single = [e for e in entries if not e.component.family]
        families = [e for e in entries if e.component.family]
        for entry in (found := [e for e in single if name in (e.component.name, e.qualified_name)]):
            choices = [e.qualified_name for e in found]
            if entry.distribution != OWN_DISTRIBUTION and name not in choices:
                # a plugin's bare name that one of qadv's own families stands for, e.g. an attack of ART's
                for own in (f for f in families if f.distribution == OWN_DISTRIBUTION):
                    with suppress(QadvError):  # what its names are taken from is not installed
                        choices += [f"{own.qualified_name}/{name}"] if name in own.members() else []
            _refuse_several(kind, name, choices)
            return entry, ""

        known = [name for e in single for name in (e.component.name, e.qualified_name)]
        members: list[tuple[Entry, str]] = []
        broken: list[str] = []
        for entry in families:
            prefixes = (f"{entry.qualified_name}/", f"{entry.component.name}/")
            member = name.removeprefix(next((prefix for prefix in prefixes if name.startswith(prefix)), ""))
            try:
                names = entry.members()
            except (Exception, SystemExit) as error:  # one plugin's family, not the others' fault
                broken.append(f"{entry.qualified_name} ({error})")
                continue
            known += names
            if member in names:
                members.append((entry, member))
        _refuse_several(kind, name, [f"{entry.qualified_name}/{member}" for entry, member in members])
        if members:
            return members[0]
        hint = f" Not asked, because they failed: {'; '.join(broken)}." if broken else ""
        raise UnknownNameError(f"no {kind} {name!r}{closest(name, known)}{hint} See: qadv list {kind}")


def _refuse_several(kind: str, name: str, choices: list[str]) -> None:
    if len(choices) > 1:
        named = " or ".join(map(repr, choices))
        raise AmbiguousNameError(f"{kind} {name!r} is provided by several distributions; name one: {named}")


@cache
def default_registry() -> Registry:
    """The components of all installed plugins, discovered once per process."""
    return Registry(discover())


def list_components(kind: str, pattern: str = "*") -> list[str]:
    """Returns the names of the components of a kind that match a wildcard pattern, as timm's `list_models` does.

    A name that several distributions claim is listed once per distribution, qualified.
    """
    entries = default_registry().match(kind, pattern)
    names = [entry.component.name for entry in entries]
    return [e.qualified_name if names.count(e.component.name) > 1 else e.component.name for e in entries]


def load(kind: str, name: str) -> Any:
    """Imports and returns what a component names: a class or a function. Errors as in `Registry.load`."""
    return default_registry().load(kind, name)


def create(kind: str, name: str, *args: Any, **options: Any) -> Any:
    """Makes a component: `load(kind, name)(*args, **options)`; a data set as `qadv.datasets.make_dataset` says."""
    if kind != "dataset":
        return load(kind, name)(*args, **options)
    from qadv.datasets.choose import make_dataset, options_of

    *changes, (target, [path]) = _dataset_chain(str(name))
    own = [options_of(change, options) for change, _ in changes]
    taken = set().union(*own) - options_of(target, options).keys()
    images = make_dataset(target, path, *args, **{key: options[key] for key in options.keys() - taken})
    for (change, arguments), more in zip(reversed(changes), reversed(own), strict=True):
        images = change(images, *arguments, **more)
    return images


def innermost(name: str) -> Any:
    """Returns the target of the data set that those before it in a name change, `mnist` of `"corrupted:fog:3:mnist"`.

    Errors are as of `Registry.find`; a name that lacks arguments is an `InvalidInputError`.
    """
    return _dataset_chain(name)[-1][0]


def _dataset_chain(name: str) -> list[tuple[Any, list[Any]]]:
    """Returns the data sets that a name says, the innermost last, each with what the name says to it."""
    from qadv.datasets.choose import changed_by_name

    first, _, path = name.partition(":")
    target = load("dataset", first)
    if (changed := changed_by_name(target, name)) is None:
        return [(target, [path])]
    arguments, other = changed
    return [(target, arguments), *_dataset_chain(other)]

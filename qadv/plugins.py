"""Finds the installed plugins and asks each for its components, so that no plugin can stop another.

pluggy checks and documents the hooks; entry points are loaded and hooks are called here one by one, because pluggy's
own loader lets one plugin's import error through, and one raising hook ends a whole pluggy call.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, Literal

import pluggy

from qadv import builtin, hookspecs
from qadv.components import KINDS, Component, top_package
from qadv.entry_points import Origin, find_entry_points, origin
from qadv.errors import PluginError, closest, describe
from qadv.patches import patched_by, replaced
from qadv.side_effects import in_words, side_effects_undone
from qadv.time_limit import TookTooLong, time_limit

OWN_DISTRIBUTION = "qadv"
Status = Literal["ok", "faulty", "disabled"]


@dataclass
class PluginInfo:
    """One plugin as `qadv plugins` shows it.

    Attributes:
        distribution: the installed distribution that declares it.
        name: name of its entry point, which is in `package`.
        faults: what is wrong with it, one sentence each; its sound parts stay in use.
        disabled: switched off by `QADV_DISABLE_PLUGINS`.
    """

    distribution: str
    name: str
    version: str
    hooks: list[str] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    disabled: bool = False
    package: str = ""

    @property
    def status(self) -> Status:
        return "disabled" if self.disabled else "faulty" if self.faults else "ok"

    def note(self, fault: str, cause: BaseException | None = None) -> None:
        """Adds a fault; in strict mode, raises it."""
        self.faults.append(fault)
        if is_strict():
            raise _StrictModeError(f"plugin {self.distribution}:{self.name} {self.version}: {fault}") from cause


def is_strict() -> bool:
    """Whether `QADV_STRICT_PLUGINS` makes errors of what plugins do wrong."""
    return os.environ.get("QADV_STRICT_PLUGINS", "") not in ("", "0")


def discover(entry_points: Iterable[metadata.EntryPoint] | None = None) -> list[PluginInfo]:
    """Loads every plugin and collects its components; returns what is known of each, qadv's own first.

    `entry_points` are those to load, `None` for the installed ones of group `qadv`. With `QADV_STRICT_PLUGINS=1` the
    first fault is raised instead of noted; `QADV_DISABLE_PLUGINS=a,b` leaves out the plugins or distributions of those
    names. A plugin that takes longer than `QADV_PLUGIN_SECONDS`, 60 without it, to import or to list its components is
    ended.
    """
    entry_points, unreadable = find_entry_points() if entry_points is None else (entry_points, [])
    loader = _Loader(
        disabled={name.strip() for name in os.environ.get("QADV_DISABLE_PLUGINS", "").split(",") if name.strip()},
        seconds=_seconds(os.environ.get("QADV_PLUGIN_SECONDS", "")),
    )
    loader.add(OWN_DISTRIBUTION, "builtin", builtin.version(), builtin)
    located = [(origin(point.dist), point) for point in entry_points]
    for where, point in sorted(located, key=lambda each: (each[0].distribution, each[1].name, each[1].value)):
        loader.add(where.distribution, point.name, where.version, point)
    for where in unreadable:
        loader.refuse(where)
    return loader.plugins


class _StrictModeError(PluginError):
    """The first fault, in strict mode."""


class _Fault(Exception):  # noqa: N818
    """What is wrong with a plugin, as a sentence about it; the rest of it is left out."""


class _Loader:
    def __init__(self, disabled: set[str], seconds: float) -> None:
        self.plugins: list[PluginInfo] = []
        self._disabled = disabled
        self._seconds = seconds
        self._taken: set[tuple[str, str, str]] = set()
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    def add(self, distribution: str, name: str, version: str, source: ModuleType | metadata.EntryPoint) -> None:
        """Loads one plugin; whatever it does is its own fault and nobody else's."""
        info = self._listed(distribution, name, version)
        if not info.disabled:
            with self._faults(info, "loading it"):
                # standard output is for `--json`
                with side_effects_undone() as changed, redirect_stdout(sys.stderr), self._faults(info, "loading it"):
                    self._load(info, source)
                if changed:
                    raise _Fault(f"it {in_words(changed)}")

    def refuse(self, origin: Origin) -> None:
        """Lists a distribution whose entry points can't be read."""
        info = self._listed(origin.distribution, "unknown", origin.version)
        if not info.disabled:
            info.note(f"{origin.fault}; whether it is a plugin of qadv is not known. Install it anew")

    def _listed(self, distribution: str, name: str, version: str) -> PluginInfo:
        disabled = bool({name, distribution} & self._disabled)
        self.plugins.append(PluginInfo(distribution, name, version, disabled=disabled))
        return self.plugins[-1]

    def _load(self, info: PluginInfo, source: ModuleType | metadata.EntryPoint) -> None:
        key = f"{info.distribution}:{info.name}"
        if self._manager.has_plugin(key):
            raise _Fault(f"entry point {info.name!r} is declared twice by this distribution; the second is left out")
        plugin: Any = source
        if isinstance(source, metadata.EntryPoint):
            if fault := origin(source.dist).fault:
                info.note(fault)
            if info.distribution == OWN_DISTRIBUTION:
                raise _Fault(f"it calls its distribution {OWN_DISTRIBUTION!r}, which is taken; it is left out")
            info.package = top_package(source.value)
            with self._faults(info, f"importing {source.value!r}"), self._time_limit(info):
                plugin = source.load()
            if plugin is source:
                return
        try:
            self._manager.register(plugin, key)
        except Exception as error:  # e.g. a hook with arguments; older pluggy leaves it half registered
            if self._manager.has_plugin(key):
                self._manager.unregister(plugin)
            raise _Fault(f"not accepted: {describe(error)}") from error
        hooks = self._hooks(info, plugin)
        info.hooks = sorted(hooks)
        for kind in KINDS.values():
            if kind.hook in hooks:
                # one by one: a hook that is a generator may raise after it has given sound components
                with self._faults(info, f"hook {kind.hook!r}"), self._time_limit(info):
                    for count, component in enumerate(hooks[kind.hook]()):
                        if count == _MOST_COMPONENTS:
                            most = f"{_MOST_COMPONENTS:,} components"
                            raise _Fault(f"hook {kind.hook!r} gave more than {most}; the rest is left out")
                        self._take(info, kind, component)

    def _hooks(self, info: PluginInfo, plugin: Any) -> dict[str, Callable[[], Any]]:
        """Returns the plugin's implementations by hook, and notes those that will never be called."""
        known = [component_type.hook for component_type in KINDS.values()]
        callers = self._manager.get_hookcallers(plugin) or []
        found = {c.name: impl.function for c in callers for impl in c.get_hookimpls() if impl.plugin is plugin}
        for name in sorted(found.keys() - known):
            info.note(f"{name!r} is not a hook of qadv{closest(name, known)}")
        for name in known:
            function = getattr(plugin, name, None)
            if callable(function) and function not in found.values():
                info.note(f"{name!r} is defined but not marked with @qadv.hookimpl, so it is not called")
        return {name: function for name, function in found.items() if name in known}

    def _take(self, info: PluginInfo, kind: type[Component], component: object) -> None:
        if not isinstance(component, kind):
            expected = f"expected qadv.components.{kind.__name__}(name=, target=)"
            info.note(f"hook {kind.hook!r} gave a {type(component).__name__}; {expected}")
            return
        named = f"{component.kind} {component.name!r}"
        key = (info.distribution, component.kind, component.name)
        if key in self._taken:
            info.note(f"{named} is given twice; the second is left out")
            return
        self._taken.add(key)
        if (OWN_DISTRIBUTION, component.kind, component.name) in self._taken and info.distribution != OWN_DISTRIBUTION:
            info.note(
                f"{named} has the name of one of qadv's own, so the bare name is refused: "
                f"use '{info.distribution}/{component.name}' or '{OWN_DISTRIBUTION}/{component.name}'",
            )
        if unmet := component.unmet_requirements():
            info.note(f"{named} needs {', '.join(unmet)}")
        info.components.append(component)  # still listed: using it says what to install

    @contextmanager
    def _faults(self, info: PluginInfo, what: str) -> Iterator[None]:
        """Notes what is raised inside as the plugin's fault, in words that begin with what was done."""
        try:
            yield
        except (KeyboardInterrupt, _StrictModeError):
            raise
        except _Fault as fault:
            info.note(str(fault), fault.__cause__)
        except TookTooLong as error:
            info.note(
                f"{what} took longer than {self._seconds:g} s and was ended; QADV_DISABLE_PLUGINS={info.distribution} "
                "leaves it out, QADV_PLUGIN_SECONDS allows more",
                error,
            )
        except BaseException as error:
            info.note(f"{what} failed: {describe(error)}", error)

    def _time_limit(self, info: PluginInfo) -> AbstractContextManager[None]:
        waiting = f"qadv: still waiting for plugin {info.distribution}:{info.name} after {self._seconds:g} s; "
        return time_limit(self._seconds, f"{waiting}QADV_DISABLE_PLUGINS={info.distribution} leaves it out")


def note_patches(plugins: Sequence[PluginInfo]) -> list[PluginInfo]:
    """Adds what plugins have replaced in the toolkits to their faults, and returns those that have.

    It takes longer than loading them, and is for when plugins are listed.
    """
    packages = [{plugin.package, *(top_package(each.target) for each in plugin.components)} for plugin in plugins]
    patched = patched_by(set().union(*packages))
    found = []
    for plugin, own in zip(plugins, packages, strict=True):
        if names := [name for package in sorted(own) for name in patched.get(package, ())]:
            found.append(plugin)
            if (fault := f"it {replaced(names)}") not in plugin.faults:
                plugin.note(fault)
    return found


_MOST_COMPONENTS = 10_000


def _seconds(text: str) -> float:
    try:
        seconds = float(text or 60)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise PluginError(f"QADV_PLUGIN_SECONDS: expected a number of seconds above 0, got {text!r}")
    return seconds

"""Finds the installed plugins and asks each for its components, so that no plugin can stop another.

pluggy checks and documents the hooks; entry points are loaded and hooks are called here one by one, because pluggy's
own loader lets one plugin's import error through, and one raising hook ends a whole pluggy call.
"""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, Literal

import pluggy

from qadv import builtin, hookspecs
from qadv.components import COMPONENT_TYPES, Component, top_package
from qadv.entry_points import Origin, find_entry_points, origin
from qadv.errors import PluginError, closest, describe
from qadv.patches import patch_report
from qadv.side_effects import in_words, side_effects_undone
from qadv.time_limit import TookTooLong, time_limit

OWN_DISTRIBUTION = "qadv"
Status = Literal["ok", "faulty", "disabled"]


@dataclass
class PluginInfo:
    """One plugin as `qadv plugins` shows it.

    Attributes:
        distribution: the installed distribution that declares it.
        name: name of its entry point.
        version: the distribution's version.
        hooks: the hooks it implements, sorted.
        components: what the hooks returned.
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

    @property
    def status(self) -> Status:
        if self.disabled:
            return "disabled"
        return "faulty" if self.faults else "ok"


def discover(entry_points: Iterable[metadata.EntryPoint] | None = None) -> list[PluginInfo]:
    """Loads every plugin and collects its components.

    Args:
        entry_points: what to load; `None` for the installed ones of group `qadv`.

    Returns:
        One `PluginInfo` per plugin, qadv's own first. With `QADV_STRICT_PLUGINS=1` the first fault is raised instead of
        noted; `QADV_DISABLE_PLUGINS=a,b` leaves out the plugins or distributions of those names. A plugin that takes
        longer than `QADV_PLUGIN_SECONDS`, 60 without it, to import or to list its components is ended.

    Raises:
        PluginError: in strict mode, at the first fault, with its cause chained.
    """
    unreadable: list[Origin] = []
    if entry_points is None:
        entry_points, unreadable = find_entry_points()
    loader = _Loader(
        strict=os.environ.get("QADV_STRICT_PLUGINS", "") not in ("", "0"),
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


class _Loader:
    def __init__(self, strict: bool, disabled: set[str], seconds: float) -> None:
        self.plugins: list[PluginInfo] = []
        self._strict = strict
        self._disabled = disabled
        self._seconds = seconds
        self._taken: set[tuple[str, str, str]] = set()
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    def add(self, distribution: str, name: str, version: str, source: ModuleType | metadata.EntryPoint) -> None:
        """Loads one plugin; whatever it does is its own fault and nobody else's."""
        info = PluginInfo(distribution, name, version)
        self.plugins.append(info)
        if {name, distribution} & self._disabled:
            info.disabled = True
            return
        try:
            with side_effects_undone() as changed, contextlib.redirect_stdout(sys.stderr):  # for `--json`
                self._load(info, source)
            if isinstance(source, metadata.EntryPoint):
                self._look_for_patches(info, source)
            if changed:
                self._fault(info, f"it {in_words(changed)}")
        except (KeyboardInterrupt, _StrictModeError):
            raise
        except BaseException as error:
            self._fault(info, f"loading it failed: {describe(error)}", error)

    def refuse(self, origin: Origin) -> None:
        """Lists a distribution whose entry points can't be read."""
        info = PluginInfo(origin.distribution, "unknown", origin.version)
        self.plugins.append(info)
        info.disabled = origin.distribution in self._disabled
        if not info.disabled:
            self._fault(info, f"{origin.fault}; whether it is a plugin of qadv is not known. Install it anew")

    def _load(self, info: PluginInfo, source: ModuleType | metadata.EntryPoint) -> None:
        key = f"{info.distribution}:{info.name}"
        if self._manager.has_plugin(key):
            self._fault(
                info, f"entry point {info.name!r} is declared twice by this distribution; the second is left out"
            )
            return
        plugin: Any = source
        if isinstance(source, metadata.EntryPoint):
            if fault := origin(source.dist).fault:
                self._fault(info, fault)
            if info.distribution == OWN_DISTRIBUTION:
                self._fault(info, f"it calls its distribution {info.distribution!r}, which is taken; it is left out")
                return
            try:
                with self._time_limit(info):
                    plugin = source.load()
            except KeyboardInterrupt:
                raise
            except TookTooLong as error:
                self._fault(info, f"importing {source.value!r} {self._too_long(info)}", error)
                return
            except BaseException as error:
                self._fault(info, f"importing {source.value!r} failed: {describe(error)}", error)
                return
        try:
            self._manager.register(plugin, key)
        except Exception as error:  # e.g. a hook with arguments; older pluggy leaves it half registered
            if self._manager.has_plugin(key):
                self._manager.unregister(plugin)
            self._fault(info, f"not accepted: {describe(error)}", error)
            return
        hooks = self._hooks(info, plugin)
        info.hooks = sorted(hooks)
        for component_type in COMPONENT_TYPES:
            name = f"qadv_{component_type.kind}s"
            if name in hooks:
                self._collect(info, name, component_type, hooks[name])

    def _hooks(self, info: PluginInfo, plugin: Any) -> dict[str, Callable[[], Any]]:
        """Returns the plugin's implementations by hook, and notes those that will never be called."""
        known = [f"qadv_{component.kind}s" for component in COMPONENT_TYPES]
        callers = self._manager.get_hookcallers(plugin) or []
        for caller in callers:
            if not caller.has_spec():
                self._fault(info, f"{caller.name!r} is not a hook of qadv{closest(caller.name, known)}")
        marked = [impl for caller in callers for impl in caller.get_hookimpls() if impl.plugin is plugin]
        functions = {impl.function for impl in marked}
        for name in known:
            found = getattr(plugin, name, None)
            if callable(found) and found not in functions:
                self._fault(info, f"{name!r} is defined but not marked with @qadv.hookimpl, so it is not called")
        return {
            caller.name: impl.function
            for caller in callers
            if caller.has_spec()
            for impl in caller.get_hookimpls()
            if impl.plugin is plugin
        }

    def _collect(
        self, info: PluginInfo, hook: str, component_type: type[Component], implementation: Callable[[], Any]
    ) -> None:
        try:
            # one by one: a hook that is a generator may raise after it has given sound components
            with self._time_limit(info):
                for count, component in enumerate(implementation()):
                    if count == _MOST_COMPONENTS:
                        self._fault(
                            info, f"hook {hook!r} gave more than {_MOST_COMPONENTS:,} components; the rest is left out"
                        )
                        return
                    self._take(info, hook, component_type, component)
        except (KeyboardInterrupt, _StrictModeError):
            raise
        except TookTooLong as error:
            self._fault(info, f"hook {hook!r} {self._too_long(info)}", error)
        except BaseException as error:
            self._fault(info, f"hook {hook!r} failed: {describe(error)}", error)

    def _take(self, info: PluginInfo, hook: str, component_type: type[Component], component: object) -> None:
        if not isinstance(component, component_type):
            self._fault(
                info,
                f"hook {hook!r} gave a {type(component).__name__}; expected qadv.components.{component_type.__name__}"
                "(name=, target=)",
            )
            return
        key = (info.distribution, component.kind, component.name)
        if key in self._taken:
            self._fault(info, f"{component.kind} {component.name!r} is given twice; the second is left out")
            return
        self._taken.add(key)
        if (OWN_DISTRIBUTION, component.kind, component.name) in self._taken and info.distribution != OWN_DISTRIBUTION:
            self._fault(
                info,
                f"{component.kind} {component.name!r} has the name of one of qadv's own, so the bare name is refused: "
                f"use '{info.distribution}/{component.name}' or '{OWN_DISTRIBUTION}/{component.name}'",
            )
        if unmet := component.unmet_requirements():
            self._fault(info, f"{component.kind} {component.name!r} needs {', '.join(unmet)}")
        info.components.append(component)  # still listed: using it says what to install

    def _look_for_patches(self, info: PluginInfo, point: metadata.EntryPoint) -> None:
        if report := patch_report(top_package(point.value)):
            self._fault(info, f"it {report}")

    def _time_limit(self, info: PluginInfo) -> AbstractContextManager[None]:
        waiting = f"qadv: still waiting for plugin {info.distribution}:{info.name} after {self._seconds:g} s; "
        return time_limit(self._seconds, f"{waiting}QADV_DISABLE_PLUGINS={info.distribution} leaves it out")

    def _too_long(self, info: PluginInfo) -> str:
        return (
            f"took longer than {self._seconds:g} s and was ended; QADV_DISABLE_PLUGINS={info.distribution} leaves it "
            "out, QADV_PLUGIN_SECONDS allows more"
        )

    def _fault(self, info: PluginInfo, text: str, cause: BaseException | None = None) -> None:
        info.faults.append(text)
        if self._strict:
            raise _StrictModeError(f"plugin {info.distribution}:{info.name} {info.version}: {text}") from cause


_MOST_COMPONENTS = 10_000


def _seconds(text: str) -> float:
    try:
        seconds = float(text or 60)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise PluginError(f"QADV_PLUGIN_SECONDS: expected a number of seconds above 0, got {text!r}")
    return seconds

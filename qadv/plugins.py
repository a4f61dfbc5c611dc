"""Finds the installed plugins and asks each for its components, so that no plugin can stop another.

pluggy checks and documents the hooks; entry points are loaded and hooks are called here one by one, because pluggy's
own loader lets one plugin's import error through, and one raising hook ends a whole pluggy call.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, Literal

import pluggy

from qadv import builtin, hookspecs
from qadv.components import COMPONENT_TYPES, Component
from qadv.errors import PluginError, closest

ENTRY_POINT_GROUP = "qadv"
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
        noted; `QADV_DISABLE_PLUGINS=a,b` leaves out the plugins or distributions of those names.

    Raises:
        PluginError: in strict mode, at the first fault, with its cause chained.
    """
    if entry_points is None:
        entry_points = metadata.entry_points(group=ENTRY_POINT_GROUP)
    loader = _Loader(
        strict=os.environ.get("QADV_STRICT_PLUGINS", "") not in ("", "0"),
        disabled={name.strip() for name in os.environ.get("QADV_DISABLE_PLUGINS", "").split(",") if name.strip()},
    )
    loader.add("qadv", "builtin", builtin.version(), builtin)
    ordered = sorted(entry_points, key=lambda point: (_distribution(point)[0], point.name, point.value))
    for point in ordered:
        loader.add(*_origin(point), point)
    return loader.plugins


class _Loader:
    def __init__(self, strict: bool, disabled: set[str]) -> None:
        self.plugins: list[PluginInfo] = []
        self._strict = strict
        self._disabled = disabled
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    def add(self, distribution: str, name: str, version: str, source: ModuleType | metadata.EntryPoint) -> None:
        info = PluginInfo(distribution, name, version)
        self.plugins.append(info)
        if {name, distribution} & self._disabled:
            info.disabled = True
            return
        key = f"{distribution}:{name}"
        if self._manager.has_plugin(key):
            self._fault(info, f"entry point {name!r} is declared twice by this distribution; the second is left out")
            return
        plugin: Any = source
        if isinstance(source, metadata.EntryPoint):
            try:
                plugin = source.load()
            except (Exception, SystemExit) as error:
                self._fault(info, f"importing {source.value!r} failed: {_describe(error)}", error)
                return
        try:
            self._manager.register(plugin, key)
        except Exception as error:  # e.g. a hook with arguments; older pluggy leaves it half registered
            if self._manager.has_plugin(key):
                self._manager.unregister(plugin)
            self._fault(info, f"not accepted: {_describe(error)}", error)
            return
        self._check_hook_names(info, plugin)
        self._collect(info, plugin)

    def _check_hook_names(self, info: PluginInfo, plugin: Any) -> None:
        known = [f"qadv_{component.kind}s" for component in COMPONENT_TYPES]
        callers = self._manager.get_hookcallers(plugin) or []
        info.hooks = sorted(caller.name for caller in callers if caller.has_spec())
        for caller in callers:
            if not caller.has_spec():
                self._fault(info, f"{caller.name!r} is not a hook of qadv{closest(caller.name, known)}")
        marked = {caller.name for caller in callers}
        for name in sorted(set(dir(plugin)) & set(known) - marked):
            self._fault(info, f"{name!r} is defined but not marked with @qadv.hookimpl, so it is not called")

    def _collect(self, info: PluginInfo, plugin: Any) -> None:
        for component_type in COMPONENT_TYPES:
            hook = f"qadv_{component_type.kind}s"
            if hook not in info.hooks:
                continue
            try:
                # one by one: a hook that is a generator may raise after it has given sound components
                for component in getattr(plugin, hook)():
                    self._take(info, hook, component_type, component)
            except PluginError:
                raise
            except (Exception, SystemExit) as error:
                self._fault(info, f"hook {hook!r} failed: {_describe(error)}", error)

    def _take(self, info: PluginInfo, hook: str, component_type: type[Component], component: object) -> None:
        if not isinstance(component, component_type):
            self._fault(
                info,
                f"hook {hook!r} gave {component!r}; expected qadv.components.{component_type.__name__}(name=, target=)",
            )
            return
        mine = [c for p in self.plugins if p.distribution == info.distribution for c in p.components]
        if any(c.kind == component.kind and c.name == component.name for c in mine):
            self._fault(info, f"{component.kind} {component.name!r} is given twice; the second is left out")
            return
        if unmet := component.unmet_requirements():
            self._fault(info, f"{component.kind} {component.name!r} needs {', '.join(unmet)}")
        info.components.append(component)  # still listed: using it says what to install

    def _fault(self, info: PluginInfo, text: str, cause: BaseException | None = None) -> None:
        info.faults.append(text)
        if self._strict:
            raise PluginError(f"plugin {info.distribution}:{info.name} {info.version}: {text}") from cause


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    distribution = point.dist
    return (distribution.name, distribution.version) if distribution is not None else ("unknown", "")


def _origin(point: metadata.EntryPoint) -> tuple[str, str, str]:
    name, version = _distribution(point)
    return name, point.name, version

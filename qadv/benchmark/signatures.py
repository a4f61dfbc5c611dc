"""The arguments that a component takes, read from its signature."""

import inspect
from functools import partial
from typing import Any

from qadv.attacks import art_catalogue
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.options import LoopOptions


def arguments(target: Any) -> set[str] | None:
    """Returns the names of a component's arguments; `None` where the signature does not say them all."""
    found, are_all = _parameters(target)
    return set(found) if are_all else None


def default_of(target: Any, name: str, otherwise: Any) -> Any:
    """Returns the default of an argument of a component."""
    parameter = _parameters(target)[0].get(name)
    return otherwise if parameter is None or parameter.default is parameter.empty else parameter.default


def _parameters(target: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Returns the parameters by name, with those that `**kwargs` passes to base classes, and whether these are all."""
    if isinstance(target, partial) and target.func is art_catalogue.create:  # a member of the family `art`
        target = art_catalogue.attack_class(target.args[0])
    layers = [each.__init__ for each in getattr(target, "__mro__", ()) if "__init__" in vars(each)] or [target]
    found: dict[str, inspect.Parameter] = {}
    for layer in layers:
        own = dict(inspect.signature(layer).parameters)
        is_open = any(each.kind is each.VAR_KEYWORD for each in own.values())
        if is_open and LoopTrainer in getattr(target, "__mro__", ()):
            own = {**inspect.signature(LoopTrainer).parameters, **inspect.signature(LoopOptions).parameters, **own}
            own, is_open = {name: each for name, each in own.items() if name not in ("options", "objectives")}, False
        named = (each for each in own.values() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
        found = {each.name: each for each in named if each.name != "self"} | found
        if not is_open:
            break
    return found, not is_open and not isinstance(target, partial)

"""ART's own attacks by class name, unmodified."""

import inspect
import math
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import art.attacks
import numpy as np
from art.attacks.attack import Attack

from qadv.strengths import check_eps, number
from qadv.units import Share

_NORMS = {"inf": math.inf, math.inf: math.inf, "1": 1.0, 1: 1.0, "2": 2.0, 2: 2.0}


_SHORT: dict[str, tuple[str, dict[str, Any]]] = {  # as they are mostly run; a step of PGD is a quarter of eps
    "fgsm": ("FastGradientMethod", {"eps": Share(8 / 255)}),
    "pgd": ("ProjectedGradientDescent", {"eps": Share(8 / 255), "max_iter": 20, "num_random_init": 1}),
}


def names() -> list[str]:
    """Returns the names of all attack classes of the installed ART, and the short ones."""
    return [*classes(), *_SHORT]


def classes(family: str = "") -> list[str]:
    """Returns the names of the attack classes that the packages of the installed ART offer: all, or a family's."""
    return sorted(_classes(family))


@cache
def _classes(family: str = "") -> dict[str, Any]:
    packages = [found.name for found in walk_packages(art.attacks.__path__, "art.attacks.") if found.ispkg]
    offered = (vars(import_module(name)).items() for name in packages if name.startswith(f"art.attacks.{family}"))
    found = ((name, value) for items in offered for name, value in items if isinstance(value, type))
    return {name: value for name, value in found if issubclass(value, Attack) and not inspect.isabstract(value)}


def attack_class(name: str) -> Any:
    """Returns the class of an attack."""
    return _classes()[_SHORT.get(name, (name,))[0]]


def create(name: str, *args: Any, **options: Any) -> Any:
    """Returns ART's attack of this name, `(*args, **options)`; `eps` and `eps_step` may be texts such as `"8/255"`.

    An `eps` that is larger than the range of the classifier's pixels is refused. `"pgd"` takes 20 steps of `eps / 4`
    from a random start, and `"fgsm"` one; their `eps` is 8/255 of the range.
    """
    attack, options = attack_class(name), (_SHORT[name][1] if name in _SHORT else {}) | options
    for length in ("eps", "eps_step"):
        if isinstance(options.get(length), str):
            options[length] = number(length, options[length])
    estimator: Any = args[0] if args else options.get("estimator", options.get("classifier"))
    signatures = (inspect.signature(layer).parameters for layer in attack.__mro__ if "__init__" in vars(layer))
    default = next((found["norm"].default for found in signatures if "norm" in found), None)  # its own, or inherited
    norm = _NORMS.get(options.get("norm", default))
    eps = options.get("eps")
    if norm is not None and (np.isscalar(eps) or isinstance(eps, Share)) and hasattr(estimator, "clip_values"):
        nb_values = math.prod(estimator.input_shape)
        options["eps"] = check_eps("eps", eps, estimator.clip_values, norm, nb_values, zero=True)
    if name == "pgd" and estimator is not None:  # else its own constructor says what is missing
        options = {"eps_step": options["eps"] / 4, **options}
    return attack(*args, **options)

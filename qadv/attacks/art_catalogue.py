"""ART's own evasion attacks by class name, unmodified."""

import inspect
import math
from typing import Any

import art.attacks.evasion
import numpy as np
from art.attacks import EvasionAttack

from qadv.strengths import check_eps, number
from qadv.units import Share

_NORMS = {"inf": math.inf, math.inf: math.inf, "1": 1.0, 1: 1.0, "2": 2.0, 2: 2.0}


def names() -> list[str]:
    """Returns the names of all evasion attack classes of the installed ART."""
    found = vars(art.attacks.evasion).items()
    return sorted(name for name, value in found if isinstance(value, type) and issubclass(value, EvasionAttack))


def create(name: str, *args: Any, **options: Any) -> Any:
    """Returns `art.attacks.evasion.<name>(*args, **options)`; `eps` and `eps_step` may be texts such as `"8/255"`.

    An `eps` that is larger than the range of the classifier's pixels is refused.
    """
    attack = getattr(art.attacks.evasion, name)
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
    return attack(*args, **options)

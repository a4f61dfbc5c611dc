"""Threat models: the ball that an attack's options name, and whether its images lie in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from qadv.benchmark.report.numbers import plain_eps
from qadv.benchmark.signatures import default_of
from qadv.benchmark.study import AttackSpec
from qadv.errors import QadvError
from qadv.registry import load
from qadv.units import NORMS, in_pixels

_MEASURED = {2.0: "l2", np.inf: "linf"}
_RANGE = (0.0, 1.0)  # of a study's images
_SLACK = 1.001, 1e-5  # distances are measured in float32 and kept with six digits


@dataclass(frozen=True, order=True)
class Threat:
    """A ball round each image: its norm (1, 2 or infinity) and radius in pixel values."""

    norm: float
    eps: float

    def __str__(self) -> str:
        return f"{NORMS[self.norm]} {plain_eps(self.eps)}"


def threat_of(attack: AttackSpec) -> Threat | None:
    """Returns the ball that an attack's options say, else the defaults of its class; `None` for one without a bound."""
    options = _defaults(attack.attack) | attack.options
    eps, norm = options.get("eps", np.nan), options.get("norm", np.inf)  # those with eps alone keep to L∞
    try:
        found = Threat(float(norm), float(f"{float(eps):.9g}"))
    except (TypeError, ValueError):
        return None
    return found if found.norm in NORMS and found.eps > 0 else None


def keeps_to(threat: Threat, record: Mapping[str, Any]) -> bool:
    """Whether all images of an attack lie in the ball; L1 is not measured, and taken as given."""
    distances = record.get(_MEASURED.get(threat.norm, ""))
    return distances is None or not bool((np.asarray(distances) > threat.eps * _SLACK[0] + _SLACK[1]).any())


@cache
def _defaults(attack: str) -> dict[str, Any]:
    try:
        target = load("attack", attack)
    except QadvError:  # of a plugin that is not installed here: its options have to do
        return {}
    found = {name: default_of(target, name, None) for name in ("eps", "norm")}
    return {name: in_pixels(name, value, _RANGE) for name, value in found.items() if value is not None}

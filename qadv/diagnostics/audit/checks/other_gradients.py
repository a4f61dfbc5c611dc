"""Check 8: gradients that the network does not give may lead further than those that it gives."""

from typing import Any

import torch

from qadv.diagnostics.audit.case import Attack, AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.losses import at_temperature, typical_margin
from qadv.diagnostics.audit.result import NO_GRADIENT, Finding, Scale
from qadv.diagnostics.audit.target import Images, Labels
from qadv.frontends.find import quantized_activations
from qadv.frontends.other_backward import SURROGATES, Surrogate, other_backward

_TEMPERATURES = (0.1, 1.0, 10.0)


class OtherGradients(CountedCheck):
    """PGD with other straight-through estimators in the activations, and on cross-entropies at other temperatures.

    Forward passes are unchanged to the bit. Temperatures are in units of the median margin of the logits.
    """

    number = 8
    attacks = ("PGD", "Square", "RayS")
    name = "other straight-through choices, temperatures"
    rule = "the worst of them breaks at most 1 point that no attack before breaks"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        if not case.trusted:
            return Finding.none(NO_GRADIENT)
        left = case.searched
        model = case.target.classifier.model
        attacks: dict[str, Attack] = {}
        if quantized_activations(model):
            attacks |= {f"PGD, {name} backward": _with_backward(case, other) for name, other in SURROGATES.items()}
        attacks |= _at_temperatures(case)
        gains = {name: int(case.attack(name, attack, left).sum()) for name, attack in attacks.items()}
        return {"gains": gains, "left": int(left.sum())}

    def judge(self, counts: Any, of: Scale) -> Finding:
        gains = counts["gains"]
        worst = max(gains, key=lambda name: gains[name])
        gain = gains[worst]
        shown = worst.removeprefix("PGD, ") if gain else "none finds more"
        figure = f"worst: {shown}, {of.points(gain)} more, of the {counts['left']} left"
        return Finding.of(gain <= of.allowance, figure, worst=worst, gains=gains)


def _steps(case: AuditCase) -> int:
    """Returns half the steps of other attacks: a gradient that leads further does so early."""
    return max(1, case.settings.steps // 2)


def _with_backward(case: AuditCase, surrogate: Surrogate) -> Attack:
    attack = case.pgd(_steps(case))

    def run(x: Images, y: Labels) -> Any:
        with other_backward(case.target.classifier.model, surrogate):
            return attack(x, y)

    return run


def _at_temperatures(case: AuditCase) -> dict[str, Attack]:
    unit = typical_margin(torch.from_numpy(case.target.logits(case.x)), torch.from_numpy(case.y))
    return {
        f"PGD, temperature × {factor:g}": case.pgd(_steps(case), at_temperature(factor * unit))
        for factor in _TEMPERATURES
    }

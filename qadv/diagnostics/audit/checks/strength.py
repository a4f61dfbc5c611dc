"""Check 5: more room and more steps make an attack stronger."""

from itertools import pairwise
from typing import Any

import numpy as np

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.result import NO_GRADIENT, Finding, Scale
from qadv.diagnostics.audit.target import Flags

_PGD_SIZES = (0.25, 0.5, 2.0, 4.0)
_FGSM_SIZES = (0.25, 0.5)
_SIGNIFICANT = 2.0


class Strength(CountedCheck):
    """Accuracy under PGD and FGSM at several ε, and PGD against FGSM.

    FGSM is run on misclassified images too: networks trained with it read the label off the perturbation and classify
    them correctly, the more so the larger ε (label leaking, Kurakin et al. 2017). PGD starts from those that are right,
    and that no smaller ball broke.

    **Reading:** FGSM overshoots, so on honest networks too its accuracy rises here and there by a few images. It counts
    up to ε only, and a rise fails where it is more than chance: b images broken at the smaller ε alone and c at the
    larger alone, b - c above two standard errors √(b + c), and above the allowance.
    """

    number = 5
    attacks = ("FGSM", "PGD")
    name = "stronger attacks break more"
    rule = (
        "accuracy falls with ε (PGD: rises ≤ 1 point; FGSM: ≤ chance); PGD at least as strong as FGSM, within 1 point"
    )

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        if not case.leads:
            return Finding.none(NO_GRADIENT)
        pgd = {1.0: case.first_ascent[1]}
        fgsm = {1.0: case.one_step}
        steps = max(1, case.settings.steps // 2)  # which is enough for what is compared
        for size in _PGD_SIZES:
            broken = case.attack if size < 1 else case.outside
            pgd[size] = broken(f"PGD, {size:g} ε", case.pgd(steps, ball=case.ball.scaled(size)), case.fresh)
        for size in _FGSM_SIZES:
            fgsm[size] = case.attack(f"FGSM, {size:g} ε", case.fgsm(size * case.eps), case.clean | True)
        pgd = {size: broken | ~case.fresh for size, broken in pgd.items()}
        weaker = int((fgsm[1.0] & case.fresh).sum()) - int((pgd[1.0] & case.fresh).sum())
        return {"weaker": weaker, "PGD": _counted(pgd), "FGSM": _counted(fgsm)}

    def judge(self, counts: Any, of: Scale) -> Finding:
        weaker = counts["weaker"]
        rises_pgd, rises_fgsm = ([_rise(**step) for step in counts[name]["steps"].values()] for name in ("PGD", "FGSM"))
        passed = (
            weaker <= of.allowance
            and all(rise <= of.allowance for rise, _ in rises_pgd)
            and all(rise <= max(of.allowance, _SIGNIFICANT * error) for rise, error in rises_fgsm)
        )
        curves = {
            name: {float(size): right / of.samples for size, right in counts[name]["right"].items()}
            for name in ("PGD", "FGSM")
        }
        figure = "; ".join(
            f"{name} {' → '.join(f'{100 * a:.0f}' for a in curve.values())} % at {', '.join(map(_times, curve))} ε"
            for name, curve in curves.items()
        )
        plain = {name: [[size, accuracy] for size, accuracy in curve.items()] for name, curve in curves.items()}
        return Finding.of(passed, figure, accuracy_by_eps=plain, fgsm_beats_pgd_by=weaker)


def _counted(broken: dict[float, Flags]) -> dict[str, Any]:
    """Returns how many images are right at each ε, and which are broken at one alone, by neighbouring ones."""
    sizes = sorted(broken)
    steps = {
        f"{one:g} to {other:g}": {
            "smaller": int((broken[one] & ~broken[other]).sum()),
            "larger": int((broken[other] & ~broken[one]).sum()),
        }
        for one, other in pairwise(sizes)
    }
    return {"right": {f"{size:g}": int((~broken[size]).sum()) for size in sizes}, "steps": steps}


def _rise(smaller: int, larger: int) -> tuple[int, float]:
    """Returns by how many images accuracy rises from the smaller to the larger ε, and the standard error of it."""
    return smaller - larger, float(np.sqrt(smaller + larger))


def _times(size: float) -> str:
    return {0.25: "¼", 0.5: "½"}.get(size, f"{size:g}")

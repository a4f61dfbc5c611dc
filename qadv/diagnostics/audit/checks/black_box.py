"""Check 3: attacks without gradients should not find what those with gradients miss."""

import math
from collections.abc import Iterator
from typing import Any

from qadv.attacks.n_attack import NAttack
from qadv.attacks.spsa import SPSA
from qadv.diagnostics.audit.case import Attack, AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.result import Finding, Grade, Scale

_LARGE = 0.4  # of what the attacks with gradients break: found by the first search, or by SPSA and N-Attack
_LARGE_POINTS = 3


class BlackBox(CountedCheck):
    """Square or RayS, and in the thorough setting, L∞, SPSA and N-Attack, on what gradient attacks leave."""

    number = 3
    attacks = ("PGD", "Square", "RayS", "SPSA", "N-Attack")
    name = "black-box against white-box"
    rule = "attacks without gradients break at most 1 point that no gradient attack breaks"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        left = case.direct
        if not left.any():
            return {"gain": 0, "first": 0, "left": 0, "direct": int(case.fresh.sum())}
        gained, first, _ = case.search
        searched = int(gained.sum())
        for name, attack in _attacks(case):
            gained = gained | case.attack(name, attack, left & ~gained)
        gain = int(gained.sum())
        return {
            "gain": gain,
            "first": max(first, gain - searched),
            "left": int(left.sum()),
            "direct": int((case.fresh & ~left).sum()),
        }

    def judge(self, counts: Any, of: Scale) -> Finding:
        gain, left = counts["gain"], counts["left"]
        if not left:
            return Finding.of(True, "gradient attacks leave no image", gain=0)
        figure = f"{of.points(gain)} more, of the {left} that gradient attacks leave"
        large = counts["first"] > max(_LARGE_POINTS * of.allowance, _LARGE * counts["direct"])
        grade = Grade.UNUSABLE if large else Grade.NOT_CONVERGED
        return Finding.of(gain <= of.allowance, figure, grade=grade, gain=gain, left=left)


def _attacks(case: AuditCase) -> Iterator[tuple[str, Attack]]:
    settings, width = case.settings, case.target.high - case.target.low
    if case.ball.norm != math.inf or case.gradients.hard:
        return
    common: dict[str, Any] = {"eps": case.eps, **case.options}
    if settings.spsa_steps:
        spsa = {
            "learning_rate": max(0.01 * width, case.eps / 4),
            "delta": min(0.01 * width, case.eps),
            "early_stop": True,
            "max_iter": settings.spsa_steps,
            "nb_samples": settings.spsa_samples,
        }
        yield "SPSA", case.queried(lambda target: SPSA(target.classifier, **spsa, **common).generate)
    if settings.n_attack_steps:
        n_attack = {"max_iter": settings.n_attack_steps, "nb_samples": settings.n_attack_samples}
        yield "N-Attack", case.queried(lambda target: NAttack(target.classifier, **n_attack, **common).generate)

"""Check 4: without a bound every image can be turned into another class; an attack that can't do it is stuck."""

from typing import Any

from qadv.attacks.ddn import DDN
from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.losses import cross_entropy, negative_margin
from qadv.diagnostics.audit.result import NO_GRADIENT, Finding, Grade, Scale


class NoBound(CountedCheck):
    """PGD in a ball as wide as the pixels' range, then DDN, on what the attacks within ε leave."""

    number = 4
    attacks = ("PGD", "DDN")
    name = "attack without a bound"
    rule = "breaks every image"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        if not case.leads:
            return Finding.none(NO_GRADIENT)
        left = case.direct.copy()
        steps, whole = case.settings.unbounded_steps, case.ball.without_bound(case.x[0].size)
        for name, loss in (("cross-entropy", cross_entropy), ("margin", negative_margin)):
            left &= ~case.outside(f"PGD without a bound, {name}", case.pgd(steps, loss, ball=whole), left)
        width = case.target.high - case.target.low
        ddn = DDN(case.target.classifier, init_eps=width, max_iter=steps, **case.options)
        left &= ~case.outside("DDN", ddn.generate, left)
        return {"left": int(left.sum())}

    def judge(self, counts: Any, of: Scale) -> Finding:
        left = counts["left"]
        return Finding.of(left == 0, f"{of.points(left)} left", grade=Grade.UNUSABLE, left=left)

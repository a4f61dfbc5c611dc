"""Check 10: a defense has to be attacked through its own objective."""

from typing import Any

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.result import Finding


class AdaptiveAttack:
    """Runs the attack that the user wrote against the defense; what it breaks is in the worst case."""

    number = 10
    name = "adaptive attack"
    rule = "an attack on the defense's own objective is given, and its successes are in the worst case"

    def examine(self, case: AuditCase) -> Finding:
        if case.adaptive is None:
            return Finding.none("no attack on the defense's own objective given (adaptive=)")
        attack: Any = case.adaptive(case.target.classifier)
        left = case.survivors
        gain = int(case.attack(f"adaptive {type(attack).__name__}", lambda x, y: attack.generate(x, y), left).sum())
        figure = f"{type(attack).__name__} breaks {case.points(gain)} more, of the {int(left.sum())} left"
        return Finding.of(True, figure, attack=type(attack).__name__, gain=gain)

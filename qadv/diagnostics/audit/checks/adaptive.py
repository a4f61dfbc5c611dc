"""Check 10: a defense has to be attacked through its own objective."""

from typing import Any

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.result import Finding, Scale


class AdaptiveAttack(CountedCheck):
    """Runs the attack that the user wrote against the defense; what it breaks is in the worst case."""

    number = 10
    attacks = ("PGD", "Square", "RayS")
    name = "adaptive attack"
    rule = "an attack on the defense's own objective is given, and its successes are in the worst case"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        if case.adaptive is None:
            return Finding.none("no attack on the defense's own objective given (adaptive=)")
        attack: Any = case.adaptive(case.target.classifier)
        left = case.survivors
        gain = int(case.attack(f"adaptive {type(attack).__name__}", lambda x, y: attack.generate(x, y), left).sum())
        return {"attacks": [type(attack).__name__], "gain": gain, "left": int(left.sum())}

    def judge(self, counts: Any, of: Scale) -> Finding:
        name, gain = counts["attacks"][0], counts["gain"]
        figure = f"{name} breaks {of.points(gain)} more, of the {counts['left']} left"
        return Finding.of(True, figure, attack=name, gain=gain)

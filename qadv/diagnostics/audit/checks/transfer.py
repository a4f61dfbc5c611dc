"""Check 7: images made on another network should not do what a direct attack can't."""

from typing import Any

from qadv.diagnostics.audit.case import Attack, AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.result import Finding, Scale
from qadv.diagnostics.audit.target import Images, Labels, Target


class Transfer(CountedCheck):
    """FGSM and PGD on the float parent and on other networks, for the images that no attack before breaks."""

    number = 7
    attacks = ("FGSM", "PGD", "Square", "RayS")
    name = "transfer against direct"
    rule = "images made on the float parent or another network break at most 1 point that no attack before breaks"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        if not case.sources:
            return Finding.none("no other network given (float_parent=, others=)")
        left = case.searched
        gains: dict[str, int] = {}
        gained = left & False
        for name, source in case.sources.items():
            before = gained.copy()
            for kind, attack in _attacks(case, source).items():
                gained |= case.attack(f"{kind} from {name}", attack, left & ~gained)
            gains[name] = int((gained & ~before).sum())
        return {"gain": int(gained.sum()), "left": int(left.sum()), "by_source": gains}

    def judge(self, counts: Any, of: Scale) -> Finding:
        gain, gains = counts["gain"], counts["by_source"]
        by_source = ", ".join(f"{name} {count}" for name, count in gains.items())
        figure = f"{of.points(gain)} more, of the {counts['left']} left ({by_source})"
        return Finding.of(gain <= of.allowance, figure, gain=gain, by_source=gains)


def _attacks(case: AuditCase, source: Target) -> dict[str, Attack]:
    steps = case.settings.steps

    def one_step(x: Images, y: Labels) -> Images:
        options: dict[str, Any] = {"steps": 1, "random_start": False}
        return case.ascent(x, y, target=source, leave=False, **options).highest

    def pgd(x: Images, y: Labels) -> Images:
        return case.ascent(x, y, target=source, leave=False, steps=steps).highest

    return {"FGSM": one_step, "PGD": pgd}

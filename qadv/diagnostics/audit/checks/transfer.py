"""Check 7: images made on another network should not do what a direct attack can't."""

from typing import Any

from qadv.diagnostics.audit.case import Attack, AuditCase
from qadv.diagnostics.audit.result import Finding
from qadv.diagnostics.audit.target import Images, Labels, Target


class Transfer:
    """FGSM and PGD on the float parent and on other networks, for the images that no attack before breaks."""

    number = 7
    name = "transfer against direct"
    rule = "images made on the float parent or another network break at most 1 point that no attack before breaks"

    def examine(self, case: AuditCase) -> Finding:
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
        gain = int(gained.sum())
        by_source = ", ".join(f"{name} {count}" for name, count in gains.items())
        figure = f"{case.points(gain)} more, of the {int(left.sum())} left ({by_source})"
        return Finding.of(gain <= case.allowance, figure, gain=gain, by_source=gains)


def _attacks(case: AuditCase, source: Target) -> dict[str, Attack]:
    steps = case.settings.steps

    def one_step(x: Images, y: Labels) -> Images:
        options: dict[str, Any] = {"steps": 1, "random_start": False}
        return case.ascent(x, y, target=source, leave=False, **options).highest

    def pgd(x: Images, y: Labels) -> Images:
        return case.ascent(x, y, target=source, leave=False, steps=steps).highest

    return {"FGSM": one_step, "PGD": pgd}

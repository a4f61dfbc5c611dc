"""Check 12: what a camera or a PNG hands over has 256 levels, and adversarial images lie between them."""

from typing import Any

import torch

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.result import Finding, Scale, interval


class EightBitImages(CountedCheck):
    """Rounds each adversarial image of the audit to the nearest 8-bit image inside the ball, and asks again.

    It says what the figure is of, and nothing against it: an attack stops at the first success, which rounding takes
    back more easily than one that goes on, as attacks do in `audit(..., pixels="uint8")`.
    """

    number = 12
    name = "8-bit images"
    rule = "none: the share of adversarial images that still are, rounded to 255 steps of the range inside the ball"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        found = case.in_floats
        if not found.any():
            return Finding.none("no adversarial image was found")
        images = case.worst_case().adversarial[found]
        rounded, inside = case.ball.as_8_bit(torch.from_numpy(images), torch.from_numpy(case.x[found]))
        works = case.target.broken(rounded.numpy(), case.y[found]) & inside.numpy()
        return {"survive": int(works.sum()), "adversarial": len(works), "none_inside": int((~inside).sum())}

    def judge(self, counts: Any, of: Scale) -> Finding:
        survive, adversarial, outside = (counts[name] for name in ("survive", "adversarial", "none_inside"))
        low, high = interval(survive, adversarial)
        share = f"{100 * survive / adversarial:.1f} %, 95 %: {100 * low:.1f} to {100 * high:.1f}"
        figure = f"{survive} of {adversarial} still work ({share})"
        figure += f"; the balls of {outside} hold no 8-bit image" if outside else ""
        return Finding.of(True, figure, **counts)

"""Check 6: an attack that is still climbing was stopped too early; one that passes a success by was read wrongly."""

from typing import Any

import numpy as np

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.result import NO_GRADIENT, Finding, Scale

_LATE = 0.1
_MOST_LATE_RISE = 0.05


class Convergence(CountedCheck):
    """PGD's best loss so far, on the images that hold out, and its successes that were no longer successes at the end.

    The late rise is the rise of the loss in the last tenth of the steps, in parts of its rise over all steps; the mean
    losses of the images are compared, best so far.
    """

    number = 6
    attacks = ("FGSM", "PGD")
    name = "PGD has converged"
    rule = "the last tenth of the steps brings ≤ 5 % of the rise of the loss; ≤ 1 point adversarial on the path only"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        if not case.leads:
            return Finding.none(NO_GRADIENT)
        ascent, broken = case.first_ascent
        held_out = ~broken[case.fresh]
        best = np.maximum.accumulate(np.nan_to_num(ascent.losses[:, held_out]), axis=0).sum(axis=1, dtype=float)
        before = best[-1 - max(1, round(_LATE * case.settings.steps))]
        return {
            "late": float(best[-1] - before),
            "rise": float(best[-1] - best[0]),
            "missed": int(ascent.missed.sum()),
            "held_out": int(held_out.sum()),
        }

    def judge(self, counts: Any, of: Scale) -> Finding:
        held_out, missed = counts["held_out"], counts["missed"]
        late = counts["late"] / counts["rise"] if counts["rise"] > 0 else 0.0
        on = f"the {held_out} images that hold out" if held_out else "no image holds out"
        figure = f"late rise {100 * late:.1f} % ({on}); {of.points(missed)} on the path only"
        passed = late <= _MOST_LATE_RISE and missed <= of.allowance
        return Finding.of(passed, figure, late_rise=late, missed=missed, held_out=held_out)

"""Check 6: an attack that is still climbing was stopped too early; one that passes a success by was read wrongly."""

import numpy as np

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.result import NO_GRADIENT, Finding

_LATE = 0.1
_MOST_LATE_RISE = 0.05


class Convergence:
    """PGD's best loss so far, on the images that hold out, and its successes that were no longer successes at the end.

    The late rise is the rise of the loss in the last tenth of the steps, in parts of its rise over all steps; the mean
    losses of the images are compared, best so far.
    """

    number = 6
    name = "PGD has converged"
    rule = "the last tenth of the steps brings ≤ 5 % of the rise of the loss; ≤ 1 point adversarial on the path only"

    def examine(self, case: AuditCase) -> Finding:
        if not case.leads:
            return Finding.none(NO_GRADIENT)
        ascent, broken = case.first_ascent
        missed = int(ascent.missed.sum())
        held_out = ~broken[case.fresh]
        late = 0.0
        if held_out.any():
            best = np.maximum.accumulate(np.nan_to_num(ascent.losses[:, held_out]), axis=0).mean(axis=1)
            before = best[-1 - max(1, round(_LATE * case.settings.steps))]
            rise = float(best[-1] - best[0])
            late = float(best[-1] - before) / rise if rise > 0 else 0.0
        on = f"the {int(held_out.sum())} images that hold out" if held_out.any() else "no image holds out"
        figure = f"late rise {100 * late:.1f} % ({on}); {case.points(missed)} on the path only"
        passed = late <= _MOST_LATE_RISE and missed <= case.allowance
        return Finding.of(passed, figure, late_rise=late, missed=missed, held_out=int(held_out.sum()))

"""Check 1: gradients that are zero lead nowhere."""

from qadv.diagnostics.audit.case import Case
from qadv.diagnostics.audit.result import Finding


class ZeroGradients:
    """Counts images at which the gradient is zero in every pixel, or not finite somewhere.

    A few are zero in honest networks too, where the softmax is sure; so as many are allowed as elsewhere.
    """

    number = 1
    name = "zero or non-finite gradients"
    rule = "cross-entropy and DLR: zero at most at 1 point of the images, finite everywhere, where classified correctly"

    def examine(self, case: Case) -> Finding:
        images = int(case.clean.sum())
        if not images:
            return Finding.none("no image is classified correctly")
        figure = "; ".join(f"{name}: {zero} zero, {bad} non-finite" for name, (zero, bad) in case.gradients.items())
        counts = {name: {"zero": zero, "non_finite": bad} for name, (zero, bad) in case.gradients.items()}
        passed = all(zero <= case.allowance and not bad for zero, bad in case.gradients.values())
        return Finding.of(passed, f"{figure}, of {images}", images=images, counts=counts)

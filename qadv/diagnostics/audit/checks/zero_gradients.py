"""Check 1: gradients that are zero lead nowhere."""

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.result import Finding, Grade


class ZeroGradients:
    """Counts images without a gradient, also on PGD's path, and pixels without one that move the logits all the same.

    A few images are without in honest networks too, where the softmax is sure; so as many are allowed as elsewhere.
    Where the gradient leads nowhere, steps of the network that lose it are looked for, and get that of the identity
    (BPDA) for all attacks. The correlation with finite differences is shown and judges nothing: it is low for honest
    networks of two bits too.
    """

    number = 1
    name = "zero or non-finite gradients"
    rule = (
        "cross-entropy and margin: zero at ≤ 1 point of the images classified correctly, also on PGD's path, finite "
        "everywhere; no pixel that moves the logits is without"
    )

    def examine(self, case: AuditCase) -> Finding:
        images = int(case.clean.sum())
        if not images:
            return Finding.none("no image is classified correctly")
        found = case.gradients
        counts = {
            name: {"zero": zero, "non_finite": found.non_finite[name]} for name, zero in found.zero.items()
        }  # fmt: skip
        parts = [f"{name}: {n['zero']} zero, {n['non_finite']} non-finite" for name, n in counts.items()]
        parts[-1] += f", of {images}"
        parts += [f"{found.flat} of {found.walked} zero on PGD's path"] if found.flat else []
        parts += [f"{found.hidden} pixels that matter are without"] if found.hidden else []
        parts += [f"correlation with finite differences {found.agreement:.2f} (no verdict)"]
        repaired = [str(step) for step in case.repair]
        parts += [f"repaired with the identity's: {', '.join(repaired)}"] if repaired else []
        passed = (
            max(*found.zero.values(), found.flat) <= case.allowance
            and not any(found.non_finite.values())
            and not found.hidden
        )
        return Finding.of(
            passed,
            "; ".join(parts),
            grade=Grade.NOT_CONVERGED if case.leads else Grade.UNUSABLE,
            images=images,
            counts=counts,
            flat=found.flat,
            hidden=found.hidden,
            agreement=round(found.agreement, 3),
            repaired=repaired,
        )

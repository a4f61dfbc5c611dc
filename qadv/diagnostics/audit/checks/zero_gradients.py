"""Check 1: gradients that are zero lead nowhere."""

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.result import Finding, Grade


class ZeroGradients:
    """Counts images without a gradient, also on PGD's path, and those with pixels that move the logits without one.

    A few images are without in honest networks too, where the softmax is sure; so as many are allowed as elsewhere.
    Where the gradient leads nowhere, steps of the network that lose it are looked for, and get that of the identity
    (BPDA) for all attacks. Logits that say no more than the predicted class are hard labels: between the boundaries
    they don't move, whatever the backward pass says. The correlation with finite differences is shown and judges
    nothing: it is low for honest networks of two bits too.
    """

    number = 1
    name = "zero or non-finite gradients"
    rule = (
        "cross-entropy and margin: zero at ≤ 1 point of the images classified correctly, also on PGD's path, finite "
        "everywhere; pixels without one move the logits of half of the images at most; no hard labels"
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
        parts += [f"{found.hidden} images have pixels that matter without one"] if found.hidden else []
        parts += [f"correlation with finite differences {found.agreement:.2f} (no verdict)"]
        parts += ["hard labels: attack the logits in front of them"] if found.hard else []
        repaired = [str(step) for step in case.repair]
        parts += [f"repaired with the identity's: {', '.join(repaired)}"] if repaired else []
        passed = (
            max(*found.zero.values(), found.flat) <= case.allowance
            and not any(found.non_finite.values())
            and not found.masked
            and not found.hard
        )
        return Finding.of(
            passed,
            "; ".join(parts),
            grade=Grade.NOT_CONVERGED if case.trusted else Grade.UNUSABLE,
            images=images,
            counts=counts,
            flat=found.flat,
            hidden=found.hidden,
            hard=found.hard,
            agreement=round(found.agreement, 3),
            repaired=repaired,
        )

"""Check 1: gradients that are zero lead nowhere."""

from typing import Any

import numpy as np

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.result import Finding, Grade, Scale


class ZeroGradients(CountedCheck):
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

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        images = int(case.clean.sum())
        if not images:
            return Finding.none("no image is classified correctly")
        found = case.gradients
        return {
            "images": images,
            "counts": {name: {"zero": zero, "non_finite": found.non_finite[name]} for name, zero in found.zero.items()},
            "flat": found.flat,
            "walked": found.walked,
            "hidden": found.hidden,
            "hard": int(found.hard),
            "not_trusted": int(not case.trusted),
            "agreement": [found.agreement],
            "repaired": [str(step) for step in case.repair],
        }

    def judge(self, counts: Any, of: Scale) -> Finding:
        images, losses, flat, hidden, hard = (counts[name] for name in ("images", "counts", "flat", "hidden", "hard"))
        agreement = float(np.median(counts["agreement"]))
        repaired = list(dict.fromkeys(counts["repaired"]))
        parts = [f"{name}: {n['zero']} zero, {n['non_finite']} non-finite" for name, n in losses.items()]
        parts[-1] += f", of {images}"
        parts += [f"{flat} of {counts['walked']} zero on PGD's path"] if flat else []
        parts += [f"{hidden} images have pixels that matter without one"] if hidden else []
        parts += [f"correlation with finite differences {agreement:.2f} (no verdict)"]
        parts += ["hard labels: attack the logits in front of them"] if hard else []
        parts += [f"repaired with the identity's: {', '.join(repaired)}"] if repaired else []
        passed = (
            max(flat, *(each["zero"] for each in losses.values())) <= of.allowance
            and not any(each["non_finite"] for each in losses.values())
            and hidden <= counts["walked"] / 2
            and not hard
        )
        grade = Grade.UNUSABLE if counts["not_trusted"] else Grade.NOT_CONVERGED
        values = {name: counts[name] for name in ("images", "counts", "flat", "hidden")}
        values |= {"hard": bool(hard), "agreement": round(agreement, 3), "repaired": repaired}
        return Finding.of(passed, "; ".join(parts), grade, **values)

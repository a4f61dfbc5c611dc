"""Check 2: a network that answers differently each time needs attacks on its mean answer."""

import numpy as np

from qadv.diagnostics.audit.case import Case
from qadv.diagnostics.audit.result import Finding
from qadv.diagnostics.audit.target import Images, Target
from qadv.modes import kept

_ROUNDING = 1e-4
_MOST_IMAGES = 64


class AnswersRepeat:
    """Gives the same images several times. The audit has done so before: its attacks depend on it."""

    number = 2
    name = "answers repeat"
    rule = f"logits equal from pass to pass, within {_ROUNDING:g} of the largest"

    def examine(self, case: Case) -> Finding:
        draws = case.target.draws
        with kept(case.target, "draws"):
            case.target.draws = 1
            spread = largest_spread(case.target, case.x, case.settings.passes)
        figure = f"{case.settings.passes} passes differ by {spread:.2g} of the largest logit"
        if draws > 1:
            figure += f"; expectation over transformation is needed: answers and gradients are means of {draws} passes"
        return Finding.of(spread <= _ROUNDING, figure, spread=spread, draws=draws)


def is_random(target: Target, x: Images, passes: int) -> bool:
    """Whether the answers to the same images differ by more than rounding."""
    return largest_spread(target, x, passes) > _ROUNDING


def largest_spread(target: Target, x: Images, passes: int) -> float:
    """Returns the largest difference of a logit between passes, relative to the largest logit."""
    answers = np.stack([target.logits(x[:_MOST_IMAGES]) for _ in range(passes)])
    size = float(np.nan_to_num(np.abs(answers)).max())
    spread = float(np.nan_to_num(np.ptp(answers, axis=0)).max())
    return spread / size if size > 0 else spread

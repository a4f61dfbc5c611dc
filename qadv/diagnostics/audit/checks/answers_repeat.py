"""Check 2: a network that answers differently each time needs attacks on its mean answer."""

import numpy as np

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.gradients import ROUNDING
from qadv.diagnostics.audit.result import Finding
from qadv.diagnostics.audit.target import Images, Target
from qadv.modes import kept

_NEIGHBOURS = 4
_MOST_OF_A_NEIGHBOUR = 0.01
_LEVELS = 255
_MOST_IMAGES = 64


class AnswersRepeat:
    """Gives the same images several times. The audit has done so before: its attacks depend on it."""

    number = 2
    name = "answers repeat"
    rule = (
        f"logits equal from pass to pass, within {ROUNDING:g} of the largest; one level of one pixel moves them by "
        f"{_MOST_OF_A_NEIGHBOUR:.0%} of it at most, in the median"
    )

    def examine(self, case: AuditCase) -> Finding:
        draws = case.target.draws
        with kept(case.target, "draws"):
            case.target.draws = 1
            spread = largest_spread(case.target, case.x, case.settings.passes)
            jump = _typical_jump(case.target, case.x, case.seed)
        figure = f"{case.settings.passes} passes differ by {spread:.2g} of the largest logit"
        if draws > 1:
            figure += f"; expectation over transformation is needed: answers and gradients are means of {draws} passes"
        passed = spread <= ROUNDING and jump <= _MOST_OF_A_NEIGHBOUR
        figure += f"; one level of one pixel moves the logits by {jump:.2g} of the largest, in the median"
        return Finding.of(passed, figure, spread=spread, jump=jump, draws=draws)


def is_random(target: Target, x: Images, passes: int) -> bool:
    """Whether the answers to the same images differ by more than rounding."""
    return largest_spread(target, x, passes) > ROUNDING


def largest_spread(target: Target, x: Images, passes: int) -> float:
    """Returns the largest difference of a logit between passes, relative to the largest logit."""
    answers = np.stack([target.logits(x[:_MOST_IMAGES]) for _ in range(passes)])
    size = float(np.nan_to_num(np.abs(answers)).max())
    spread = float(np.nan_to_num(np.ptp(answers, axis=0)).max())
    return spread / size if size > 0 else spread


def _typical_jump(target: Target, x: Images, seed: int) -> float:
    """Returns the median change of an image's logits when one of its pixels moves by one level, of the largest logit.

    Noise that the pixels decide, by a hash of them, repeats from pass to pass, and not from neighbour to neighbour.
    """
    few, generator = x[:_MOST_IMAGES], np.random.default_rng(seed)
    clean = np.nan_to_num(target.logits(few))
    level, middle = (target.high - target.low) / _LEVELS, (target.high + target.low) / 2
    jumps = []
    for _ in range(_NEIGHBOURS):
        neighbours = few.reshape(len(few), -1).copy()
        pixel = np.arange(len(few)), generator.integers(neighbours.shape[1], size=len(few))
        neighbours[pixel] += np.where(neighbours[pixel] < middle, level, -level)
        answers = np.nan_to_num(target.logits(neighbours.reshape(few.shape)))
        jumps.append(np.abs(answers - clean).max(axis=1) / max(float(np.abs(clean).max()), 1e-30))
    return float(np.median(jumps))

"""Check 2: a network that answers differently each time needs attacks on its mean answer, or its mean gradient."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.logit_scale import ROUNDING, LogitScale
from qadv.diagnostics.audit.losses import negative_margin
from qadv.diagnostics.audit.result import Finding, Scale
from qadv.diagnostics.audit.target import Images, Labels, Target
from qadv.modes import kept

_NEIGHBOURS = 4
_MOST_OF_A_NEIGHBOUR = 0.01
_LEAST_ALIKE = 0.9
_LEVELS = 255
_MOST_IMAGES = 64


class AnswersRepeat(CountedCheck):
    """Gives the same images several times. The audit has done so before: its attacks depend on it."""

    number = 2
    name = "answers repeat"
    rule = (
        f"logits equal from pass to pass, within {ROUNDING:g} of their range; one level of one pixel moves them by "
        f"{_MOST_OF_A_NEIGHBOUR:.0%} of it at most, and leaves the gradient's direction (cosine ≥ {_LEAST_ALIKE}), in "
        "the median"
    )

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        draws, passes = case.target.draws, case.settings.passes
        with kept(case.target, "draws"):
            case.target.draws = 1
            spread = largest_spread(case.target, case.x, case.y, passes)
            jump, alike = _typical_jump(case.target, case.x, case.y, case.seed)
        return {"spread": [spread], "jump": [jump], "alike": [alike], "draws": [draws], "passes": [passes]}

    def judge(self, counts: Any, of: Scale) -> Finding:
        spread, draws, passes = (max(counts[name]) for name in ("spread", "draws", "passes"))
        jump, alike = (float(np.median(counts[name])) for name in ("jump", "alike"))
        figure = f"{passes} passes differ by {spread:.2g} of the logits' range"
        if draws > 1:
            figure += f"; expectation over transformation is needed: answers and gradients are means of {draws} passes"
        passed = spread <= ROUNDING and jump <= _MOST_OF_A_NEIGHBOUR and alike >= _LEAST_ALIKE
        figure += (
            f"; one level of one pixel moves the logits by {jump:.2g} of it, and gradients have a cosine of "
            f"{alike:.2f}, in the median"
        )
        return Finding.of(passed, figure, spread=spread, jump=jump, alike=round(alike, 3), draws=draws)


def is_random(target: Target, x: Images, y: Labels, passes: int) -> bool:
    """Whether the answers to the same images differ by more than rounding, or the gradients by their direction."""
    few = x[:_MOST_IMAGES], y[:_MOST_IMAGES]
    if largest_spread(target, x, y, passes) > ROUNDING:
        return True
    return _alike(_directions(target, *few), _directions(target, *few)) < _LEAST_ALIKE


def largest_spread(target: Target, x: Images, y: Labels, passes: int) -> float:
    """Returns the largest difference of a logit between passes, as a part of their range; 0 where it is rounding."""
    answers = np.stack([target.logits(x[:_MOST_IMAGES]) for _ in range(passes)])
    scale = LogitScale.of(answers, y)
    spread = float(np.ptp(scale.of_competing(answers), axis=0).max(initial=0.0))
    return spread / scale.size if spread > scale.least else 0.0


def _directions(target: Target, x: Images, y: Labels) -> Tensor:
    """Returns the gradients of the margin, of length 1 or 0, (N, values)."""
    images, labels = target.tensors(x, y)
    slope = target.gradient(images, labels, negative_margin)[2].cpu().double().flatten(1).nan_to_num(0.0, 0.0, 0.0)
    return nn.functional.normalize(slope, dim=1, eps=1e-300)  # gradients may be tiny


def _alike(one: Tensor, other: Tensor) -> float:
    """Returns the median cosine of directions, (N, values), over images that have some; 1 where none has."""
    some = ((one != 0) | (other != 0)).any(dim=1)
    return float((one * other).sum(dim=1)[some].median()) if some.any() else 1.0


def _typical_jump(target: Target, x: Images, y: Labels, seed: int) -> tuple[float, float]:
    """Asks what becomes of images when one of their pixels moves by one level.

    Noise that the pixels decide, by a hash of them, repeats from pass to pass, and not from neighbour to neighbour.

    Returns:
        The median change of an image's logits, of their range, and the median cosine of its gradients.
    """
    few, generator = x[:_MOST_IMAGES], np.random.default_rng(seed)
    answers = target.logits(few)
    scale = LogitScale.of(answers, y)
    clean = scale.of_competing(answers)
    level, middle = (target.high - target.low) / _LEVELS, (target.high + target.low) / 2
    jumps = []
    for _ in range(_NEIGHBOURS):
        neighbours = few.reshape(len(few), -1).copy()
        pixel = np.arange(len(few)), generator.integers(neighbours.shape[1], size=len(few))
        neighbours[pixel] += np.where(neighbours[pixel] < middle, level, -level)
        moved = neighbours.reshape(few.shape)
        change = scale.of_competing(target.logits(moved)) - clean
        jumps.append(np.abs(change).max(axis=1, initial=0.0) / scale.size)
    labels = y[:_MOST_IMAGES]
    return float(np.median(jumps)), _alike(_directions(target, few, labels), _directions(target, moved, labels))

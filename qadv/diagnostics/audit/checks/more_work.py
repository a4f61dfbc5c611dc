"""Check 9: work that goes on should find less and less, and chance nothing at all."""

from functools import partial
from typing import Any

import numpy as np
import torch

from qadv.attacks.draws import image_generators
from qadv.diagnostics.audit.case import NEAREST, Attack, AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.losses import negative_margin
from qadv.diagnostics.audit.result import Finding, Scale
from qadv.diagnostics.audit.target import Images, Labels

_CLASSES = 4
_LEAST_BLOCKS = 2


class MoreWork(CountedCheck):
    """Blocks of PGD, two at least, until one finds nothing, and random points of the ball.

    A block is a long run on the margin from a new start, then a run towards each of four other classes. The check
    judges by the last block, and by the last search without gradients: what was found before is in the worst case.

    Images that blocks have found once are given to the next ones too. As many as were found once only, over the number
    of blocks, are what another block may be expected to find: Good 1953, "The population frequencies of species and
    the estimation of population parameters", Biometrika 40.
    """

    number = 9
    attacks = ("PGD", "Square", "RayS", "noise")
    name = "more work; noise"
    rule = "the last block of more steps and starts, the last search without gradients, and noise find ≤ 0.5 points"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        seen, new = np.zeros(len(case.x), dtype=int), [0]
        before = case.survivors
        for block in range(case.settings.blocks if case.trusted else 0):
            left = case.survivors
            seen += case.attack(f"PGD, block {block + 1}", _block(case, block), left | (seen == 1))
            new.append(int((left & ~case.survivors).sum()))
            if not new[-1] and block + 1 >= _LEAST_BLOCKS:
                break
        draws = case.settings.noise_draws
        by_chance = int(case.attack(f"noise, {draws} draws", partial(_noise, case, draws), case.survivors).sum())
        return {
            "left": int(before.sum()),
            "by_block": {str(block): found for block, found in enumerate(new[1:], 1)},
            "last_block": new[-1],
            "last_search": case.search[2],
            "noise": by_chance,
            "expected": int((seen == 1).sum()) / max(1, len(new) - 1),
        }

    def judge(self, counts: Any, of: Scale) -> Finding:
        new, last_search, by_chance = list(counts["by_block"].values()), counts["last_search"], counts["noise"]
        last, expected = max(counts["last_block"], last_search), counts["expected"]
        work = f"{len(new)} block{'s' * (len(new) != 1)} found {', '.join(map(str, new)) or 'nothing'}"
        figure = (
            f"{work}, of the {counts['left']} left; the last search {last_search}; noise {by_chance}; "
            f"another block may find {expected:.1f} (Good-Turing)"
        )
        passed = max(last, by_chance) <= of.half_allowance
        return Finding.of(
            passed, figure, gain=sum(new), last=last, by_block=new, noise=by_chance, expected=round(expected, 3)
        )


def _block(case: AuditCase, block: int) -> Attack:
    """Returns the work of block 0, 1, …; its classes go on where those of the block before, or `direct`, ended."""
    start = 2 + block
    attacks = [case.pgd(case.settings.long_steps, negative_margin, start)]
    others = len(case.ranks)
    ranks = dict.fromkeys((NEAREST + _CLASSES * block + turn) % others for turn in range(_CLASSES)) if others else ()
    attacks += [case.towards(rank, start) for rank in ranks]

    def run(x: Images, y: Labels) -> Images:
        result, left = x.copy(), np.arange(len(x))
        for attack in attacks:
            result[left] = attack(x[left], y[left])
            left = left[~case.judged(result[left], x[left], y[left])[0]]
            if len(left) == 0:
                break
        return result

    return run


def _noise(case: AuditCase, draws: int, x: Images, y: Labels) -> Images:
    """Returns the first random point of the ball that is adversarial, or the last one."""
    result, left = x.copy(), np.arange(len(x))
    generators = image_generators(case.seed, range(len(x)), torch.device("cpu"))
    for _ in range(draws):
        result[left] = case.ball.random(torch.from_numpy(x[left]), [generators[i] for i in left]).numpy()
        left = left[~case.judged(result[left], x[left], y[left])[0]]
        if not len(left):
            break
    return result

"""Check 9: work that goes on should find less and less, and chance nothing at all."""

import numpy as np

from qadv.attacks.noise import UniformNoise
from qadv.diagnostics.audit.case import NEAREST, Attack, AuditCase
from qadv.diagnostics.audit.losses import negative_margin
from qadv.diagnostics.audit.result import Finding
from qadv.diagnostics.audit.target import Images, Labels

_CLASSES = 4
_LEAST_BLOCKS = 2


class MoreWork:
    """Blocks of PGD, two at least, until one finds nothing, and random points of the ball.

    A block is a long run on the margin from a new start, then a run towards each of four other classes. The check
    judges by the last block, and by the last run of Square: what was found before is in the worst case.

    Images that blocks have found once are given to the next ones too. As many as were found once only, over the number
    of blocks, are what another block may be expected to find: Good 1953, "The population frequencies of species and
    the estimation of population parameters", Biometrika 40.
    """

    number = 9
    name = "more work; noise"
    rule = "the last block of more steps and starts, and Square's last run, find ≤ 0.5 points; so does random noise"

    def examine(self, case: AuditCase) -> Finding:
        seen, new = np.zeros(len(case.x), dtype=int), [0]
        before = case.survivors
        for block in range(case.settings.blocks if case.leads else 0):
            left = case.survivors
            seen += case.attack(f"PGD, block {block + 1}", _block(case, block), left | (seen == 1))
            new.append(int((left & ~case.survivors).sum()))
            if not new[-1] and block + 1 >= _LEAST_BLOCKS:
                break
        noise = UniformNoise(
            case.target.classifier,
            eps=case.eps,
            max_iter=case.settings.noise_draws,
            batch_size=case.target.batch_size,
            seed=case.seed,
            verbose=False,
        )
        by_chance = int(case.attack(f"noise, {case.settings.noise_draws} draws", noise.generate, case.survivors).sum())
        last, blocks = max(new[-1], case.square[1]), len(new) - 1
        expected = int((seen == 1).sum()) / max(1, blocks)
        work = f"{blocks} block{'s' * (blocks != 1)} found {', '.join(map(str, new[1:])) or 'nothing'}"
        figure = (
            f"{work}, of the {int(before.sum())} left; Square's last run {case.square[1]}; noise {by_chance}; "
            f"another block may find {expected:.1f} (Good-Turing)"
        )
        passed = max(last, by_chance) <= case.half_allowance
        return Finding.of(
            passed, figure, gain=sum(new), last=last, by_block=new[1:], noise=by_chance, expected=round(expected, 3)
        )


def _block(case: AuditCase, block: int) -> Attack:
    """Returns the work of block 0, 1, …; its classes go on where those of the block before, or `direct`, ended."""
    start = 2 + block
    attacks = [case.pgd(case.settings.long_steps, negative_margin, start)]
    classes = (np.arange(_CLASSES) + _CLASSES * block + NEAREST) % len(case.ranks)
    attacks += [case.towards(int(rank), start) for rank in dict.fromkeys(classes)]

    def run(x: Images, y: Labels) -> Images:
        result, left = x.copy(), np.arange(len(x))
        for attack in attacks:
            result[left] = attack(x[left], y[left])
            left = left[~case.target.broken(result[left], y[left])]
            if len(left) == 0:
                break
        return result

    return run

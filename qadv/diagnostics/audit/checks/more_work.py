"""Check 9: ten times the work should find nothing new, and chance nothing at all."""

from qadv.attacks.noise import UniformNoise
from qadv.diagnostics.audit.case import Case
from qadv.diagnostics.audit.losses import cross_entropy, negative_margin
from qadv.diagnostics.audit.result import Finding

_TIMES = 10


class MoreWork:
    """PGD with ten times the steps, PGD with ten times the restarts, and random points of the ball."""

    number = 9
    name = "ten times the steps and the restarts; noise"
    rule = "change the worst case by at most 0.5 points; random noise of the same ε finds nothing more"

    def examine(self, case: Case) -> Finding:
        left = case.survivors  # of all attacks so far: it is the worst case that more work should not change
        settings = case.settings
        longer = case.attack(
            f"PGD, {_TIMES}x steps", case.pgd(2, _TIMES * settings.steps, negative_margin, cross_entropy), left
        )
        again = case.restarted(_TIMES * settings.restarts)
        more = longer | case.attack(f"PGD, {_TIMES}x restarts", again, left & ~longer)
        noise = UniformNoise(
            case.target.classifier,
            eps=case.eps,
            max_iter=settings.noise_draws,
            batch_size=case.target.batch_size,
            seed=case.seed,
            verbose=False,
        )
        by_chance = int(case.attack(f"noise, {settings.noise_draws} draws", noise.generate, left).sum())
        gain = int(more.sum())
        figure = f"{case.points(gain)} more; noise finds {by_chance}, of the {int(left.sum())} left"
        return Finding.of(gain <= case.half_allowance and by_chance == 0, figure, gain=gain, noise=by_chance)

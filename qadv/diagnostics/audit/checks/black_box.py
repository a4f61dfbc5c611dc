"""Check 3: attacks without gradients should not find what those with gradients miss."""

from qadv.attacks.n_attack import NAttack
from qadv.attacks.spsa import SPSA
from qadv.attacks.square import Square
from qadv.diagnostics.audit.case import Attack, Case
from qadv.diagnostics.audit.result import Finding


class BlackBox:
    """Square, SPSA and N-Attack on the images that no gradient attack breaks."""

    number = 3
    name = "black-box against white-box"
    rule = "Square, SPSA, N-Attack break at most 1 point that no gradient attack breaks"

    def examine(self, case: Case) -> Finding:
        left = case.direct
        if not left.any():
            return Finding.of(True, "gradient attacks leave no image", gain=0)
        gained = left & False
        for name, attack in _attacks(case).items():
            gained |= case.attack(name, attack, left & ~gained)
        gain = int(gained.sum())
        figure = f"{case.points(gain)} more, of the {int(left.sum())} that gradient attacks leave"
        return Finding.of(gain <= case.allowance, figure, gain=gain, left=int(left.sum()))


def _attacks(case: Case) -> dict[str, Attack]:
    classifier, settings, seed = case.target.classifier, case.settings, case.seed
    rows = max(case.target.batch_size, 256)

    square = Square(classifier, eps=case.eps, max_iter=settings.square_steps, batch_size=rows, seed=seed, verbose=False)
    spsa = SPSA(
        classifier,
        eps=case.eps,
        learning_rate=max(0.01 * case.width, case.eps / 4),
        delta=min(0.01 * case.width, case.eps),
        early_stop=True,
        max_iter=settings.spsa_steps,
        nb_samples=settings.spsa_samples,
        batch_size=rows,
        seed=seed,
        verbose=False,
    )
    n_attack = NAttack(
        classifier,
        eps=case.eps,
        max_iter=settings.n_attack_steps,
        nb_samples=settings.n_attack_samples,
        batch_size=rows,
        seed=seed,
        verbose=False,
    )
    return {"Square": square.generate, "SPSA": spsa.generate, "N-Attack": n_attack.generate}

"""How much work the masking checks put in."""

from dataclasses import dataclass

from qadv.diagnostics.measured import Measured


@dataclass(frozen=True)
class Settings(Measured):
    """Budgets of the attacks.

    Attributes:
        steps: steps of PGD.
        long_steps: of the long run in each block of check 9.
        blocks: blocks of check 9, at most: they end when one finds nothing, the second at the earliest.
        square_steps: of each run of Square, one query each.
        square_runs: runs of Square, at most: they end when one finds nothing.
        spsa_steps, spsa_samples: of SPSA, two queries for each sample; no steps leave it out.
        n_attack_steps, n_attack_samples: of N-Attack, one query for each sample; no steps leave it out.
        noise_draws: random points of the ball.
        unbounded_steps: of the attacks without a bound.
        passes: how often the same images are given to see whether the answers repeat.
        draws: passes that are averaged where they do not.
    """

    steps: int
    long_steps: int
    blocks: int
    square_steps: int
    square_runs: int
    spsa_steps: int
    spsa_samples: int
    n_attack_steps: int
    n_attack_samples: int
    noise_draws: int
    unbounded_steps: int
    passes: int
    draws: int


QUICK = Settings(
    steps=40, long_steps=60, blocks=4, square_steps=400, square_runs=3, spsa_steps=0, spsa_samples=0, n_attack_steps=0,
    n_attack_samples=0, noise_draws=20, unbounded_steps=40, passes=3, draws=8,
)  # fmt: skip
THOROUGH = Settings(
    steps=100, long_steps=1000, blocks=10, square_steps=5000, square_runs=3, spsa_steps=100, spsa_samples=128,
    n_attack_steps=100, n_attack_samples=300, noise_draws=1000, unbounded_steps=200, passes=10, draws=32,
)  # fmt: skip
FEW_STEPS = Settings(  # for what does not depend on strength
    steps=4, long_steps=4, blocks=1, square_steps=4, square_runs=1, spsa_steps=2, spsa_samples=2, n_attack_steps=2,
    n_attack_samples=2, noise_draws=2, unbounded_steps=4, passes=3, draws=8,
)  # fmt: skip

"""How much work the masking checks put in."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Budgets of the attacks.

    Attributes:
        steps: steps of PGD.
        restarts: its random starts.
        apgd_steps, apgd_restarts: of APGD with the DLR loss.
        square_steps: of Square, one query each.
        spsa_steps, spsa_samples: of SPSA, two queries for each sample.
        n_attack_steps, n_attack_samples: of N-Attack, one query for each sample.
        noise_draws: random points of the ball.
        unbounded_steps: of the attacks without a bound.
        passes: how often the same images are given to see whether the answers repeat.
        draws: passes that are averaged where they do not.
    """

    steps: int
    restarts: int
    apgd_steps: int
    apgd_restarts: int
    square_steps: int
    spsa_steps: int
    spsa_samples: int
    n_attack_steps: int
    n_attack_samples: int
    noise_draws: int
    unbounded_steps: int
    passes: int
    draws: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return asdict(self)


QUICK = Settings(
    steps=40,
    restarts=3,
    apgd_steps=30,
    apgd_restarts=1,
    square_steps=600,
    spsa_steps=15,
    spsa_samples=16,
    n_attack_steps=15,
    n_attack_samples=32,
    noise_draws=20,
    unbounded_steps=40,
    passes=3,
    draws=8,
)
THOROUGH = Settings(
    steps=100,
    restarts=10,
    apgd_steps=100,
    apgd_restarts=5,
    square_steps=5000,
    spsa_steps=100,
    spsa_samples=128,
    n_attack_steps=100,
    n_attack_samples=300,
    noise_draws=1000,
    unbounded_steps=200,
    passes=10,
    draws=32,
)

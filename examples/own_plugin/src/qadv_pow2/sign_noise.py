"""Random signs at full strength: what any defense should shrug off."""

import numpy as np
from art.attacks import EvasionAttack
from art.estimators import BaseEstimator
from art.estimators.classification import ClassifierMixin

from qadv.units import Share, in_pixels


class SignNoise(EvasionAttack):
    """Adds `eps * sign(N(0, I))` and keeps, for each image, the first of `nb_draws` that is misclassified.

    Args:
        estimator: a classifier.
        eps: L∞ strength, in the images' own unit; default 8/255 of their range.
        nb_draws: how many times to try.
        seed: decides the signs.
    """

    attack_params = [*EvasionAttack.attack_params, "eps", "nb_draws", "seed"]
    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    def __init__(self, estimator, eps=Share(8 / 255), nb_draws=10, seed=0):
        super().__init__(estimator=estimator)
        self.eps = in_pixels("eps", eps, estimator.clip_values)
        self.nb_draws = nb_draws
        self.seed = seed
        self._check_params()

    def generate(self, x, y=None, **kwargs):
        labels = self.estimator.predict(x).argmax(1) if y is None else (np.argmax(y, axis=1) if np.ndim(y) == 2 else y)
        low, high = self.estimator.clip_values
        random = np.random.default_rng(self.seed)
        best, open_ = x.copy(), np.ones(len(x), dtype=bool)
        for _ in range(self.nb_draws):
            noise = self.eps * np.sign(random.standard_normal(x.shape)).astype(x.dtype)
            tried = np.clip(x + noise, low, high)
            best[open_] = tried[open_]
            open_ &= self.estimator.predict(best).argmax(1) == labels
            if not open_.any():
                break
        return best

    def _check_params(self):
        if not self.eps > 0:
            raise ValueError(f"eps: expected a positive number, got {self.eps}")
        if not isinstance(self.nb_draws, int) or self.nb_draws < 1:
            raise ValueError(f"nb_draws: expected a whole number of at least 1, got {self.nb_draws}")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed: expected a whole number of at least 0, got {self.seed}")

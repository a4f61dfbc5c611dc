"""The interval of a mean difference over seeds and images."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t


def interval(differences: NDArray[np.float64], unit: float = 100.0) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of paired differences, (seeds, images), or (seeds,) of other numbers.

    Both seeds and images are samples of more of their kind. What varies from seed to seed and from image to image is
    added, and Student's t has the degrees of freedom of Satterthwaite 1946, as in studies of several readers and cases
    (Obuchowski, Rockette 1995). What seeds do to single images is counted in both, so that it is rather too wide.
    Two images more, one at `unit` and one at -`unit`, each by half, keep few images, or equal ones, from having no
    variance (Agresti, Min 2005). Without a second seed and without images it is infinite.
    """
    seeds, mean = len(differences), float(differences.mean())
    parts = []
    if seeds > 1:
        by_seed = differences.reshape(seeds, -1).mean(1)
        parts.append((by_seed.var(ddof=1) / seeds, seeds - 1))
    if differences.ndim > 1:
        images = differences.shape[1]
        by_image = differences.mean(0)
        parts.append(((((by_image - mean) ** 2).sum() + unit**2) / (images + 2) ** 2, images + 1))
    variance = sum(part for part, _ in parts)
    if not parts:
        return -np.inf, np.inf
    freedom = variance**2 / sum(part**2 / free for part, free in parts) if variance else np.inf
    half = float(t.ppf(0.975, freedom) * np.sqrt(variance))
    return mean - half, mean + half

"""What a network gives away of its classes: ART's model inversion against it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from art.attacks.inference.model_inversion import MIFace
from numpy.typing import NDArray

from qadv.diagnostics.attacking import directions, made_by
from qadv.diagnostics.measured import Measured
from qadv.estimators.checks import attacks_may_leave_range, check_pair
from qadv.estimators.protocol import Classifier
from qadv.random_states import repeatable, seeded
from qadv.tables import number, percent, text_table

_DEFAULT = partial(MIFace, max_iter=100, threshold=1.0, batch_size=128, verbose=False)


@dataclass(frozen=True)
class Inversion(Measured):
    """Images that were drawn from a network, one of each class; prints as a table.

    Attributes:
        classes: the classes that there are images of.
        correlation: of the image drawn with the mean image of its class, less the mean of all, -1 to 1,
            (classes,); 0 where the image is all one value.
        recognised: share of the classes whose own mean is the one that correlates most; 1 / classes is chance.
    """

    classes: tuple[int, ...]
    correlation: NDArray[np.float64]
    recognised: float

    def __str__(self) -> str:
        title = f"Model inversion: {percent(self.recognised)} of {len(self.classes)} classes recognised"
        rows = [[str(c), number(found)] for c, found in zip(self.classes, self.correlation, strict=True)]
        return text_table(title, ["class", "correlation"], rows)


@repeatable
def inversion(
    classifier: Classifier,
    x: NDArray[Any],
    y: Any,
    attack: Callable[[Classifier], Any] | None = None,
    seed: int = 0,
) -> Inversion:
    """Measures how much images that `MIFace` draws, from the mean of all, resemble the mean of their class.

    Args:
        classifier: an ART classifier.
        x, y: images of its classes, (N, *input_shape), best not those of the training, and the classes, indices or
            one-hot.
        attack: function that returns ART's MIFace of a classifier; `None` takes one of 100 steps.
        seed: of what the attack draws.
    """
    x, labels = check_pair(classifier, x, y)
    classes = np.unique(labels)
    start = np.tile(x.mean(axis=0), (len(classes), *(1 for _ in classifier.input_shape)))
    with seeded(seed), attacks_may_leave_range(classifier):
        made = made_by(attack or _DEFAULT, classifier, "attack", MIFace).infer(start, classes)
    means = np.stack([x[labels == each].mean(axis=0) for each in classes])
    changes = ((each - start).reshape(len(start), -1).astype(np.float64) for each in (made, means))
    drawn, wanted = (directions(each - each.mean(axis=1, keepdims=True)) for each in changes)
    cosines = drawn @ wanted.T
    recognised = (cosines.argmax(axis=1) == np.arange(len(classes))) & drawn.any(axis=1)
    return Inversion(tuple(classes.tolist()), np.diag(cosines).copy(), float(recognised.mean()))

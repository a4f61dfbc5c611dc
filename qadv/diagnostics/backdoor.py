"""How easily a network learns a trigger: ART's backdoor poisoning of the images that it is trained on further."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from art.attacks.poisoning import PoisoningAttackBackdoor
from art.attacks.poisoning.perturbations import add_pattern_bd
from numpy.typing import NDArray

from qadv.checks import check_number, check_whole
from qadv.diagnostics.measured import Measured
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_pair
from qadv.estimators.door import give_optimizer
from qadv.estimators.protocol import Classifier
from qadv.evaluation import predicted
from qadv.random_states import repeatable, seeded
from qadv.tables import percent, text_table


@dataclass(frozen=True)
class Backdoor(Measured):
    """A network before and after training on poisoned images; prints as a table.

    Attributes:
        accuracy: on clean images, before and after, (2,).
        success: share of the images of other classes that the trigger turns to the target, before and after, (2,).
        poisoned: number of training images with the trigger.
        samples: number of images of other classes.
    """

    accuracy: NDArray[np.float64]
    success: NDArray[np.float64]
    poisoned: int
    samples: int

    def __str__(self) -> str:
        rows = zip(("before", "after"), map(percent, self.accuracy), map(percent, self.success), strict=True)
        title = f"Backdoor, {self.poisoned} poisoned training images, {self.samples} images with the trigger"
        return text_table(title, ["", "accuracy", "success"], map(list, rows))


@repeatable
def backdoor(
    classifier: Classifier,
    x: NDArray[Any],
    y: Any,
    x_train: NDArray[Any],
    y_train: Any,
    target: int = 0,
    share: float = 0.1,
    nb_epochs: int = 1,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
) -> Backdoor:
    """Trains a copy further on images of which some have a trigger and the label `target`, and measures what it learns.

    The trigger is ART's checkerboard of four pixels of the largest value in `x_train` near the lower right corner.

    Args:
        classifier: an ART classifier that can be trained; it stays as it is.
        x, y: images that it was not trained on, (N, *input_shape), and their classes, indices or one-hot.
        x_train, y_train: what the copy is trained on.
        target: the class that the trigger is to give.
        share: part of the training images, of other classes, that are poisoned.
        nb_epochs, batch_size, lr: of the training, with Adam.
        seed: which images are poisoned, and their order in the training.

    Raises:
        InvalidInputError: there are no images of other classes, or fewer than are to be poisoned.
    """
    x, labels = check_pair(classifier, x, y)
    x_train, train_labels = check_pair(classifier, x_train, y_train, names=("x_train", "y_train"))
    target = check_whole("target", target, least=0, most=classifier.nb_classes - 1)
    nb_epochs, batch_size = check_whole("nb_epochs", nb_epochs), check_whole("batch_size", batch_size)
    count = round(check_number("share", share, below=1) * len(x_train))
    others, may = labels != target, np.flatnonzero(train_labels != target)
    if not others.any() or not 0 < count <= len(may):
        raise InvalidInputError(
            f"expected test images of other classes than {target}, and 1 to {len(may)} training images to poison; got "
            f"{others.sum()} and {count}"
        )
    channels_first = bool(getattr(classifier, "channels_first", True))
    trigger = partial(add_pattern_bd, pixel_value=x_train.max(), channels_first=channels_first)
    attack, one_hot = PoisoningAttackBackdoor(trigger), np.eye(classifier.nb_classes, dtype=np.float32)
    copied: Any = copy.deepcopy(classifier)
    give_optimizer(copied, torch.optim.Adam(copied.model.parameters(), lr=check_number("lr", lr)))
    triggered = attack.poison(x[others], one_hot[target], broadcast=True)[0]
    with seeded(seed):
        chosen = np.random.choice(may, count, replace=False)
        images, given = x_train.copy(), one_hot[train_labels]
        images[chosen], given[chosen] = attack.poison(x_train[chosen], one_hot[target], broadcast=True)
        copied.fit(images, given, batch_size=batch_size, nb_epochs=nb_epochs)
    both = (classifier, copied)
    return Backdoor(
        np.array([(predicted(each, x) == labels).mean() for each in both]),
        np.array([(predicted(each, triggered) == target).mean() for each in both]),
        count,
        len(triggered),
    )

"""Measures an attack on a classifier: which images were broken, how far they moved, and success rates."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qadv.checks import check_whole
from qadv.estimators.checks import attacks_may_leave_range, check_alone, check_goal, check_pair
from qadv.estimators.door import check_answers
from qadv.estimators.protocol import Classifier
from qadv.frontends.find import files
from qadv.modes import evaluation_mode, nb_labels
from qadv.sources import batches, check_labels_of, is_source


def predicted(classifier: Classifier, x: NDArray[Any], batch_size: int = 128) -> NDArray[np.int64]:
    """Returns the classes of images (N, *input_shape), (N,); every module keeps its mode."""
    with evaluation_mode(classifier.model):
        answers = classifier.predict(x, batch_size=batch_size)
    check_answers(answers)
    classes: NDArray[np.int64] = answers.argmax(axis=1)
    return classes


def accuracy(classifier: Classifier, x: Any, y: Any = None, batch_size: int = 128) -> float:
    """Returns the share of images that are classified correctly, holding a batch of them at a time.

    `x` are images, (N, *input_shape), with labels `y`, indices or one-hot; or a source, see `qadv.sources`, that has
    both.
    """
    batch_size = check_whole("batch_size", batch_size)
    if not is_source(x):
        x, labels = check_pair(classifier, x, y)
        return float((predicted(classifier, x, batch_size) == labels).mean())
    check_alone(y)
    check_labels_of(x, nb_labels(classifier))
    right = [
        predicted(classifier, images, batch_size) == check_pair(classifier, images, labels)[1]
        for images, labels in batches(x, batch_size)
    ]
    return float(np.concatenate(right).mean())


def norms(change: NDArray[Any], norm: float) -> NDArray[np.float64]:
    """Returns the L1, L2 or L∞ norm of each image, (N,); `norm` is 1, 2 or `np.inf`."""
    flat = change.reshape(len(change), -1).astype(np.float64)
    return np.asarray(np.linalg.norm(flat, ord=norm, axis=1))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of N images under an attack.

    Attributes:
        change: what the attack added to each, (N, *input_shape).
        clean: which were classified correctly before, (N,) bool.
        classes, right: what the attacked ones are classified as, and which of these are correct, (N,).
    """

    change: NDArray[np.float32]
    clean: NDArray[np.bool_]
    classes: NDArray[np.int64]
    right: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        x: NDArray[Any],
        labels: NDArray[np.int64],
        adversarial: NDArray[Any],
        clean: NDArray[np.bool_] | None = None,
        batch_size: int = 128,
    ) -> Self:
        """Classifies adversarial images, and the clean ones unless `clean` is known.

        Where an engine answers queries (`qadv.accelerate`), the network itself says what they are.
        """
        classifier = getattr(classifier, "simulation", None) or classifier
        if clean is None:
            clean = predicted(classifier, x, batch_size) == labels
        classes = predicted(classifier, adversarial, batch_size)
        return cls(adversarial - x, clean, classes, classes == labels)

    @property
    def broken(self) -> NDArray[np.bool_]:
        """Which were right before and are wrong now, (N,)."""
        return self.clean & ~self.right

    @property
    def success_rate(self) -> float | None:
        """Those broken as a part of those right before; `None` if there were none."""
        return float(self.broken.sum() / self.clean.sum()) if self.clean.any() else None

    def distance(self, norm: float) -> NDArray[np.float64]:
        """Returns how far each image was moved, (N,), broken or not."""
        return norms(self.change, norm)

    def mean_distance(self, norm: float) -> float | None:
        """Returns how far those that were broken were moved on average; `None` if there were none."""
        return float(norms(self.change[self.broken], norm).mean()) if self.broken.any() else None


@dataclass(frozen=True)
class AttackResult:
    """One attack on `samples` images, with accuracies and rates from 0 to 1.

    A success is an image that was classified correctly before and is not afterwards: `success_rate` is their part of
    those that were, L2 and L∞ are means over them, and all three are `None` where there are none. `files`, by name with
    their SHA-256, are those that compute in the network.
    """

    attack: str
    samples: int
    clean_accuracy: float
    adversarial_accuracy: float
    success_rate: float | None
    mean_l2: float | None
    mean_linf: float | None
    seconds: float
    files: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return asdict(self)


def attack_classifier(
    name: str, attack: Any, classifier: Classifier, x: NDArray[Any], y: NDArray[Any]
) -> tuple[AttackResult, NDArray[np.float32]]:
    """Runs an untargeted ART attack, called `name`, on a classifier and measures it.

    Images are (N, *input_shape), labels indices or one-hot. Returns the result, and the adversarial images, as `x`.
    """
    x, labels = check_pair(classifier, x, y)
    check_goal(f"attack {name!r}", attack)
    started = time.perf_counter()
    with attacks_may_leave_range(classifier):
        adversarial = np.asarray(attack.generate(x=x, y=np.eye(classifier.nb_classes, dtype=np.float32)[labels]))
    seconds = time.perf_counter() - started
    outcome = Outcome.of(classifier, x, labels, adversarial)
    accuracies = float(outcome.clean.mean()), float(outcome.right.mean())
    distances = outcome.mean_distance(2), outcome.mean_distance(np.inf)
    result = AttackResult(name, len(x), *accuracies, outcome.success_rate, *distances, seconds, files(classifier.model))
    return result, adversarial.astype(np.float32)

"""What an attack does to a classifier, in the figures that papers report."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.estimators.checks import attacks_may_leave_range, check_images, check_labels
from qadv.estimators.protocol import Classifier


@dataclass(frozen=True)
class AttackResult:
    """One attack on one classifier.

    Attributes:
        attack: the attack's name.
        samples: number of attacked images, N.
        clean_accuracy: accuracy on the N images, 0 to 1.
        adversarial_accuracy: accuracy on their adversarial versions, 0 to 1.
        success_rate: part of the correctly classified images that the attack broke; `None` if there were none.
        mean_l2: mean L2 norm of the perturbations that broke an image; `None` if there were none.
        mean_linf: their mean L∞ norm.
        seconds: wall time of the attack.
    """

    attack: str
    samples: int
    clean_accuracy: float
    adversarial_accuracy: float
    success_rate: float | None
    mean_l2: float | None
    mean_linf: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return asdict(self)


def attack_classifier(
    name: str, attack: Any, classifier: Classifier, x: NDArray[Any], y: NDArray[Any]
) -> tuple[AttackResult, NDArray[np.float32]]:
    """Runs an untargeted ART attack and measures it.

    Args:
        name: how to call the attack in the result.
        attack: an ART `EvasionAttack` on `classifier`.
        classifier: what is attacked.
        x: images, (N, *input_shape).
        y: labels, indices or one-hot.

    Returns:
        The result, and the adversarial images, as `x`. A success is an image that was classified correctly before and
        is not afterwards.
    """
    x = check_images(x, classifier.input_shape, classifier.clip_values)
    labels = check_labels(y, len(x), classifier.nb_classes)
    started = time.perf_counter()
    with attacks_may_leave_range(classifier):
        adversarial = np.asarray(attack.generate(x=x, y=np.eye(classifier.nb_classes, dtype=np.float32)[labels]))
    seconds = time.perf_counter() - started
    before = classifier.predict(x).argmax(1) == labels
    after = classifier.predict(adversarial).argmax(1) == labels
    broken = before & ~after
    change = (adversarial - x).reshape(len(x), -1)[broken]
    result = AttackResult(
        attack=name,
        samples=len(x),
        clean_accuracy=float(before.mean()),
        adversarial_accuracy=float(after.mean()),
        success_rate=float(broken.sum() / before.sum()) if before.any() else None,
        mean_l2=float(np.linalg.norm(change, axis=1).mean()) if broken.any() else None,
        mean_linf=float(np.abs(change).max(axis=1).mean()) if broken.any() else None,
        seconds=seconds,
    )
    return result, adversarial.astype(np.float32)

"""Accuracy against the strength of an attack (docs/methods.md §3; EQ figure 3), and whether it falls as it must."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.checks import check_whole
from qadv.diagnostics.attacking import check_strengths, generate, pgd
from qadv.diagnostics.drawing import check_curves, draw_lines, finish_lines
from qadv.diagnostics.measured import Measured
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_pair
from qadv.estimators.protocol import Classifier
from qadv.evaluation import Outcome, predicted
from qadv.random_states import repeatable
from qadv.tables import percent, text_table
from qadv.units import NORMS, width


@dataclass(frozen=True)
class AccuracyCurve(Measured):
    """Accuracy at several strengths; prints as a table.

    Attributes:
        norm: 1, 2 or infinity.
        eps: strengths, ascending, in units of the images; 0 is no attack.
        accuracy: part of the images that are classified correctly at each strength, (eps,).
        worst_case: part of the images that are right clean, at this strength, and at all smaller ones measured, (eps,):
            what breaks an image within a small ball also lies in the larger one. It never rises.
    """

    norm: float
    eps: tuple[float, ...]
    accuracy: NDArray[np.float64]
    worst_case: NDArray[np.float64]
    samples: int

    @property
    def largest_rise(self) -> float:
        """How much higher accuracy is at some strength than at a smaller one; 0 where it never rises."""
        return float(np.max(self.accuracy - np.minimum.accumulate(self.accuracy)))

    @property
    def monotonic(self) -> bool:
        """Whether accuracy never rises with the strength."""
        return self.largest_rise == 0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        found = {"norm": "inf" if np.isinf(self.norm) else int(self.norm)}
        return super().to_dict() | found | {"monotonic": self.monotonic, "largest_rise": self.largest_rise}

    def __str__(self) -> str:
        found = zip(self.eps, self.accuracy, self.worst_case, strict=True)
        rows = [[f"{eps:.4g}", percent(accuracy), percent(worst)] for eps, accuracy, worst in found]
        columns = [f"ε ({NORMS[self.norm]})", "accuracy", "worst case up to ε"]
        table = text_table(f"Accuracy against strength, {self.samples} images", columns, rows)
        if self.monotonic:
            return f"{table}\nAccuracy falls monotonically."
        rise = percent(self.largest_rise)
        return f"{table}\nAccuracy rises by up to {rise}: the attack misses what it found at a smaller ε."


@repeatable
def accuracy_curve(
    classifier: Classifier,
    x: NDArray[Any],
    y: Any,
    eps: Sequence[float],
    attack: Callable[[Any, float], Any] = pgd,
    norm: float | str = np.inf,
    batch_size: int = 128,
    seed: int = 0,
) -> AccuracyCurve:
    """Runs an attack that keeps to a ball, once at each strength.

    Args:
        classifier: an ART classifier.
        x, y: images, (N, *input_shape), and their classes, indices or one-hot.
        eps: strengths, ascending; 0 is the clean accuracy.
        attack: a function `(classifier, eps)` that returns an ART attack; without it PGD of 20 steps, L∞.
        norm: of the ball: 1, 2 or `np.inf`.
        batch_size: images per pass of the classifier; the attack has its own.
        seed: of what the attack draws.

    Raises:
        InvalidInputError: the attack leaves the ball: for attacks that look for the nearest adversarial image there is
            `accuracy_by_distance`.
    """
    order, strengths, x, labels, batch_size = _checked(classifier, x, y, eps, norm, batch_size)
    clean = predicted(classifier, x, batch_size) == labels
    right = []
    for strength in strengths:
        if strength == 0:
            right.append(clean)
            continue
        adversarial = generate(attack(classifier, strength), x, labels, seed, "attack")
        outcome = Outcome.of(classifier, x, labels, adversarial, clean, batch_size)
        farthest = float(outcome.distance(order).max())
        if farthest > strength * 1.001 + 1e-6 * width(classifier.clip_values):
            raise InvalidInputError(
                f"attack: expected changes within {NORMS[order]} {strength:g}, got {farthest:g}; say which norm it "
                "keeps to, or use accuracy_by_distance for an attack without a bound"
            )
        right.append(outcome.right)
    found = np.stack(right)
    withstood = np.logical_and.accumulate(found & clean)
    return AccuracyCurve(order, strengths, found.mean(axis=1), withstood.mean(axis=1), len(x))


@repeatable
def accuracy_by_distance(
    classifier: Classifier,
    x: NDArray[Any],
    y: Any,
    eps: Sequence[float],
    attack: Callable[[Any], Any],
    norm: float | str = 2,
    batch_size: int = 128,
    seed: int = 0,
) -> AccuracyCurve:
    """Runs a minimum-norm attack once, and counts the images that it breaks within each distance.

    Args:
        classifier, x, y, batch_size, seed: as in `accuracy_curve`.
        eps: distances, ascending; an image counts as broken at ε if it was found within ε, ε included.
        attack: a function that takes the classifier and returns an ART attack (DDN, C&W, DeepFool, Boundary, …).
        norm: in which to measure the distance: 1, 2 or `np.inf`. It should be the one that the attack makes small.

    Returns:
        The curve, monotonic by construction. An image that the attack does not break is right at every strength.
    """
    order, strengths, x, labels, batch_size = _checked(classifier, x, y, eps, norm, batch_size)
    adversarial = generate(attack(classifier), x, labels, seed, "attack")
    outcome = Outcome.of(classifier, x, labels, adversarial, batch_size=batch_size)
    distance = np.where(outcome.right, np.inf, outcome.distance(order))
    distance[~outcome.clean] = 0
    # a distance found in float32 may be a hair above the strength that was asked for
    broken = np.searchsorted(np.sort(distance), np.array(strengths) * (1 + 1e-6), side="right")
    accuracy = 1 - broken / len(x)
    return AccuracyCurve(order, strengths, accuracy, accuracy.copy(), len(x))


def _checked(classifier: Classifier, x: Any, y: Any, eps: Any, norm: Any, batch_size: Any) -> tuple[Any, ...]:
    if norm not in ("inf", np.inf, 1, 2):
        raise InvalidInputError(f"norm: expected 1, 2, np.inf or 'inf', got {norm!r}")
    strengths = check_strengths(eps, classifier, float(norm))
    x, labels = check_pair(classifier, x, y)
    return float(norm), strengths, x, labels, check_whole("batch_size", batch_size)


def draw_accuracy_curve(curves: Mapping[str, AccuracyCurve], ax: Any = None) -> Any:
    """Draws accuracy against strength, all in one norm; dotted, the worst case where it is lower."""
    check_curves(curves)
    measured_in = {curve.norm for curve in curves.values()}
    if len(measured_in) > 1:
        raise InvalidInputError(f"expected curves of one norm, got {', '.join(NORMS[n] for n in sorted(measured_in))}")

    def lower(curve: AccuracyCurve) -> Any:
        return 100 * curve.worst_case if (curve.worst_case < curve.accuracy).any() else None

    suffix = ", worst case up to ε"
    figure, ax = draw_lines(curves, ax, lambda c: c.eps, lambda c: 100 * c.accuracy, lower, ":", suffix)
    ax.set_xlabel(f"ε ({NORMS[measured_in.pop()]})")
    finish_lines(ax, "accuracy, %")
    ax.set_ylim(0, 101)
    return figure

"""How often the members of an ensemble agree, and the accuracy where they do (docs/methods.md §5, eq. 11-13)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.diagnostics.drawing import check_curves, figure_and_axes
from qadv.diagnostics.measured import Measured
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_pair
from qadv.estimators.ensemble_network import Classes, check_agreement, check_member_classes, most_voted
from qadv.estimators.protocol import Classifier
from qadv.tables import percent, text_table


@dataclass(frozen=True)
class EnsembleAgreement(Measured):
    """What an ensemble does that predicts only where m or more members agree; prints as a table.

    Attributes:
        samples: number of images, N.
        m: members that have to agree.
        agreement: part of the images on which the most-voted class has 1, 2, … votes, (members,); sums to 1.
        prediction_rate: PR, part of the images for which there is a prediction (eq. 12).
        defense_accuracy: part of the images that are filtered out or predicted correctly (eq. 13). **Reading:** an
            image that passes is "successful" if the class that the ensemble predicts is not the true one, whatever the
            source model made of it.
        accuracy: part of the images that are predicted, and correctly: here an abstention is wrong, there right.
        accuracy_predicted: part of the predicted images that are predicted correctly (table 6); `None` where none is.
    """

    samples: int
    m: int
    agreement: tuple[float, ...]
    prediction_rate: float
    defense_accuracy: float
    accuracy: float
    accuracy_predicted: float | None

    def __str__(self) -> str:
        members = len(self.agreement)
        rows = [
            *((f"{votes} of {members} agree", percent(part)) for votes, part in enumerate(self.agreement, start=1)),
            ("prediction rate", percent(self.prediction_rate)),
            ("defense accuracy (abstention right)", percent(self.defense_accuracy)),
            ("accuracy (abstention wrong)", percent(self.accuracy)),
            ("accuracy where predicted", percent(self.accuracy_predicted)),
        ]
        return text_table(f"Agreement, {self.samples} images, m = {self.m}", ["", "images"], rows)


@dataclass(frozen=True)
class SourceAgreement(Measured):
    """Table 5: how often all other members are right where the source is, and wrong where it is wrong.

    Attributes:
        right: part of the images that the source classifies correctly which all other members do too; `None` where the
            source has no image right. On adversarial images these are the unsuccessful ones.
        wrong: part of the images that the source misclassifies which all other members misclassify too. **Reading:**
            the text counts examples that "also fool the other four models", whatever class these give.
    """

    right: float | None
    wrong: float | None

    def __str__(self) -> str:
        rows = [("the source is right", percent(self.right)), ("the source is wrong", percent(self.wrong))]
        return text_table("All other members likewise", ["where", "images"], rows)


def measure_agreement(member_classes: NDArray[Any], y: Any, m: int) -> EnsembleAgreement:
    """Measures an ensemble that predicts where m members agree, by what each predicts, (members, N), and the truth."""
    classes = check_member_classes(member_classes)
    m = check_agreement(m, len(classes))
    labels = _check_true(y, classes)
    winners, counts = most_voted(classes)
    predicted = counts >= m
    right = predicted & (winners == labels)
    return EnsembleAgreement(
        samples=len(labels),
        m=m,
        agreement=tuple(float((counts == votes).mean()) for votes in range(1, len(classes) + 1)),
        prediction_rate=float(predicted.mean()),
        defense_accuracy=float((~predicted | right).mean()),
        accuracy=float(right.mean()),
        accuracy_predicted=float(right.sum() / predicted.sum()) if predicted.any() else None,
    )


def agreement_with_source(member_classes: NDArray[Any], y: Any, source: int) -> SourceAgreement:
    """Returns one column of table 5, by what each member predicts, (members, N), on clean or on adversarial images.

    `source` is the index of the member that the adversarial images were made on.
    """
    classes = check_member_classes(member_classes)
    if not -len(classes) <= source < len(classes):
        raise InvalidInputError(f"source: expected the index of one of {len(classes)} members, got {source!r}")
    right = classes == _check_true(y, classes)
    others = np.delete(right, source, axis=0)
    return SourceAgreement(right=_share(others.all(0), right[source]), wrong=_share((~others).all(0), ~right[source]))


def ensemble_agreement(
    classifier: Classifier, x: NDArray[Any], y: Any, m: int, batch_size: int = 128
) -> EnsembleAgreement:
    """Measures an `EnsembleClassifier` on images, clean or adversarial.

    Args:
        classifier: an `EnsembleClassifier`, however it combines its members.
        x, y: images, (N, *input_shape), and their true classes, indices or one-hot.
        m: members that have to agree.
        batch_size: images per pass.
    """
    x, labels = check_pair(classifier, x, y)
    return measure_agreement(_member_classes(classifier, x, batch_size), labels, m)


def source_agreement(
    classifier: Classifier, x: NDArray[Any], y: Any, source: int, batch_size: int = 128
) -> SourceAgreement:
    """Measures how often all other members of an `EnsembleClassifier` are right or wrong where one is (table 5).

    Arguments are as of `ensemble_agreement`; images are clean ones, or made on the member with the index `source`.
    """
    x, labels = check_pair(classifier, x, y)
    return agreement_with_source(_member_classes(classifier, x, batch_size), labels, source)


def _member_classes(classifier: Classifier, x: NDArray[Any], batch_size: int) -> Classes:
    if not hasattr(classifier, "member_predictions"):
        raise InvalidInputError(f"classifier: expected an EnsembleClassifier, got {type(classifier).__name__}")
    classes: Classes = classifier.member_predictions(x, batch_size=batch_size)
    return classes


def draw_ensemble_agreement(measured: Mapping[str, EnsembleAgreement], ax: Any = None) -> Any:
    """Draws one bar per set of images, divided by how many members agree and labelled with the outcome.

    `measured` is by name (`"clean"`, `"PGD"`, …), all with one m and number of members.
    """
    check_curves(measured)
    sizes = {(len(found.agreement), found.m) for found in measured.values()}
    if len(sizes) > 1:
        raise InvalidInputError(f"expected ensembles of one size and one m, got (members, m) {sorted(sizes)}")
    ((members, m),) = sizes
    figure, ax = figure_and_axes(ax, (8.0, 1.8 + 0.5 * len(measured)))
    import matplotlib

    shades = matplotlib.colormaps["Blues"](np.linspace(0.25, 0.9, members))
    parts = 100 * np.array([found.agreement for found in measured.values()]).T
    left = np.zeros(len(measured))
    for votes, (part, shade) in enumerate(zip(parts, shades, strict=True), start=1):
        filtered = {"hatch": "///"} if votes < m else {}
        label = f"{votes} of {members}{', filtered out' if filtered else ''}"
        ax.barh(range(len(measured)), part, left=left, color=shade, edgecolor="white", label=label, **filtered)
        left += part
    names = [
        f"{name}\n{100 * found.accuracy:.0f}% right, {100 * (1 - found.defense_accuracy):.0f}% wrong, "
        f"{100 * (1 - found.prediction_rate):.0f}% filtered out"
        for name, found in measured.items()
    ]
    ax.set_yticks(range(len(measured)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    ax.set_xlabel("images on which so many members agree, %")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=min(members, 5), fontsize=8, frameon=False)
    return figure


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float | None:
    return float(part[whole].mean()) if whole.any() else None


def _check_true(y: Any, classes: Classes) -> Classes:
    labels = np.asarray(y)
    if labels.shape != classes.shape[1:] or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInputError(
            f"y: expected {classes.shape[1]} true classes as whole numbers, one for each image, got {labels.dtype} "
            f"{labels.shape}; one-hot rows become classes with y.argmax(1)"
        )
    return labels.astype(np.int64)

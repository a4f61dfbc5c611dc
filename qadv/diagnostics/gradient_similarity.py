"""The cosine between input gradients of networks (docs/methods.md §5; low-bitwidth study §5.2.3, figure 4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.checks import check_whole
from qadv.diagnostics.attacking import check_classifiers, directions, least_classes
from qadv.diagnostics.drawing import draw_matrix, figure_and_axes
from qadv.diagnostics.measured import Measured
from qadv.errors import AttackError
from qadv.estimators.checks import check_pair
from qadv.estimators.protocol import Classifier
from qadv.modes import evaluation_mode
from qadv.tables import number, percent, text_table


@dataclass(frozen=True)
class GradientSimilarity(Measured):
    """Cosine similarity of input gradients between networks; prints as a table.

    Attributes:
        names: of the networks.
        similarity: mean cosine over the images, (networks, networks), symmetric, -1 to 1; NaN where no image counts.
        counted: number of images in each mean: those on which neither gradient is zero, (networks, networks).
        samples: number of images.
    """

    names: tuple[str, ...]
    similarity: NDArray[np.float64]
    counted: NDArray[np.int64]
    samples: int

    @property
    def zero(self) -> NDArray[np.float64]:
        """Part of the images on which a network's gradient is exactly zero, (networks,): a sign of masking."""
        return 1 - np.diag(self.counted) / self.samples

    def __str__(self) -> str:
        found = zip(self.names, self.similarity, self.zero, strict=True)
        rows = [[name, *(number(value, 2) for value in row), percent(zero)] for name, row, zero in found]
        title = f"Cosine similarity of input gradients, {self.samples} images"
        return text_table(title, ["", *self.names, "zero"], rows)


def gradient_similarity(
    classifiers: Mapping[str, Classifier], x: NDArray[Any], y: Any, batch_size: int = 128
) -> GradientSimilarity:
    """Measures the mean of `⟨a, b⟩ / (‖a‖₂ ‖b‖₂)`, a and b the loss's gradients by the image in two networks.

    The gradients are those that attacks get from `loss_gradient`: straight-through ones of a quantized network, of the
    loss that the classifier has. Cosines do not depend on their size.

    Args:
        classifiers: ART classifiers by name, for the same images and classes.
        x, y: images, (N, *input_shape), and their classes, indices or one-hot.
        batch_size: images per pass; gradients of all networks are kept for one batch.

    Raises:
        AttackError: a gradient is not finite.
    """
    networks = check_classifiers(classifiers)
    first = next(iter(networks.values()))
    x, labels = check_pair(first, x, y, least_classes(list(networks.values())))
    batch_size = check_whole("batch_size", batch_size)
    total = np.zeros((len(networks), len(networks)))
    counted = np.zeros(total.shape, dtype=np.int64)
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        found = np.stack([_directions(name, c, x[part], labels[part]) for name, c in networks.items()])
        total += np.einsum("and,bnd->ab", found, found, optimize=True)
        there = np.asarray(found.any(axis=2))
        counted += (there[:, None] & there[None]).sum(axis=2)
    similarity = np.divide(total, counted, out=np.full_like(total, np.nan), where=counted > 0)
    return GradientSimilarity(tuple(networks), np.clip(similarity, -1, 1), counted, len(x))


def _directions(name: str, classifier: Classifier, x: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns gradients of length 1, (N, pixels), float64; zero where the gradient is."""
    one_hot = np.eye(classifier.nb_classes, dtype=np.float32)[labels]
    with evaluation_mode(classifier.model):
        try:
            gradients = np.asarray(classifier.loss_gradient(x, one_hot))
        except AttackError as error:
            raise AttackError(f"the input gradient of {name!r} is not finite: {error}") from error
    if not np.isfinite(gradients).all():
        raise AttackError(f"the input gradient of {name!r} is not finite; look at its logits and its loss")
    return directions(gradients)


def draw_gradient_similarity(measured: GradientSimilarity, ax: Any = None) -> Any:
    """Draws the matrix of cosines (figure 4)."""
    names = measured.names
    side = 2.2 + 0.8 * len(names)
    figure, ax = figure_and_axes(ax, (side + 1, side))
    texts = [["–" if np.isnan(value) else f"{value:.2f}" for value in row] for row in measured.similarity]
    image = draw_matrix(ax, measured.similarity, names, names, texts, (-1, 1), "RdBu_r")
    ax.set_title(f"cosine of input gradients,\nmean of {measured.samples} images", fontsize=10)
    figure.colorbar(image, ax=ax, shrink=0.8)
    return figure

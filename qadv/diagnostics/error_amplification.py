"""How the distance between clean and adversarial activations grows from layer to layer (DQ eq. 4, figure 3b)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_images


@dataclass(frozen=True)
class ErrorAmplification:
    """Normalised distance at the input of each layer.

    Attributes:
        layers: names of the convolution and linear layers, in order of execution.
        distance: mean over the images of `‖A - A_adv‖₂ / ‖A‖₂`, shape (layers,); images whose A is all zero are left
            out of a layer's mean, which is NaN if none remains.
    """

    layers: tuple[str, ...]
    distance: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        distance = [None if np.isnan(value) else value for value in self.distance.tolist()]
        return {"layers": list(self.layers), "distance": distance}


@torch.no_grad()
def error_amplification(
    classifier: Any, x: NDArray[Any], x_adversarial: NDArray[Any], batch_size: int = 128
) -> ErrorAmplification:
    """Measures `D(A, A_adv) = ‖A - A_adv‖₂ / ‖A‖₂` at the input of every convolution and linear layer.

    Args:
        classifier: an ART `PyTorchClassifier`.
        x: clean images, (N, *input_shape).
        x_adversarial: their adversarial versions, same shape.
        batch_size: images per pass.

    Raises:
        InvalidInputError: the two differ in shape, or are no images of this classifier.
    """
    x = check_images(x, classifier.input_shape, classifier.clip_values, "x", strict=False)
    x_adversarial = check_images(
        x_adversarial, classifier.input_shape, classifier.clip_values, "x_adversarial", strict=False
    )
    if x.shape != x_adversarial.shape:
        raise InvalidInputError(f"x_adversarial: expected the shape of x, {x.shape}, got {x_adversarial.shape}")
    distances: dict[str, list[Tensor]] = {}
    for start in range(0, len(x), batch_size):
        clean = _layer_inputs(classifier, x[start : start + batch_size])
        moved = _layer_inputs(classifier, x_adversarial[start : start + batch_size])
        for name, activation in clean.items():
            change = (activation - moved[name]).flatten(1).norm(dim=1)
            norm = activation.flatten(1).norm(dim=1)
            distances.setdefault(name, []).append(torch.where(norm > 0, change / norm, torch.nan))
    means = [torch.cat(parts).nanmean().item() for parts in distances.values()]
    return ErrorAmplification(tuple(distances), np.array(means))


def _layer_inputs(classifier: Any, x: NDArray[Any]) -> dict[str, Tensor]:
    """Runs one batch and returns what enters each weight layer, in order of execution."""
    found: dict[str, Tensor] = {}

    def note(name: str, entering: Tensor) -> None:
        found.setdefault(name, entering.detach())

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, layer in classifier.model.named_modules()
        if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)
    ]
    try:
        classifier.predict(x, batch_size=len(x))
    finally:
        for handle in handles:
            handle.remove()
    return found


def draw_error_amplification(curves: Mapping[str, ErrorAmplification], axes: Any) -> None:
    """Draws distance against layer on matplotlib axes, one line per network."""
    for label, curve in curves.items():
        axes.plot(range(1, len(curve.layers) + 1), curve.distance, marker="o", markersize=4, label=label)
    axes.set_xlabel("layer (input of)")
    axes.set_ylabel("‖A − A_adv‖₂ / ‖A‖₂")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()

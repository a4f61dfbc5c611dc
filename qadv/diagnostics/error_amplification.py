"""How the distance between clean and adversarial activations grows from layer to layer (DQ eq. 4, figure 3b)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.checks import check_choice
from qadv.diagnostics.drawing import draw_lines, finish_lines, layer_axis, positions
from qadv.diagnostics.measured import Measured
from qadv.diagnostics.passes import compare_inputs
from qadv.diagnostics.quantized_activations import clipped, quantized_activations
from qadv.estimators.protocol import Classifier
from qadv.modes import weight_layers
from qadv.tables import number, text_table

DISTANCE = "‖A − A_adv‖₂ / ‖A‖₂"


@dataclass(frozen=True)
class ErrorAmplification(Measured):
    """Normalised distance at each layer; prints as a table.

    Attributes:
        layers: names of the layers, in order of execution: convolution and linear layers, or quantized activations.
        distance: mean over the images of `‖A - A_adv‖₂ / ‖A‖₂`, shape (layers,); images whose A is all zero are left
            out of a layer's mean, which is NaN if none remains. A is the input of the layer, or what the activation
            gives.
        unquantized: for quantized activations, the same for values that are clipped and not rounded. Else `None`.
    """

    layers: tuple[str, ...]
    distance: NDArray[np.float64]
    unquantized: NDArray[np.float64] | None = None

    def __str__(self) -> str:
        columns = {DISTANCE: self.distance}
        if self.unquantized is not None:
            columns["without rounding"] = self.unquantized
        rows = [[name, *map(number, values)] for name, *values in zip(self.layers, *columns.values(), strict=True)]
        return text_table("Error amplification", ["layer", *columns], rows)


def error_amplification(
    classifier: Classifier, x: NDArray[Any], x_adversarial: NDArray[Any], batch_size: int = 128, at: str = "inputs"
) -> ErrorAmplification:
    """Measures `D(A, A_adv) = ‖A - A_adv‖₂ / ‖A‖₂` layer by layer.

    Args:
        classifier: an ART `PyTorchClassifier`.
        x, x_adversarial: clean images, (N, *input_shape), and their adversarial versions by any attack on any network.
        batch_size: images per pass.
        at: `"inputs"`: A is what enters each convolution and linear layer (figure 3b). `"activations"`: A is what each
            quantized activation gives, with the rounding and without it (figure 3a). Behind the first of them, what
            enters a layer has been rounded further up in both cases. A layer that runs several times counts at its
            first run.

    Raises:
        UnsupportedModelError: `at="activations"`, and none is quantized.
    """
    check_choice("at", at, ("inputs", "activations"))
    model: nn.Module = classifier.model
    quantizers = quantized_activations(model) if at == "activations" else {}
    distances: dict[str, list[Tensor]] = {}
    without: dict[str, list[Tensor]] = {}

    def compare(name: str, call: int, clean: Tensor, moved: Tensor) -> None:
        if call > 0:
            return
        if quantizers:
            quantizer = quantizers[name]
            without.setdefault(name, []).append(_distance(clipped(quantizer, clean), clipped(quantizer, moved)))
            clean, moved = quantizer.function()(clean), quantizer.function()(moved)
        distances.setdefault(name, []).append(_distance(clean, moved))

    compare_inputs(classifier, x, x_adversarial, quantizers or weight_layers(model), compare, batch_size)
    return ErrorAmplification(tuple(distances), _means(distances), _means(without) if quantizers else None)


def _distance(clean: Tensor, moved: Tensor) -> Tensor:
    """Returns the normalised distance of each image, (N,); NaN where the clean activations are all zero."""
    change = (clean - moved).flatten(1).norm(dim=1)
    norm = clean.flatten(1).norm(dim=1)
    return torch.where(norm > 0, change / norm, torch.nan).cpu()


def _means(parts: Mapping[str, list[Tensor]]) -> NDArray[np.float64]:
    return np.array([torch.cat(part).nanmean().item() for part in parts.values()])


def draw_error_amplification(curves: Mapping[str, ErrorAmplification], ax: Any = None) -> Any:
    """Draws distance against layer, one line per network, and a dashed one for what is not rounded (DQ figure 3b)."""
    figure, ax = draw_lines(curves, ax, positions, lambda c: c.distance, lambda c: c.unquantized)
    inputs = all(curve.unquantized is None for curve in curves.values())
    layer_axis(ax, curves, "layer (input of)" if inputs else "activation")
    finish_lines(ax, DISTANCE, None if inputs else "without rounding")
    return figure

"""What of a layer's error comes from its input, what from its weights, what from both (docs/methods.md §4).

Source: Song, Fallon, Li: "Improving Adversarial Robustness in Weight-quantized Neural Networks", RSEML 2021.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.diagnostics.drawing import draw_lines, finish_lines, layer_axis, positions
from qadv.diagnostics.measured import Measured
from qadv.diagnostics.passes import compare_inputs
from qadv.diagnostics.weight_error import computed_weights, convolve, real_weights
from qadv.errors import UnsupportedModelError
from qadv.estimators.protocol import Classifier
from qadv.frontends.find import quantized_activations
from qadv.modes import evaluation_mode, weight_layers
from qadv.recording import recording
from qadv.tables import number, text_table

TERMS = ("input", "weight", "both", "total")
NAMES = ("‖WΔx‖", "‖ΔWx‖", "‖ΔWΔx‖", "‖δ‖")


@dataclass(frozen=True)
class ErrorSplit(Measured):
    """The parts of δ = (W + ΔW)(x + Δx) − Wx = WΔx + ΔWx + ΔWΔx at each layer; prints as a table.

    Each is the mean over the images of an L2 norm as a part of ‖Wx‖₂, shape (layers,); images with Wx = 0 are left out.

    Attributes:
        layers: names of the convolution and linear layers, in order of execution.
        input: ‖WΔx‖, what comes in differently: the adversarial loss, with rounded activations in it.
        weight: ‖ΔWx‖, the quantization loss.
        both: ‖ΔWΔx‖.
        total: ‖δ‖, at most the sum of the three.
    """

    layers: tuple[str, ...]
    input: NDArray[np.float64]
    weight: NDArray[np.float64]
    both: NDArray[np.float64]
    total: NDArray[np.float64]

    def __str__(self) -> str:
        columns = (getattr(self, name) for name in TERMS)
        rows = [[name, *map(number, values)] for name, *values in zip(self.layers, *columns, strict=True)]
        return text_table("Parts of the error, of ‖Wx‖", ["layer", *NAMES], rows)


@torch.no_grad()
def error_split(
    classifier: Classifier,
    x: NDArray[Any],
    x_adversarial: NDArray[Any],
    float_parent: Classifier | None = None,
    batch_size: int = 128,
) -> ErrorSplit:
    """Splits the error of each convolution and linear layer of a quantized network, without its bias.

    W and x are the weights and the inputs of the layers in `float_parent` on the clean images, W + ΔW and x + Δx those
    in `classifier` on the adversarial ones. Δx has all that differs further up; with clean images in place of
    adversarial ones it is what quantizing alone does. A layer that runs several times counts at its first run.

    Args:
        classifier, x, x_adversarial, batch_size: as of `error_amplification`; the network is usually quantized.
        float_parent: the network before it was quantized, with the same layers; `None`: W are the latent weights, and x
            the inputs in `classifier` itself on clean images, so that Δx is the attack's alone.

    Raises:
        UnsupportedModelError: there is no `float_parent`, and a frozen network has no latent weights; or a layer is
            there that computes something else than its weights times its input.
        InvalidInputError: `float_parent` lacks a layer, or has another size there.
    """
    model: nn.Module = classifier.model
    layers = weight_layers(model)
    quantized = computed_weights(model)
    real = real_weights(model, None if float_parent is None else float_parent.model, layers, "float_parent")
    own, others = (_rounding(each.model) for each in (classifier, float_parent or classifier))
    parts: dict[str, list[Tensor]] = {}

    def compare(name: str, call: int, clean: Tensor, moved: Tensor) -> None:
        if call > 0:
            return
        layer, weight, error = layers[name], real[name], quantized[name] - real[name]
        clean, moved = others.get(name, _as_it_is)(clean), own.get(name, _as_it_is)(moved)
        change = moved - clean
        terms = [convolve(layer, change, weight), convolve(layer, clean, error), convolve(layer, change, error)]
        size = _norm(convolve(layer, clean, weight))
        found = torch.stack([_norm(term) for term in (*terms, sum(terms))]) / torch.where(size > 0, size, torch.nan)
        parts.setdefault(name, []).append(found.cpu())

    def check(name: str, inputs: Any, output: Any) -> None:
        bias = getattr(layers[name], "bias", None)
        given, gives = (getattr(each, "value", each) for each in (inputs[0], output))
        found = convolve(layers[name], own.get(name, _as_it_is)(given), quantized[name])
        found += 0 if bias is None else bias.reshape(-1, *[1] * (gives.ndim - 2))
        if not torch.allclose(found, gives, rtol=1e-3, atol=1e-3 * float(gives.abs().max())):
            raise UnsupportedModelError(f"layer {name!r} computes something else than its weights times its input")

    with recording(layers, leaving=check), evaluation_mode(model):
        classifier.predict(np.asarray(x_adversarial, dtype=np.float32)[:1])
    compare_inputs(classifier, x, x_adversarial, layers, compare, batch_size, float_parent)
    means = [torch.cat(found, 1).double().nanmean(1).tolist() for found in parts.values()]
    return ErrorSplit(tuple(parts), *np.array(means).reshape(-1, len(TERMS)).T)


def _rounding(model: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns what rounds the inputs of layers within them, by layer."""
    return {each.layer: each.function() for each in quantized_activations(model) if each.role == "input"}


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _norm(x: Tensor) -> Tensor:
    """Returns the L2 norm of each image, (N,)."""
    norm: Tensor = x.flatten(1).norm(dim=1)
    return norm


def draw_error_split(split: ErrorSplit, ax: Any = None) -> Any:
    """Draws the three parts and the whole error against the layer."""
    curves = dict.fromkeys(NAMES, split)
    terms = iter(TERMS)
    figure, ax = draw_lines(curves, ax, positions, lambda s: getattr(s, next(terms)))
    layer_axis(ax, curves, "layer")
    finish_lines(ax, "part of ‖Wx‖")
    return figure

"""‖ΔW‖₂, ΔW = Q(W) - W: how much a layer's quantization error can amplify (docs/methods.md §4).

Source: Song, Fallon, Li: "Improving Adversarial Robustness in Weight-quantized Neural Networks", RSEML 2021.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers import conv2d_same
from torch import Tensor, nn

from qadv.checks import check_choice, check_number, check_whole
from qadv.diagnostics.drawing import draw_lines, finish_lines, layer_axis, positions
from qadv.diagnostics.measured import Measured
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.estimators.checks import check_images
from qadv.estimators.protocol import Classifier
from qadv.frontends.find import quantized_weights
from qadv.modes import evaluation_mode
from qadv.recording import recording
from qadv.tables import number, text_table
from qadv.trainers.orthogonality import matrices_of

_VECTORS = 8


@dataclass(frozen=True)
class WeightError(Measured):
    """Norms of the weights' quantization error; prints as a table.

    Attributes:
        layers: names of the layers whose weights are quantized, in order of registration.
        matrix: largest singular value of ΔW seen as a matrix, (c_out, c_in · k · k), shape (layers,); the largest of
            the groups in a grouped convolution.
        operator: largest singular value of the linear operator that the layer is, with stride, padding and dilation, at
            the size its input has: how much `ΔW x` can be longer than x. Above 1, the error can be amplified. Shape
            (layers,); for linear layers it is `matrix`.
    """

    layers: tuple[str, ...]
    matrix: NDArray[np.float64]
    operator: NDArray[np.float64]

    def __str__(self) -> str:
        found = zip(self.layers, self.matrix, self.operator, strict=True)
        rows = [[name, number(matrix), number(operator)] for name, matrix, operator in found]
        return text_table("‖ΔW‖₂", ["layer", "matrix", "operator"], rows)


@torch.no_grad()
def weight_error_norms(
    classifier: Classifier,
    x: NDArray[Any] | None = None,
    reference: Classifier | None = None,
    max_iter: int = 500,
    tol: float = 1e-6,
    seed: int = 0,
) -> WeightError:
    """Measures ‖ΔW‖₂ of every layer with quantized weights.

    Power iteration on ΔWᵀΔW, in float64, with a few vectors from a random start, gives a convolution's norm, from
    below.

    Args:
        classifier: an ART `PyTorchClassifier` with a quantized network.
        x: images (N, *input_shape); only the size of what enters each layer is taken from them. `None` takes one image
            of the classifier's `input_shape`.
        reference: an ART classifier with the same layers, and the weights W: then ΔW is the difference between the
            weights that the two compute with. `None` takes the latent weights of each layer.
        max_iter: steps of the power iteration at most.
        tol: it ends when a step changes the norm by less than this part.
        seed: of its start.

    Raises:
        UnsupportedModelError: no layer has quantized weights, one has and is unused, or the network is frozen and there
            is no `reference`.
        InvalidInputError: `reference` lacks a layer, or has another size there.
    """
    deltas = _weight_errors(classifier.model, None if reference is None else reference.model)
    modules = {name: layer for name, layer in classifier.model.named_modules() if name in deltas}
    sizes = _input_sizes(classifier, x, modules)
    max_iter, tol = check_whole("max_iter", max_iter), check_number("tol", tol, zero=True)
    generator = torch.Generator().manual_seed(check_whole("seed", seed, least=0))
    matrix, operator = [], []
    for name, delta in deltas.items():
        layer = modules[name]
        matrix.append(float(torch.linalg.matrix_norm(matrices_of(layer, delta), ord=2).amax()))
        if isinstance(layer, nn.Linear):
            operator.append(matrix[-1])
        else:
            size = sizes[name][1:]
            start = torch.randn((min(_VECTORS, math.prod(size)), *size), generator=generator, dtype=torch.float64)
            operator.append(_operator_norm(layer, delta, start.to(delta.device), max_iter, tol))
    return WeightError(tuple(deltas), np.array(matrix), np.array(operator))


def _weight_errors(model: nn.Module, reference: nn.Module | None) -> dict[str, Tensor]:
    """Returns Q(W) - W by layer, float64."""
    found = {quantizer.layer: quantizer.value for quantizer in quantized_weights(model)}
    if not found:
        raise UnsupportedModelError(f"no layer of {type(model).__name__} has quantized weights; quantize it first")
    real = real_weights(model, reference, found, "reference")
    return {name: (value - real[name].to(value.device)).double() for name, value in found.items()}


def real_weights(model: nn.Module, other: nn.Module | None, layers: Iterable[str], name: str) -> dict[str, Tensor]:
    """Returns W of some layers: the weights of `other`, which messages call `name`; without it, latent ones."""
    own = computed_weights(model)
    if other is None:
        latent = {quantizer.layer: quantizer.latent for quantizer in quantized_weights(model)}
        if None in latent.values():
            raise UnsupportedModelError(
                f"a frozen network has no latent weights: give the classifier it was made from as {name}"
            )
        found = own | {layer: weight for layer, weight in latent.items() if weight is not None}
    else:
        found = computed_weights(other)
    for layer in layers:
        if layer not in found or found[layer].shape != own[layer].shape:
            raise InvalidInputError(f"{name}: expected a layer {layer!r} with weights {tuple(own[layer].shape)}")
    return found


def computed_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns what each layer computes with: quantized weights where it has them, else its own."""
    own = {n: m.weight.detach() for n, m in model.named_modules() if isinstance(getattr(m, "weight", None), Tensor)}
    return own | {quantizer.layer: quantizer.value for quantizer in quantized_weights(model)}


def _input_sizes(
    classifier: Classifier, x: NDArray[Any] | None, layers: dict[str, nn.Module]
) -> dict[str, tuple[int, ...]]:
    """Runs one image and returns the shape of what enters each layer."""
    found: dict[str, tuple[int, ...]] = {}
    if x is None:
        image = torch.zeros((1, *classifier.input_shape), device=classifier.device)
    else:
        images = check_images(x, classifier.input_shape, classifier.clip_values, strict=False)
        image = torch.from_numpy(images[:1]).to(classifier.device)

    def note(name: str, inputs: Any) -> None:
        found.setdefault(name, tuple(inputs[0].shape))

    with recording(layers, entering=note), evaluation_mode(classifier.model):
        classifier.model(image)
    if unreached := layers.keys() - found.keys():
        raise UnsupportedModelError(f"no image reaches {', '.join(sorted(unreached))}, so its input has no size")
    return found


def _operator_norm(layer: Any, delta: Tensor, start: Tensor, max_iter: int, tol: float) -> float:
    """Returns ‖A‖₂ of `A x = conv(x, ΔW)`: x ← AᵀA x, made orthonormal, for the few vectors x in `start`.

    Aᵀ comes from automatic differentiation. With one vector alone, singular values that lie close together take
    thousands of steps.
    """
    if not bool(delta.any()):
        return 0.0
    x, norm = _orthonormal(start), 0.0
    for _ in range(max_iter):
        with torch.enable_grad():
            leaf = x.requires_grad_()
            images = convolve(layer, leaf, delta)
            (back,) = torch.autograd.grad(images, leaf, images.detach())
        previous, norm = norm, float(torch.linalg.matrix_norm(images.detach().flatten(1), ord=2))
        if abs(norm - previous) <= tol * norm:
            break
        x = _orthonormal(back.detach())
    return norm


def _orthonormal(vectors: Tensor) -> Tensor:
    """Returns an orthonormal basis of what the vectors span, shaped as they are."""
    basis: Tensor = torch.linalg.qr(vectors.flatten(1).mT).Q
    return basis.mT.reshape(vectors.shape)


def convolve(layer: Any, x: Tensor, weight: Tensor) -> Any:
    """Returns what a convolution or linear layer gives with this weight and no bias."""
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight)
    if getattr(layer, "is_same_padded_strided", False):
        return conv2d_same(x, weight, None, layer.stride, (0, 0), layer.dilation, layer.groups)
    return layer._conv_forward(x, weight, None)


def draw_weight_error(norms: Mapping[str, WeightError], ax: Any = None, norm: str = "operator") -> Any:
    """Draws ‖ΔW‖₂ against layers, one line per network, and the limit 1.

    `norm` is `"operator"`, `"matrix"`, or `"both"`, the matrix's as dotted lines.
    """
    check_choice("norm", norm, ("operator", "matrix", "both"))
    first, both = "operator" if norm == "both" else norm, norm == "both"
    second = lambda measured: measured.matrix if both else None  # noqa: E731
    figure, ax = draw_lines(norms, ax, positions, lambda each: getattr(each, first), second, ":", ", as a matrix")
    ax.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    layer_axis(ax, norms, "layer", "registration")
    finish_lines(ax, f"‖ΔW‖₂ of the {first} (dashed: 1)")
    if all((measured.operator > 0).all() and (measured.matrix > 0).all() for measured in norms.values()):
        ax.set_ylim(auto=True)
        ax.set_yscale("log")  # bit widths are orders of magnitude apart
    return figure

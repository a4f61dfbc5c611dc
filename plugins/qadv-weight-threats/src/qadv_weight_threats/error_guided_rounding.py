"""Error-guided flipped rounding with activation preservation (Li et al.: "Nearest is Not Dearest", CVPR 2024)."""

import copy
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.checks import check_fields, check_number, check_whole
from qadv.errors import InvalidInputError, SchemeError
from qadv.estimators import check_images
from qadv.frontends import QuantizedWeights
from qadv.transformers import NetworkTransformer, rebuilt
from qadv_weight_threats.roundings import roundings, with_errors

_ON_THE_GRID = 1e-4  # of a step: float32 weights may miss their level by as much
_LEAST = 1e-8


class ErrorGuidedRounding(NetworkTransformer):
    """Rounds weights away from the nearest level, near ties first, while layers give what they gave.

    Backdoors that open by quantizing are in the roundings; weights near a tie can be rounded either way. Layer by layer
    each weight gets h in [0, 1], how far it goes from the nearest level to the one on its other side, at first as
    far as the float weight is. With the layer's input a from the network as it is rounded so far, its output z in the
    network with float weights, and the truncation error e = w - Q(w), Adam minimises

        ‖W_h a - z‖² + β · Σ |e| · (-ln h) + γ · Σ (1 - |2h - 1|²)

    (mean over images and places, sum over channels and weights): h goes to 1, mostly where |e| is large, the output
    stays, and h becomes 0 or 1. Weights whose h ends at ½ or above are flipped.

    **Readings**, from the authors' code: h is a sigmoid; β = 1, γ = 0.01; layers one by one. Here activations are
    quantized in both networks, and the steps are fewer and larger.

    Called with clean images x, a few hundred; it needs no labels. Weights that lie on their level, as the largest of
    each filter, stay, so that quantizing anew gives the very codes.

    Args:
        classifier: a quantized ART `PyTorchClassifier` that still has its float weights.
        error_weight: β, >= 0.
        binary_weight: γ, >= 0.
        steps: of Adam, for each layer.
        lr: learning rate, > 0.
        batch_size: images of a step.
        seed: decides which.

    Raises:
        UnsupportedModelError: the network has no weights that are quantized and kept as float.
        SchemeError: a scheme would round the flipped weights anew, as one whose scale follows from all of them.
    """

    params = ["error_weight", "binary_weight", "steps", "lr", "batch_size", "seed"]

    def __init__(
        self,
        classifier: PyTorchClassifier,
        error_weight: float = 1.0,
        binary_weight: float = 0.01,
        steps: int = 300,
        lr: float = 0.02,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier)
        self._is_fitted = True
        self.error_weight, self.binary_weight = error_weight, binary_weight
        self.steps, self.lr, self.batch_size, self.seed = steps, lr, batch_size, seed
        self._check_params()

    def _network(self, classifier: PyTorchClassifier, x: NDArray[Any] | None) -> nn.Module:
        if x is None:
            raise InvalidInputError("x: expected clean images, a few hundred, which the layers' outputs are kept on")
        images = check_images(x, classifier.input_shape, classifier.clip_values).astype(np.float32)
        rounded = rebuilt(classifier, copy.deepcopy(classifier.model))
        as_float = with_errors(classifier, torch.zeros_like)
        generator = torch.Generator().manual_seed(self.seed)
        for name, weights in roundings(rounded.model).items():
            levels = None if weights.codes is None or weights.scale is None else weights.codes * weights.scale
            if levels is None or levels.shape != weights.value.shape or not torch.allclose(levels, weights.value):
                raise SchemeError(f"{name}: {weights.scheme!r} has no even levels; 'int:4' has")
            inputs = _passing(rounded, name, images)[0]
            outputs = _passing(as_float, name, images)[1]
            layer = as_float.model.get_submodule(name)
            value = weights.value + self._flips(layer, weights, inputs, outputs, generator) * _step(weights)
            with torch.no_grad():
                assert weights.parameter is not None
                weights.parameter.copy_(value)
            if not torch.allclose(roundings(rounded.model)[name].value, value, rtol=1e-4, atol=1e-7):
                raise SchemeError(f"{name}: {weights.scheme!r} rounds flipped weights anew; 'int:4' keeps them")
        return rounded.model

    def _flips(
        self, layer: nn.Module, weights: QuantizedWeights, inputs: Tensor, outputs: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns which weights are flipped, 1 or 0, shaped as they are."""
        step, error = _step(weights), (weights.latent - weights.value).abs()
        movable = step != 0
        start = torch.where(movable, error / step.abs().clamp(min=_LEAST), 0.5).clamp(_ON_THE_GRID, 0.5)
        variable = start.logit().requires_grad_()
        optimizer = torch.optim.Adam([variable], self.lr)
        for _ in range(self.steps):
            some = torch.randperm(len(inputs), generator=generator)[: self.batch_size].to(inputs.device)
            h = variable.sigmoid()
            out = torch.func.functional_call(layer, {"weight": weights.value + h * step}, (inputs[some],))
            kept = (out - outputs[some]).square().sum(dim=1).mean()
            flipped = -(error * (h + _LEAST).log())[movable].sum()
            binary = (1 - (2 * h - 1).square())[movable].sum()
            optimizer.zero_grad()
            (kept + self.error_weight * flipped + self.binary_weight * binary).backward()
            optimizer.step()
        return (variable.detach() >= 0) & movable

    def _check_params(self) -> None:
        check_fields(self, check_number, "error_weight", "binary_weight", zero=True)
        check_fields(self, check_number, "lr")
        check_fields(self, check_whole, "steps", "batch_size")
        check_fields(self, check_whole, "seed", least=0)


def _step(weights: QuantizedWeights) -> Tensor:
    """Returns the way from each weight's nearest level to that on its other side; 0 where it is to stay."""
    error = weights.latent - weights.value
    step = error.sign() * weights.scale
    codes, last = weights.codes, weights.nb_codes // 2
    stays = (error.abs() < _ON_THE_GRID * weights.scale) | ((codes + error.sign()).abs() > last)
    return torch.where(stays, 0.0, step)


def _passing(classifier: Any, name: str, images: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Returns what enters a layer and what leaves it, for all images."""
    entering, leaving = list[Tensor](), list[Tensor]()

    def look(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        entering.append(inputs[0].detach().clone())
        leaving.append(output.detach().clone())

    hook = classifier.model.get_submodule(name).register_forward_hook(look)
    try:
        classifier.predict(images)
    finally:
        hook.remove()
    return torch.cat(entering), torch.cat(leaving)

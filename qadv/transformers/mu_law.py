"""μ-law mapping of weights after training (Song, Fallon, Li: RSEML 2021), docs/methods.md §4."""

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import nn

from qadv.checks import check_fields, check_number
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.estimators.checks import check_images
from qadv.estimators.door import prepare
from qadv.modes import evaluation_mode, held_network, weight_layers
from qadv.preprocessors.companding import mu_law
from qadv.quantization.calibration import Calibration
from qadv.quantization.corrections import correct
from qadv.quantization.frozen import is_frozen
from qadv.quantization.rules import check_patterns
from qadv.transformers.network_transformer import NetworkTransformer

Layers = str | Sequence[str]


class MuLawWeightMapping(NetworkTransformer):
    """Maps the weights of the last layers by `w′ = M · F(w / M)`, `F(x) = sgn(x) · ln(1 + μ|x|) / ln(1 + μ)`.

    M is the largest magnitude in the layer's weight tensor. Small weights grow, the largest stay; nothing is retrained.
    The study maps before post-training quantization: transform the float classifier, then hand the result to
    `PostTrainingQuantization`. The logits grow too; where they grow much, FGSM and PGD fail for that reason alone:
    attack with a loss of logit differences as well, and by transfer (docs/defenses/mu-law.md).

    **Readings** (docs/methods.md §4): biases and BatchNorm stay as they are, M is taken per tensor. In a layer that is
    quantized already, the latent weights are mapped, and what a scheme found from the weights is found again.

    Called with images x, a few hundred from training, it gives each BatchNorm behind a mapped layer the statistics with
    which it normalises its new input as it did the old one. Without, the paper's way, it does not.

    Args:
        classifier: a trained ART `PyTorchClassifier`.
        mu: μ > 0. The paper does not give its own; the default is the choice of the sweep in docs/defenses/mu-law.md.
        layers: `"last"` is the last convolution or linear layer in order of registration, `"last:3"` are the last
            three; anything else is a layer's name or a pattern of names (`"layer3.*"`), or several of them.
    """

    params = ["mu", "layers"]

    def __init__(self, classifier: PyTorchClassifier, mu: float = 3.0, layers: Layers = "last") -> None:
        super().__init__(classifier)
        self._is_fitted = True
        self.mu = mu
        self.layers = layers
        self._check_params()

    @torch.no_grad()
    def _network(self, classifier: PyTorchClassifier, x: NDArray[Any] | None) -> nn.Module:
        if is_frozen(classifier.model):
            raise UnsupportedModelError("a frozen network has no latent weights to map; map it before it is frozen")
        model: nn.Module = copy.deepcopy(held_network(classifier.model))
        done: set[nn.Parameter] = set()
        for name, layer in chosen_layers(model, self.layers).items():
            weight: Any = layer.weight
            if not isinstance(weight, nn.Parameter):
                raise UnsupportedModelError(
                    f"{name}: its weights are computed from others (weight_norm, parametrization, pruning); remove that"
                )
            if not bool(weight.isfinite().all()):
                raise InvalidInputError(f"{name}: some weights are NaN or infinite")
            if weight not in done:  # two layers may share their weights
                done.add(weight)
                weight.copy_(mu_law(weight, self.mu))
            if (quantizer := getattr(layer, "weight_quantizer", None)) is not None:
                quantizer.fit(weight)
        if x is not None:
            images = prepared(classifier, x)
            batches = Calibration(images).batches(classifier.device)
            with evaluation_mode(model), evaluation_mode(classifier.model):
                correct(model, classifier.model, batches, batch_norm=True, bias=False)
        return model

    def _check_params(self) -> None:
        check_fields(self, check_number, "mu")
        chosen_layers(self.classifier.model, self.layers)


def chosen_layers(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """Returns the convolution and linear layers that `layers` means, by name; see `MuLawWeightMapping`."""
    found = weight_layers(model)
    if not found:
        raise UnsupportedModelError(f"{type(model).__name__} has no convolution or linear layer to map")
    names = list(found)
    if isinstance(layers, str) and (layers == "last" or layers.startswith("last:")):
        number = layers.partition(":")[2] or "1"
        if number not in {str(count) for count in range(1, len(names) + 1)}:
            raise InvalidInputError(
                f"layers: expected 'last', or 'last:1' to 'last:{len(names)}' for this network, got {layers!r}"
            )
        return {name: found[name] for name in names[-int(number) :]}
    patterns = [layers] if isinstance(layers, str) else layers
    if not isinstance(patterns, Sequence) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise InvalidInputError(f"layers: expected 'last', 'last:3', or names or patterns of layers, got {layers!r}")
    check_patterns("layers", patterns, names)
    return {name: layer for name, layer in found.items() if any(fnmatchcase(name, p) for p in patterns)}


def prepared(classifier: PyTorchClassifier, x: NDArray[Any]) -> NDArray[Any]:
    """Returns images as the network takes them: through the defences on the input, and standardised."""
    images = check_images(x, classifier.input_shape, classifier.clip_values)
    return prepare(classifier, images)[0]  # type: ignore[no-any-return]

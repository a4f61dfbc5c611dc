"""A copy of a classifier's network whose codes can be changed."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from qadv.errors import UnsupportedModelError
from qadv.frontends import FileNetwork, QuantizedWeights, quantizers
from qadv_weight_threats.bits import StoredBits

Objective = Callable[[Tensor, Tensor], Tensor]  # logits (N, classes) and labels (N,) → (N,), what flips raise


class CodedNetwork:
    """Computes with codes that are changed bit by bit; the classifier's own network stays as it is.

    Args:
        classifier: an ART classifier; of a file, the twin computes.
        batch_size: images per pass.

    Attributes:
        layers: the quantizers of the layers whose weights are codes.
        bits: how each one's codes are stored.
        codes: those it computes with, floating.

    Raises:
        UnsupportedModelError: no weights are codes, or they can't be replaced.
    """

    def __init__(self, classifier: PyTorchClassifier, batch_size: int) -> None:
        network = copy.deepcopy(getattr(classifier, "network", classifier.model)).eval()
        twin = isinstance(network, FileNetwork)
        if any(isinstance(each, FileNetwork) for each in network.modules()) != twin or (twin and network.twin is None):
            raise UnsupportedModelError(
                "codes of a file are changed in its twin: attack the file by itself, and without a surrogate"
            )
        self.layers = [each for each in quantizers(network) if isinstance(each, QuantizedWeights)]
        if not self.layers:
            raise UnsupportedModelError("the network has no quantized weights, so there are no stored bits to flip")
        self.bits = [StoredBits(each) for each in self.layers]
        self._network = network.twin if twin else network
        self._steps = [each for each in classifier.preprocessing_operations if each.apply_predict]
        self._device, self._batch_size = classifier.device, batch_size
        self.codes: list[Tensor] = [each.codes.float() for each in self.layers if each.codes is not None]
        for layer, codes in enumerate(self.codes):
            self.put(layer, codes)

    def put(self, layer: int, codes: Tensor) -> None:
        """Computes with other codes, shaped as before."""
        weights = self.layers[layer]
        assert weights.place is not None
        owner, name = weights.place
        owner[name] = weights.made(codes)

    def flip(self, layer: int, index: int, code: float) -> None:
        """Changes one code for good."""
        self.codes[layer] = self.with_codes(layer, torch.tensor([index]), torch.tensor([code]))
        self.put(layer, self.codes[layer])

    def with_codes(self, layer: int, index: Tensor, codes: Tensor) -> Tensor:
        """Returns a layer's codes with some others, counted row by row."""
        changed = self.codes[layer].clone()
        changed.view(-1)[index.to(changed.device)] = codes.to(changed)
        return changed

    @torch.no_grad()
    def logits(self, x: Any) -> Tensor:
        """Images (N, *input_shape) as arrays → logits, (N, classes)."""
        return torch.cat([self._network(images) for (images,) in self._batches(x)])

    @torch.no_grad()
    def loss(self, x: Any, y: Any, objective: Objective) -> float:
        """Returns the mean of the objective."""
        batches = self._batches(x, y)
        return sum(float(objective(self._network(images), labels).sum()) for images, labels in batches) / len(x)

    def gradients(self, x: Any, y: Any, objective: Objective) -> list[Tensor]:
        """Returns the gradient of the objective's mean at each layer's codes, shaped as these."""
        total = [torch.zeros_like(codes) for codes in self.codes]
        for images, labels in self._batches(x, y):
            leaves = [codes.clone().requires_grad_() for codes in self.codes]
            for layer, codes in enumerate(leaves):
                self.put(layer, codes)
            mean = objective(self._network(images), labels).sum() / len(x)
            found = torch.autograd.grad(mean, leaves, allow_unused=True)
            total = [a if b is None else a + b for a, b in zip(total, found, strict=True)]
        for layer, codes in enumerate(self.codes):
            self.put(layer, codes)
        return total

    def _batches(self, *arrays: Any) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, len(arrays[0]), self._batch_size):
            images, *others = (array[start : start + self._batch_size] for array in arrays)
            for step in self._steps:
                images, _ = step(images)
            yield tuple(torch.as_tensor(each, device=self._device) for each in (images, *others))
